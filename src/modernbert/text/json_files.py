"""Records of JSON files: one object a line, one array of objects, or SQuAD's format."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modernbert.text.opening import UnreadableError, read_lines, read_raw_lines
from modernbert.text.record import NOT_AN_OBJECT, Origin, Record, RejectedRecord

_MAX_DETECTION_BYTES = 1 << 30  # larger .jsonl files are read as lines without parsing them as one value first


def read_json_file(path: Path, lines: bool) -> Iterator[Record | RejectedRecord]:
    """Records of a file with one object a line, one array of objects, or SQuAD's format.

    The content decides, as file names are unreliable. `lines` selects one object a line if the content is unclear.
    """
    first = next((raw for _, raw in read_raw_lines(path) if raw.strip()), b"").decode("utf-8", "replace").lstrip()
    begin = _parsed(first)
    if isinstance(begin, dict) and not isinstance(begin.get("data"), list):
        yield from _json_lines(path)
        return
    if lines and (first[:1] not in ("[", "{") or path.stat().st_size > _MAX_DETECTION_BYTES):
        yield from _json_lines(path)
        return
    text = "".join(raw.decode("utf-8", "replace") for _, raw in read_raw_lines(path)) if lines else _read_text(path)
    if lines and not isinstance(_parsed(text), dict | list):
        yield from _json_lines(path)
    elif text.lstrip().startswith("["):
        yield from _json_array(path, _read_text(path))
    else:
        yield from _json_object(path, _read_text(path))


def _json_lines(path: Path) -> Iterator[Record | RejectedRecord]:
    for number, raw in read_raw_lines(path):
        origin = Origin(str(path), number)
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError:
            yield RejectedRecord("not UTF-8", "this is not UTF-8; convert the file to UTF-8.", origin)
            continue
        if line.strip():
            yield _record(line, origin)


def _record(line: str, origin: Origin) -> Record | RejectedRecord:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        if "\r" in line.strip():
            return RejectedRecord(
                "carriage returns",
                "lines end with a carriage return (CR) without a line feed; save the file with LF.",
                origin,
            )
        return RejectedRecord("broken line", "this is not JSON; every line must be one complete object.", origin)
    if not isinstance(values, dict):
        return RejectedRecord("broken line", f"{NOT_AN_OBJECT}; every line must be one, with named values.", origin)
    return Record(values, origin)


def _read_text(path: Path) -> str:
    return "".join(line for _, line in read_lines(path))


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _broken(path: Path, number: int | None, error: Exception) -> UnreadableError:
    origin = str(path) if number is None else f"{path}:{number}"
    return UnreadableError("broken file", f"{origin} cannot be read as JSON: {error}.", origin)


def _json_object(path: Path, text: str) -> Iterator[Record | RejectedRecord]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _broken(path, None, error) from None
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        yield from _squad(path, text, value["data"])
    elif isinstance(value, dict) and any(isinstance(one, str) for one in value.values()):
        yield Record(value, Origin(str(path), 1))
    else:
        sentence = f'{path} is neither an array of objects, nor SQuAD\'s format {{"data": [...]}}, nor JSON lines.'
        raise UnreadableError("broken file", sentence, str(path))


def _json_array(path: Path, text: str) -> Iterator[Record | RejectedRecord]:
    decoder = json.JSONDecoder()
    position, counted, line = text.index("[") + 1, 0, 1
    while True:
        while position < len(text) and text[position] in " \t\r\n,":
            position += 1
        line, counted = line + text.count("\n", counted, position), position
        if text[position : position + 1] == "]":
            if text[position + 1 :].strip():
                raise _broken(path, line, ValueError("there is text after the array"))
            return
        try:
            values, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            raise _broken(path, line, error) from None
        origin = Origin(str(path), line)
        if isinstance(values, dict):
            yield Record(values, origin)
        else:
            yield RejectedRecord(
                "not an object", f"{NOT_AN_OBJECT}; every element must be one, with named values.", origin
            )


def _squad(path: Path, text: str, articles: list[Any]) -> Iterator[Record | RejectedRecord]:
    decode = json.JSONDecoder().raw_decode
    position, line = 0, 1
    try:
        for article in articles:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    identifier = question["id"]
                    keys = re.compile(r'"id"\s*:\s*').finditer(text, position)
                    next_position = next(
                        (key.end() for key in keys if decode(text, key.end())[0] == identifier), position
                    )
                    line, position = line + text.count("\n", position, next_position), next_position
                    values = {"id": str(identifier), "question": question["question"], "context": paragraph["context"]}
                    if question.get("is_impossible"):
                        values["answers"] = []
                    elif "answers" in question:
                        values["answers"] = question["answers"]
                    yield Record(values, Origin(str(path), line))
    except (KeyError, TypeError) as error:
        raise UnreadableError(
            "broken file",
            f"{path}:{line}: after this line SQuAD's format (data, paragraphs, context, qas, id, question) is violated "
            f"({error}); correct it.",
            f"{path}:{line}",
        ) from None
