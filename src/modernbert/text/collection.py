"""Test collections: documents, queries, and which documents are relevant to which query.

`read_collection` recognizes the format of a folder by its files: BEIR (JSON lines, or Parquet as in NanoBEIR), MLDR,
and the classic formats of TREC and SMART (see `classic_collections`).
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
    """Documents and queries by their names. Every query has a relevant document."""

    name: str
    documents: Mapping[str, Document]
    queries: Mapping[str, str]
    judgements: Judgements
    skipped: Mapping[str, int] = field(default_factory=dict)  # number of records that were left out, by reason

    def relevant(self, query: str) -> list[str]:
        """The names of the relevant documents of a query."""
        return [name for name, grade in self.judgements[query].items() if grade > 0]


@dataclass(frozen=True)
class Judgement:
    """One line of qrels."""

    query: str
    document: str
    grade: int
    origin: Origin


class CollectionBuilder:
    """Builds a collection. An invalid record is an error; with `skip_bad` it is left out and counted."""

    def __init__(self, name: str, skip_bad: bool = False) -> None:
        self.name, self.skip_bad = name, skip_bad
        self.skipped: Counter[str] = Counter()
        self._documents: dict[str, Document] = {}
        self._queries: dict[str, str] = {}
        self._judgements: list[Judgement] = []
        self._dropped: set[str] = set()

    def reject(self, record: RejectedRecord) -> None:
        """Count an invalid record.

        Raises:
            DataError: `skip_bad` is not set.
        """
        if not self.skip_bad:
            raise record.error()
        self.skipped[record.reason] += 1

    def add_document(self, name: str, title: str, text: str, origin: Origin) -> None:
        if name in self._documents:
            self.reject(
                RejectedRecord("duplicate document", f"the document {name!r} occurs twice; remove one of them.", origin)
            )
        elif not (title.strip() or text.strip()):
            self._dropped.add(name)
            self.reject(
                RejectedRecord(
                    "empty passage", f"the document {name!r} is empty; give it a text, or remove it.", origin
                )
            )
        else:
            self._documents[name] = Document(" ".join(title.split()), text.strip())

    def add_query(self, name: str, text: str, origin: Origin) -> None:
        if name in self._queries:
            self.reject(
                RejectedRecord("duplicate query", f"the query {name!r} occurs twice; remove one of them.", origin)
            )
        elif not text.strip():
            self.reject(
                RejectedRecord("empty query", f"the query {name!r} is empty; give it a text, or remove it.", origin)
            )
        else:
            self._queries[name] = " ".join(text.split())

    def add_judgement(self, judgement: Judgement) -> None:
        self._judgements.append(judgement)

    def documents(self) -> dict[str, Document]:
        """The documents, with or without judgements.

        Raises:
            DataError: there is no document.
        """
        if not self._documents:
            raise DataError(f"{self.name} has no document.")
        return self._documents

    def build(self) -> Collection:
        """The collection, with the queries that have judgements.

        Raises:
            DataError: a judgement names an unknown query or document, a judged query has no relevant document, or no
                query is left.
        """
        judged: Judgements = {}
        first: dict[str, Origin] = {}
        for one in self._judgements:
            if one.query not in self._queries:
                self.reject(_unknown("query", one.query, one.origin))
            elif one.document not in self._documents:
                if one.document not in self._dropped:  # an empty document has been counted already
                    self.reject(_unknown("document", one.document, one.origin))
            else:
                first.setdefault(one.query, one.origin)
                judged.setdefault(one.query, {})[one.document] = one.grade
        for name in list(judged):
            if not any(grade > 0 for grade in judged[name].values()):
                sentence = (
                    f"the query {name!r} has no relevant document; give one a grade above 0, or remove the query."
                )
                self.reject(RejectedRecord("query without positives", sentence, first[name]))
                del judged[name]
        if not judged:
            raise DataError(
                f"{self.name} has no query with a relevant document; check that qrels and queries belong together."
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

    `split` selects the judgements if there are several files of them.

    Raises:
        DataError: there is no collection, or its files do not fit together; the message has file and line.
    """
    builder = CollectionBuilder(str(source), skip_bad)
    _read(source, split, builder)
    return builder.build()


def read_documents(source: str | Path, *, skip_bad: bool = False) -> dict[str, Document]:
    """The documents of a collection, or of files with a column `text` and optionally `title`.

    Raises:
        DataError: there is no document, or one is empty or occurs twice; the message has file and line.
    """
    builder = CollectionBuilder(str(source), skip_bad)
    if Path(source).is_dir():
        _read(source, None, builder)
    else:
        for record in _records(str(source), builder):
            title, text = (str(record.values.get(name) or "") for name in ("title", "text"))
            identifiers = (record.values.get(name) for name in ("_id", "id", "docid"))
            name = next((str(one) for one in identifiers if one is not None), str(record.origin))
            builder.add_document(name, title, text, record.origin)
    return builder.documents()


def _read(source: str | Path, split: str | None, builder: CollectionBuilder) -> None:
    """Read documents, queries and judgements of a folder; without `split` the documents alone."""
    folder = Path(source)
    if not folder.exists():
        folder = hub_folder(str(source), split or "test")
    if not folder.is_dir():
        raise DataError(
            f"{source} is not a folder; give one with corpus.jsonl, queries.jsonl and qrels, or of TREC or SMART."
        )
    if _find_file(folder, "corpus") and (split is None or _find_file(folder, "queries")):
        _read_beir(folder, split, builder)
    elif split is not None and _find_file(folder, "corpus") and _find_file(folder, split):
        _read_mldr(folder, split, builder)
    else:
        from modernbert.text.classic_collections import read_classic

        read_classic(folder, builder, with_queries=split is not None)


def hub_folder(name: str, split: str) -> Path:
    """The cached folder of a collection on the hub. `NAME:LANGUAGE` selects one language of MLDR.

    Raises:
        DataError: there is no such data set.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    repository, _, language = name.partition(":")
    subfolder = f"mldr-v1.0-{language}" if language else ""
    patterns = (
        [f"{subfolder}/corpus.jsonl.gz", f"{subfolder}/{split}.jsonl.gz"]
        if language
        else ["corpus*", "queries*", "qrels*", "corpus/*", "queries/*", "qrels/*", "data/*"]
    )
    try:
        downloaded = snapshot_download(repository, repo_type="dataset", allow_patterns=patterns)
    except (HFValidationError, HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise DataError(
            f"There is no collection {name!r}, neither as a local folder nor on the hub ({reason}); give a folder, "
            "or check the name and the network."
        ) from None
    return Path(downloaded) / subfolder


def _find_file(folder: Path, stem: str) -> str | None:
    """The file of this name without its suffix, or a glob for a folder of Parquet files."""
    for suffix in (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet", ".tsv"):
        if (folder / f"{stem}{suffix}").is_file():
            return str(folder / f"{stem}{suffix}")
    if any((folder / stem).glob("*.parquet")):
        return str(folder / stem / "*.parquet")
    return None


def _records(path: str, builder: CollectionBuilder) -> Iterator[Record]:
    for record in read_records(Source(path=path)):
        if isinstance(record, RejectedRecord):
            builder.reject(record)
        else:
            yield record


def _value(record: Record, *names: str) -> Any:
    for name in names:
        if record.values.get(name) is not None:
            return record.values[name]
    shown = ", ".join(map(str, record.values))
    raise DataError(f"{record.origin}: there is no {names[0]!r}, only {shown}; name the columns as BEIR does.")


def _read_beir(folder: Path, split: str | None, builder: CollectionBuilder) -> None:
    corpus, queries = _find_file(folder, "corpus"), _find_file(folder, "queries")
    assert corpus is not None
    for record in _records(corpus, builder):
        title, text = (str(record.values.get(name) or "") for name in ("title", "text"))
        builder.add_document(str(_value(record, "_id", "id", "docid")), title, text, record.origin)
    if split is None:
        return
    assert queries is not None
    for record in _records(queries, builder):
        builder.add_query(str(_value(record, "_id", "id")), str(record.values.get("text") or ""), record.origin)
    qrels = _find_file(folder / "qrels", split) or _find_file(folder, "qrels")
    if qrels is None:
        splits = ", ".join(sorted(path.stem for path in (folder / "qrels").glob("*.tsv"))) or "none"
        raise DataError(f"{folder} has no qrels/{split}.tsv; there are {splits}: name another split.")
    for record in _records(qrels, builder):
        grade = record.values.get("score", 1)
        query, document = (str(_value(record, f"{name}-id", f"{name}_id")) for name in ("query", "corpus"))
        number = whole_number(grade)
        if number is None:
            builder.reject(
                RejectedRecord("invalid grade", f"the score {grade!r} should be a whole number.", record.origin)
            )
        else:
            builder.add_judgement(Judgement(query, document, number, record.origin))


def _read_mldr(folder: Path, split: str, builder: CollectionBuilder) -> None:
    """Read MLDR (arXiv 2402.03216): a corpus, and queries with their relevant documents."""
    corpus, queries = _find_file(folder, "corpus"), _find_file(folder, split)
    assert corpus is not None
    assert queries is not None
    for record in _records(corpus, builder):
        builder.add_document(str(_value(record, "docid")), "", str(record.values.get("text") or ""), record.origin)
    for record in _records(queries, builder):
        name = str(_value(record, "query_id"))
        builder.add_query(name, str(record.values.get("query") or ""), record.origin)
        for passage in _value(record, "positive_passages"):
            builder.add_judgement(Judgement(name, str(passage["docid"]), 1, record.origin))


def whole_number(value: object) -> int | None:
    """The value as an integer; None if it is not a whole number."""
    try:
        number = float(str(value))
    except ValueError:
        return None
    return int(number) if math.isfinite(number) and number == int(number) else None
