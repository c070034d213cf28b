"""Test collections: documents, queries, and which documents are relevant to which query.

`read_collection` tells the kind of a folder by its files: BEIR (JSON lines or Parquet, as NanoBEIR has it), MLDR, and
the classic forms of TREC and SMART (see `classic_collections`).
"""

import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modernbert.errors import DataError
from modernbert.text.records import Origin, Record, RejectedRecord, Source, read_records

logger = logging.getLogger(__name__)

Judgements = dict[str, dict[str, int]]  # grade of each judged document of each query; above 0 is relevant


@dataclass(frozen=True)
class Document:
    """A title, which may be empty, and a text, which may be empty where there is a title."""

    title: str
    text: str

    @property
    def content(self) -> str:
        """Title and text, as a model reads them."""
        return f"{self.title} {self.text}".strip()


@dataclass(frozen=True, eq=False)
class Collection:
    """Documents and queries by their names. Only queries with a relevant document are among them."""

    name: str
    documents: Mapping[str, Document]
    queries: Mapping[str, str]
    judgements: Judgements
    skipped: Mapping[str, int] = field(default_factory=dict)  # what was left out, counted by its reason

    def relevant(self, query: str) -> list[str]:
        """The names of the relevant documents of a query."""
        return [name for name, grade in self.judgements[query].items() if grade > 0]

    def only(self, queries: list[str]) -> "Collection":
        """The same documents with some of the queries."""
        return Collection(
            self.name,
            self.documents,
            {name: self.queries[name] for name in queries},
            {name: self.judgements[name] for name in queries},
            self.skipped,
        )


@dataclass(frozen=True)
class Judgement:
    """One line of qrels."""

    query: str
    document: str
    grade: int
    origin: Origin


class Builder:
    """Puts a collection together. What is bad is an error, or with `skip_bad` left out and counted."""

    def __init__(self, name: str, skip_bad: bool = False) -> None:
        self.name, self.skip_bad = name, skip_bad
        self.skipped: Counter[str] = Counter()
        self._documents: dict[str, Document] = {}
        self._queries: dict[str, str] = {}
        self._judgements: list[Judgement] = []
        self._dropped: set[str] = set()

    def bad(self, bad: RejectedRecord) -> None:
        """Leave something out, or raise.

        Raises:
            DataError: unless `skip_bad`.
        """
        if not self.skip_bad:
            raise bad.error()
        self.skipped[bad.reason] += 1

    def document(self, name: str, title: str, text: str, origin: Origin) -> None:
        if name in self._documents:
            self.bad(
                RejectedRecord("document twice", f"the document {name!r} is there twice; remove one of them.", origin)
            )
        elif not (title.strip() or text.strip()):
            self._dropped.add(name)
            self.bad(
                RejectedRecord(
                    "empty passage", f"the document {name!r} is empty; give it a text, or remove it.", origin
                )
            )
        else:
            self._documents[name] = Document(" ".join(title.split()), text.strip())

    def query(self, name: str, text: str, origin: Origin) -> None:
        if name in self._queries:
            self.bad(RejectedRecord("query twice", f"the query {name!r} is there twice; remove one of them.", origin))
        elif not text.strip():
            self.bad(
                RejectedRecord("empty query", f"the query {name!r} is empty; give it a text, or remove it.", origin)
            )
        else:
            self._queries[name] = " ".join(text.split())

    def judgement(self, judgement: Judgement) -> None:
        self._judgements.append(judgement)

    def documents(self) -> dict[str, Document]:
        """The documents, whatever is judged.

        Raises:
            DataError: there is none.
        """
        if not self._documents:
            raise DataError(f"{self.name} has no document.")
        return self._documents

    def build(self) -> Collection:
        """The collection of the queries that are judged.

        Raises:
            DataError: a judgement names what is not there, a judged query has no relevant document, or nothing is left.
        """
        judged: Judgements = {}
        first: dict[str, Origin] = {}
        for one in self._judgements:
            if one.query not in self._queries:
                self.bad(_unknown("query", one.query, one.origin))
            elif one.document not in self._documents:
                if one.document not in self._dropped:  # an empty one has been counted already
                    self.bad(_unknown("document", one.document, one.origin))
            else:
                first.setdefault(one.query, one.origin)
                judged.setdefault(one.query, {})[one.document] = one.grade
        for name in list(judged):
            if not any(grade > 0 for grade in judged[name].values()):
                sentence = f"the query {name!r} has no relevant document; judge one above 0, or remove the query."
                self.bad(RejectedRecord("query without positives", sentence, first[name]))
                del judged[name]
        if not judged:
            raise DataError(
                f"{self.name} has no query with a relevant document; see that qrels and queries belong together."
            )
        if self.skipped:
            shown = ", ".join(f"{count:,} for {reason}" for reason, count in self.skipped.items())
            logger.warning("%s: left out %s.", self.name, shown)
        queries = {name: self._queries[name] for name in self._queries if name in judged}
        return Collection(self.name, self._documents, queries, {q: judged[q] for q in queries}, dict(self.skipped))


def _unknown(kind: str, name: str, origin: Origin) -> RejectedRecord:
    return RejectedRecord(
        f"unknown {kind}", f"there is no {kind} {name!r}; remove the judgement, or add the {kind}.", origin
    )


def read_collection(source: str | Path, split: str = "test", *, skip_bad: bool = False) -> Collection:
    """The collection in a folder, or of the hub by its name (`zeta-alpha-ai/NanoSciFact`, `Shitao/MLDR:en`).

    `split` chooses the judgements, where there are several.

    Raises:
        DataError: there is none, or what is in its files does not fit together, with file and line.
    """
    builder = Builder(str(source), skip_bad)
    _read(source, split, builder)
    return builder.build()


def read_documents(source: str | Path, *, skip_bad: bool = False) -> dict[str, Document]:
    """The documents alone: of a collection, judged or not, or of files with a column `text` and perhaps `title`.

    Raises:
        DataError: there are none, or one is empty or twice there, with file and line.
    """
    builder = Builder(str(source), skip_bad)
    if Path(source).is_dir():
        _read(source, None, builder)
    else:
        for record in _records(str(source), builder):
            title, text = (str(record.values.get(name) or "") for name in ("title", "text"))
            names = (record.values.get(name) for name in ("_id", "id", "docid"))
            name = next((str(found) for found in names if found is not None), str(record.origin))
            builder.document(name, title, text, record.origin)
    return builder.documents()


def _read(source: str | Path, split: str | None, builder: Builder) -> None:
    """Everything of a folder; without `split` the documents."""
    folder = Path(source)
    if not folder.exists():
        folder = hub_folder(str(source), split or "test")
    if not folder.is_dir():
        raise DataError(
            f"{source} is no folder; give one with corpus.jsonl, queries.jsonl and qrels, or of TREC or SMART."
        )
    if _one(folder, "corpus") and (split is None or _one(folder, "queries")):
        _read_beir(folder, split, builder)
    elif split is not None and _one(folder, "corpus") and _one(folder, split):
        _read_mldr(folder, split, builder)
    else:
        from modernbert.text.classic_collections import read_classic

        read_classic(folder, builder, judged=split is not None)


def hub_folder(name: str, split: str) -> Path:
    """The files of a collection of the hub, in its cache. `NAME:LANGUAGE` takes that folder of MLDR.

    Raises:
        DataError: there is no such data set.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    repository, _, language = name.partition(":")
    inside = f"mldr-v1.0-{language}" if language else ""
    patterns = (
        [f"{inside}/corpus.jsonl.gz", f"{inside}/{split}.jsonl.gz"]
        if language
        else ["corpus*", "queries*", "qrels*", "corpus/*", "queries/*", "qrels/*", "data/*"]
    )
    try:
        found = snapshot_download(repository, repo_type="dataset", allow_patterns=patterns)
    except (HFValidationError, HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise DataError(
            f"There is no collection {name!r}: no such folder here, and the hub gives none ({reason}); give a folder, "
            "or check the name and the network."
        ) from None
    return Path(found) / inside


def _one(folder: Path, stem: str) -> str | None:
    """The file, or the folder of Parquet files, of a name without its ending."""
    for ending in (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet", ".tsv"):
        if (folder / f"{stem}{ending}").is_file():
            return str(folder / f"{stem}{ending}")
    if any((folder / stem).glob("*.parquet")):
        return str(folder / stem / "*.parquet")
    return None


def _records(path: str, builder: Builder) -> Iterator[Record]:
    for record in read_records(Source(path=path)):
        if isinstance(record, RejectedRecord):
            builder.bad(record)
        else:
            yield record


def _value(record: Record, *names: str) -> Any:
    for name in names:
        if record.values.get(name) is not None:
            return record.values[name]
    shown = ", ".join(map(str, record.values))
    raise DataError(f"{record.origin}: there is no {names[0]!r}, only {shown}; name the columns as BEIR does.")


def _read_beir(folder: Path, split: str | None, builder: Builder) -> None:
    corpus, queries = _one(folder, "corpus"), _one(folder, "queries")
    assert corpus is not None
    for record in _records(corpus, builder):
        title, text = (str(record.values.get(name) or "") for name in ("title", "text"))
        builder.document(str(_value(record, "_id", "id", "docid")), title, text, record.origin)
    if split is None:
        return
    assert queries is not None
    for record in _records(queries, builder):
        builder.query(str(_value(record, "_id", "id")), str(record.values.get("text") or ""), record.origin)
    qrels = _one(folder / "qrels", split) or _one(folder, "qrels")
    if qrels is None:
        splits = ", ".join(sorted(path.stem for path in (folder / "qrels").glob("*.tsv"))) or "none"
        raise DataError(f"{folder} has no qrels/{split}.tsv; there are {splits}: name another split.")
    for record in _records(qrels, builder):
        grade = record.values.get("score", 1)
        query, document = (str(_value(record, f"{name}-id", f"{name}_id")) for name in ("query", "corpus"))
        number = whole_number(grade)
        if number is None:
            builder.bad(RejectedRecord("no grade", f"the score {grade!r} should be a whole number.", record.origin))
        else:
            builder.judgement(Judgement(query, document, number, record.origin))


def _read_mldr(folder: Path, split: str, builder: Builder) -> None:
    """MLDR (arXiv 2402.03216): queries with their relevant documents beside a corpus."""
    corpus, asked = _one(folder, "corpus"), _one(folder, split)
    assert corpus is not None
    assert asked is not None
    for record in _records(corpus, builder):
        builder.document(str(_value(record, "docid")), "", str(record.values.get("text") or ""), record.origin)
    for record in _records(asked, builder):
        name = str(_value(record, "query_id"))
        builder.query(name, str(record.values.get("query") or ""), record.origin)
        for passage in _value(record, "positive_passages"):
            builder.judgement(Judgement(name, str(passage["docid"]), 1, record.origin))


def whole_number(value: object) -> int | None:
    """A grade; None if the value is not a number, or is NaN."""
    try:
        number = float(str(value))
    except ValueError:
        return None
    return int(number) if math.isfinite(number) and number == int(number) else None
