"""Public texts for the recipes: a file texts/NAME.jsonl.gz for each name, with one document {id, title, text} per line.

    python recipes/fetch.py encyclopedia-en news-en code-python
    python recipes/fetch.py glue

`glue` writes the sets of sentence pairs to tasks/glue. Data sets of the hub need `pip install '.[datasets]'`; they are
streamed, and only as many documents are read as the recipes need. Licences are those of the sources, which are listed
in recipes/README.md.
"""

import argparse
import csv
import gzip
import io
import itertools
import json
import re
import sys
import tarfile
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modernbert.errors import DataError, ModernBertError
from modernbert.files import atomic_write
from modernbert.installation import install_command

Document = dict[str, str]


@dataclass(frozen=True)
class Hub:
    """Documents of a data set of the hub, in its order."""

    name: str
    limit: int
    subset: str | None = None
    split: str = "train"
    make: Callable[[dict[str, Any]], str | None] = lambda row: row["text"]  # None: skip the row

    def documents(self) -> Iterator[Document]:
        kept = ((row, text) for row in _stream(self.name, self.subset, self.split) if (text := self.make(row)))
        for number, (row, text) in enumerate(itertools.islice(kept, self.limit)):
            yield {"id": f"{self.name}/{number}", "title": str(row.get("title") or ""), "text": text}


@dataclass(frozen=True)
class Archive:
    """The files of a tar archive whose path matches, each a document."""

    address: str
    pattern: str

    def documents(self) -> Iterator[Document]:
        with _opened(self.address) as stream, tarfile.open(fileobj=stream, mode="r|*") as archive:
            for member in archive:
                if member.isfile() and re.search(self.pattern, member.name):
                    content = archive.extractfile(member)
                    assert content is not None, "it is a file"
                    text = content.read().decode("utf-8", "replace").strip()
                    if text:
                        yield {"id": member.name, "title": member.name.rpartition("/")[2], "text": text}


def _lead(row: dict[str, Any]) -> str | None:
    """The paragraphs before the first heading of an article, if they are long enough for training."""
    lead = row["text"].split("\n\n", 1)[0].strip()
    return lead if len(lead) >= 200 else None


def _modern_spelling(row: dict[str, Any]) -> str | None:
    return row["text"] if row["meta"]["文字遣い種別"] == "新字新仮名" else None


SOURCES: dict[str, Hub | Archive] = {
    "encyclopedia-en": Hub("wikimedia/wikipedia", 27_400, subset="20231101.en"),
    "encyclopedia-leads-en": Hub("wikimedia/wikipedia", 9_400, subset="20231101.en", make=_lead),
    "news-en": Hub("vblagoje/cc_news", 19_400),
    "books-en": Hub("manu/project_gutenberg", 94, split="en"),
    "docs-python-en": Archive("https://docs.python.org/3.11/archives/python-3.11.7-docs-text.tar.bz2", r"\.txt$"),
    "docs-linux-en": Archive(
        "https://cdn.kernel.org/pub/linux/kernel/v6.x/linux-6.1.tar.xz", r"^linux-6\.1/Documentation/.*\.rst$"
    ),
    "code-python": Archive("https://www.python.org/ftp/python/3.11.7/Python-3.11.7.tar.xz", r"^[^/]+/Lib/.*\.py$"),
    "literature-ja": Hub("globis-university/aozorabunko-clean", 810, make=_modern_spelling),
    "docs-ja": Hub("wikimedia/wikipedia", 900, subset="20231101.ja"),  # instead of manual pages
}


def fetch(name: str, folder: Path) -> Path:
    """Write the documents of a source, unless the file exists."""
    path = folder / f"{name}.jsonl.gz"
    if path.exists():
        print(f"{path}: exists already")
        return path
    count = 0
    with atomic_write(path) as partial, gzip.open(partial, "wt", encoding="utf-8") as lines:
        for document in SOURCES[name].documents():
            lines.write(json.dumps(document, ensure_ascii=False) + "\n")
            count += 1
        if not count:
            raise DataError(f"{name} has no documents; its source may have changed: {SOURCES[name]}.")
    print(f"{path}: {count:,} documents")
    return path


def fetch_glue(folder: Path) -> None:
    """The sets of pairs in the format of GLUE: MRPC and RTE from the hub, STS-B from its archive."""
    columns = {
        "MRPC": ("mrpc", ("Quality", "#1 String", "#2 String")),
        "RTE": ("rte", ("label", "sentence1", "sentence2")),
    }
    for task, (subset, header) in columns.items():
        for split, name in (("train", "train"), ("validation", "dev")):
            rows = _stream("nyu-mll/glue", subset, split)
            values = ((row["label"], row["sentence1"], row["sentence2"]) for row in rows)
            _write_tsv(folder / task / f"{name}.tsv", header, values)
    with _opened("https://dl.fbaipublicfiles.com/glue/data/STS-B.zip") as stream:
        archive = zipfile.ZipFile(io.BytesIO(stream.read()))
    for name in ("train.tsv", "dev.tsv"):
        with atomic_write(folder / "STS-B" / name) as partial:
            partial.write_bytes(archive.read(f"STS-B/{name}"))
    print(f"{folder}: MRPC, RTE, STS-B")


def _write_tsv(path: Path, header: tuple[str, ...], rows: Iterator[tuple[Any, ...]]) -> None:
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(tuple(re.sub(r"\s+", " ", str(value)) for value in row) for row in rows)


def _stream(name: str, subset: str | None, split: str) -> Iterator[dict[str, Any]]:
    try:
        from datasets import load_dataset
    except ImportError:
        raise DataError(f"Data sets of the hub need the package datasets: {install_command('datasets')}.") from None
    try:
        yield from load_dataset(name, subset, split=split, streaming=True)
    except (OSError, ValueError) as error:
        raise DataError(f"The data set {name} cannot be read: {error}") from error


def _opened(address: str) -> Any:
    try:
        return urllib.request.urlopen(address, timeout=60)
    except OSError as error:
        raise DataError(f"{address} cannot be read: {error}") from error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names", nargs="+", choices=[*SOURCES, "glue"], metavar="NAME", help=", ".join([*SOURCES, "glue"])
    )
    parser.add_argument("--folder", type=Path, default=Path("texts"), help="output folder of the texts")
    parser.add_argument("--tasks", type=Path, default=Path("tasks"), help="output folder of glue")
    given = parser.parse_args()
    try:
        for name in given.names:
            if name == "glue":
                fetch_glue(given.tasks / "glue")
            else:
                fetch(name, given.folder)
    except ModernBertError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
