"""Collections in the forms of TREC (<DOC>, <top>, qrels) and of SMART (.I, .T, .W; Cranfield, CISI, CACM)."""

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from modernbert.errors import DataError
from modernbert.text.collection import CollectionBuilder, Judgement, whole_number
from modernbert.text.opening import read_raw_lines
from modernbert.text.records import Origin, RejectedRecord

logger = logging.getLogger(__name__)

_TAG = re.compile(r"<[^>]*>")
_FIELD = re.compile(
    r"<(title|headline|text|desc|narr|num|docno)\b[^>]*>(.*?)(?=</?(?:title|headline|text|desc|narr|num|docno)\b|\Z)",
    re.I | re.S,
)


@dataclass
class Entry:
    """One document or query of a file, with its fields as they are written."""

    name: str
    origin: Origin
    fields: dict[str, str] = field(default_factory=dict)


def read_classic(folder: Path, builder: CollectionBuilder, with_queries: bool = True) -> None:
    """Read the documents, queries and judgements in a folder. The content of a file decides which of them it has.

    Raises:
        DataError: documents, queries or judgements are missing.
    """
    kinds: dict[str, list[Path]] = {"documents": [], "queries": [], "judgements": []}
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        if kind := _kind(path):
            kinds[kind].append(path)
    if missing := [kind for kind, paths in kinds.items() if not paths and (with_queries or kind == "documents")]:
        raise DataError(
            f"{folder} holds no collection: no {' and no '.join(missing)} were found; give a folder with corpus.jsonl, "
            "queries.jsonl and qrels/, or with files of TREC (<DOC>, <top>) or SMART (.I, .W)."
        )
    for path in kinds["documents"]:
        for entry in _entries(path):
            title, text = _document(entry)
            builder.add_document(entry.name, title, text, entry.origin)
    if not with_queries:
        return
    judgements = [one for path in kinds["judgements"] for one in _judgements(path, builder)]
    entries = [entry for path in kinds["queries"] for entry in _entries(path)]
    if _numbered_by_order(entries, judgements):
        logger.info("%s: the judgements number the queries by their order, so the queries are named by it.", folder)
        for number, entry in enumerate(entries, 1):
            entry.name = str(number)
    for entry in entries:
        builder.add_query(entry.name, _query(entry), entry.origin)
    for one in judgements:
        builder.add_judgement(one)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    for number, raw in read_raw_lines(path):  # names in old collections have bytes that are not UTF-8
        yield number, raw.decode("utf-8", "replace").rstrip("\r\n")


def _kind(path: Path) -> str | None:
    first = next((line.strip() for _, line in _lines(path) if line.strip()), "")
    if re.match(r"<doc\b", first, re.I):
        return "documents"
    if re.match(r"<top\b", first, re.I):
        return "queries"
    if re.fullmatch(r"\.I\s+\S+", first):
        return "queries" if re.search(r"qry|quer|topic", path.name, re.I) else "documents"
    columns = first.split()
    numbers = sum(whole_number(column) is not None for column in columns)
    return "judgements" if len(columns) in (3, 4) and numbers >= 2 else None


def _entries(path: Path) -> Iterator[Entry]:
    first = next((line for _, line in _lines(path) if line.strip()), "")
    return _smart(path) if first.startswith(".I") else _trec(path)


def _smart(path: Path) -> Iterator[Entry]:
    entry: Entry | None = None
    marker = ""
    for number, line in _lines(path):
        if started := re.fullmatch(r"\.I\s+(\S+)\s*", line):
            if entry is not None:
                yield entry
            entry, marker = Entry(started[1].lstrip("0") or "0", Origin(str(path), number)), ""
        elif found := re.fullmatch(r"\.([A-Z])\s*", line):
            marker = found[1]
        elif entry is None:
            raise DataError(f"{path}:{number}: a document or query begins with .I and its number.")
        else:
            entry.fields[marker] = entry.fields.get(marker, "") + line + "\n"
    if entry is not None:
        yield entry


def _trec(path: Path) -> Iterator[Entry]:
    body: list[str] = []
    begin = 0
    for number, line in _lines(path):
        if re.match(r"\s*<(doc|top)>", line, re.I):
            body, begin = [], number
        elif re.match(r"\s*</(doc|top)>", line, re.I):
            yield _trec_entry("\n".join(body), Origin(str(path), begin))
        else:
            body.append(line)


def _trec_entry(body: str, origin: Origin) -> Entry:
    fields = {name.lower(): _TAG.sub(" ", text).strip() for name, text in _FIELD.findall(body)}
    name = re.sub(r"^Number:\s*", "", fields.get("docno") or fields.get("num") or "", flags=re.I).strip()
    if not name:
        raise DataError(f"{origin}: there is no <DOCNO> or <num>; name the document or query.")
    if "docno" in fields and "text" not in fields:  # everything after the name is the text
        rest = re.sub(r"<docno>.*?</docno>", "", body, flags=re.I | re.S)
        rest = re.sub(r"<title>.*?</title>", "", rest, flags=re.I | re.S)
        fields["text"] = _TAG.sub(" ", rest).strip()
    return Entry(name.lstrip("0") or "0", origin, fields)


def _document(entry: Entry) -> tuple[str, str]:
    fields = entry.fields
    if "text" in fields:
        return fields.get("title", fields.get("headline", "")), fields["text"]
    title, text = (" ".join(fields.get(name, "").split()) for name in ("T", "W"))
    text = text or " ".join(fields.get("", "").split())
    if title and text.startswith(title):  # Cranfield repeats it
        text = text[len(title) :].strip()
    return title, text


def _query(entry: Entry) -> str:
    fields = entry.fields
    return fields.get("title") or fields.get("W") or fields.get("") or fields.get("desc") or ""


def _judgements(path: Path, builder: CollectionBuilder) -> Iterator[Judgement]:
    """The judgements in a file. TREC: query, 0, document, grade. SMART: query, document, code.

    A SMART code of 1 is the best and -1 is not relevant; files of relevant documents alone have zeros. Every relevant
    document of SMART gets the grade 1.
    """
    for number, line in _lines(path):
        columns, origin = line.split(), Origin(str(path), number)
        if not columns:
            continue
        try:
            if len(columns) == 4 and "." not in columns[3]:
                query, document, grade = columns[0], columns[2], int(columns[3])
            elif len(columns) == 4:
                query, document, grade = columns[0], columns[1], 1
            else:
                query, document, grade = columns[0], columns[1], int(int(columns[2]) > 0)
        except (ValueError, IndexError):
            builder.reject(
                RejectedRecord(
                    "invalid judgement", f"{line[:60]!r} is not a judgement; give query, document and grade.", origin
                )
            )
            continue
        yield Judgement(query.lstrip("0") or "0", document.lstrip("0") or "0", grade, origin)


def _numbered_by_order(queries: list[Entry], judgements: list[Judgement]) -> bool:
    """Whether the judgements number the queries by their order from 1, and not by their names (Cranfield)."""
    named = {entry.name for entry in queries}
    judged = {one.query for one in judgements}
    return bool(judged - named) and all(
        (number := whole_number(name)) is not None and 1 <= number <= len(queries) for name in judged
    )
