"""Training examples of rankers: queries with documents, in any of the usual formats, read from any file."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modernbert.config import Config
from modernbert.errors import DataError
from modernbert.text.collection import Collection
from modernbert.text.records import Origin, Record, RejectedRecord, Source, missing_column, read_records


@dataclass(frozen=True)
class RankingExample:
    """A query and documents. Without `scores`, the first document is relevant and the others are not.

    `scores` has one score for each document: a grade, a similarity or the score of a teacher. `relevant` are further
    texts that are known to be relevant, and so must not become negatives. `source` is the file or folder of the
    example.
    """

    query: str
    documents: tuple[str, ...]
    scores: tuple[float, ...] | None
    origin: Origin
    relevant: tuple[str, ...] = ()
    source: str = ""


class RankingColumns(Config):
    """Names of columns; by default, the usual names are tried.

    `query` and `positive` form pairs; with `negative` (one column, several numbered ones, or a list) triples and more;
    with `documents` (a list) and `scores` (one number for each) lists. A pair with one score in `scores` is graded.
    Identifiers instead of texts are looked up in `queries_from` and `documents_from`, files with the columns `id` and
    `text` (or `_id`, `query_id`, `document_id`; `query`, `document`, `passage`).
    """

    query: str | None = None  # column of the query
    positive: str | None = None  # column of the relevant document
    negative: str | None = None  # column of documents that are not relevant; also numbered columns, or a list
    documents: str | None = None  # column with a list of documents
    scores: str | None = None  # column with a score for each document
    queries_from: Source | None = None  # file of the queries, if `query` has identifiers
    documents_from: Source | None = None  # file of the documents, if the columns have identifiers


_DEFAULT_COLUMNS: dict[str, tuple[str, ...]] = {
    "query": ("query", "question", "anchor", "sentence1", "query_id", "text"),
    "positive": ("positive", "passage", "document", "answer", "pos", "sentence2", "context", "pair"),
    "negative": ("negative", "negatives", "neg"),
    "documents": ("documents", "passages", "document_ids", "docs"),
    "scores": ("scores", "labels", "score", "label"),
}


def read_ranking(source: Source, columns: RankingColumns, *, skip_bad: bool = False) -> list[RankingExample]:
    """The examples of a file, or with `skip_bad` the valid ones.

    Raises:
        DataError: an example is invalid, with file and line: a text is empty or missing, a score is not a finite
            number, the numbers of scores and documents differ, an identifier is unknown. Or there is no example.
    """
    tables = _Tables(columns)
    examples: list[RankingExample] = []
    first: RejectedRecord | None = None
    for record in read_records(source):
        example = record if isinstance(record, RejectedRecord) else _example(record, columns, tables)
        if isinstance(example, RankingExample):
            examples.append(example)
        elif not skip_bad:
            raise example.error()
        else:
            first = first or example
    if not examples:
        reason = f"; the first is {first.origin}: {first.sentence}" if first else "; it is empty."
        raise DataError(f"{source.path} holds no example that can be used{reason}")
    return examples


def relevant_pairs(
    collection: Collection, negatives: Mapping[str, Sequence[str]] | None = None
) -> list[RankingExample]:
    """An example for each query and relevant document of a collection.

    `negatives` are names of documents that are negatives of some queries. All relevant documents of a query are known.
    """
    examples = []
    for query, text in collection.queries.items():
        relevant = collection.relevant(query)
        texts = tuple(collection.documents[name].content for name in relevant)
        others = [collection.documents[name].content for name in (negatives or {}).get(query, ())]
        for positive in texts:
            origin = Origin(f"{collection.name}, query {query}", 0)
            examples.append(RankingExample(text, (positive, *others), None, origin, texts))
    return examples


class _Tables:
    """Texts by their identifiers, for columns that hold identifiers."""

    def __init__(self, columns: RankingColumns) -> None:
        self.queries = _texts_by_name(columns.queries_from, ("query_id", "_id", "id"), ("text", "query"))
        self.documents = _texts_by_name(
            columns.documents_from, ("document_id", "docid", "_id", "id"), ("text", "document", "passage")
        )


def _texts_by_name(source: Source | None, ids: Sequence[str], texts: Sequence[str]) -> dict[str, str] | None:
    if source is None:
        return None
    texts_by_name: dict[str, str] = {}
    for record in read_records(source):
        if isinstance(record, RejectedRecord):
            raise record.error()
        name, text = (next((one for one in names if one in record.values), None) for names in (ids, texts))
        if name is None or text is None:
            raise missing_column(record, ids[0] if name is None else texts[0]).error()
        texts_by_name[str(record.values[name])] = str(record.values[text])
    return texts_by_name


def _example(record: Record, columns: RankingColumns, tables: _Tables) -> RankingExample | RejectedRecord:
    names = {kind: _column(record, columns, kind) for kind in _DEFAULT_COLUMNS}
    if names["query"] is None:
        return missing_column(record, columns.query or "query")
    query = _text(record, names["query"], record.values[names["query"]], tables.queries)
    if isinstance(query, RejectedRecord):
        return query
    if names["documents"] is not None:
        listed = record.values[names["documents"]]
        if not isinstance(listed, list) or not listed:
            return RejectedRecord(
                "invalid documents", f"{names['documents']} should be a list of documents.", record.origin
            )
        values = [(names["documents"], one) for one in listed]
    elif names["positive"] is not None:
        values = [(names["positive"], record.values[names["positive"]]), *_negatives(record, names["negative"])]
    else:
        return missing_column(record, columns.positive or columns.documents or "positive")
    documents = []
    for name, value in values:
        text = _text(record, name, value, tables.documents)
        if isinstance(text, RejectedRecord):
            return text
        documents.append(text)
    scores = None if names["scores"] is None else _scores(record, names["scores"], len(documents))
    if isinstance(scores, RejectedRecord):
        return scores
    return RankingExample(query, tuple(documents), scores, record.origin)


def _column(record: Record, columns: RankingColumns, kind: str) -> str | None:
    configured: str | None = getattr(columns, kind)
    if configured is not None:
        return configured if configured in record.values else None
    return next((name for name in _DEFAULT_COLUMNS[kind] if name in record.values), None)


def _negatives(record: Record, column: str | None) -> list[tuple[str, Any]]:
    prefix = column or "negative"
    columns = [
        name for name in record.values if name == prefix or re.fullmatch(rf"{re.escape(prefix)}_?\d+", str(name))
    ]
    negatives: list[tuple[str, Any]] = []
    for name in columns:
        value = record.values[name]
        negatives += [(name, one) for one in value] if isinstance(value, list) else [(name, value)]
    return negatives


def _text(record: Record, column: str, value: Any, table: dict[str, str] | None) -> str | RejectedRecord:
    if table is not None:
        if (name := str(value)) not in table:
            return RejectedRecord(
                "unknown identifier", f"{column} has the identifier {name!r}, which has no text.", record.origin
            )
        value = table[name]
    if not isinstance(value, str):
        return RejectedRecord("not a text", f"{column} is {value!r} and should be a text.", record.origin)
    if not value.strip():
        return RejectedRecord(
            "empty text", f"{column} is empty; give it a text, or leave the example out.", record.origin
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return RejectedRecord(
            "unpaired surrogate", f"{column} holds an unpaired surrogate; write it again.", record.origin
        )
    return value.strip()


def _scores(record: Record, column: str, count: int) -> tuple[float, ...] | RejectedRecord:
    value = record.values[column]
    listed = value if isinstance(value, list) else [value]
    if len(listed) != count:
        sentence = f"{column} has {len(listed)} numbers for {count} documents; give one for each."
        return RejectedRecord("wrong number of scores", sentence, record.origin)
    numbers = []
    for one in listed:
        try:
            number = float(one)
        except (TypeError, ValueError):
            number = math.nan
        if isinstance(one, bool):
            number = float(one)
        if not math.isfinite(number):
            return RejectedRecord(
                "not a number", f"{column} holds {one!r} and should hold finite numbers.", record.origin
            )
        numbers.append(number)
    return tuple(numbers)
