"""Records of JSON files: one object a line, one array of objects, or the form of SQuAD."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modernbert.text.opening import UnreadableError, read_lines, read_raw_lines
from modernbert.text.record import NO_OBJECT, Origin, Record, RejectedRecord

_WHOLE = 1 << 30  # bytes of a file that is named after lines and is looked at as a whole


def read_json_file(path: Path, lines: bool) -> Iterator[Record | RejectedRecord]:
    """Objects a line, one array of them, or SQuAD's form, whichever it is: names of files tell it badly.

    `lines` are what it is if it is none of these.
    """
    first = next((raw for _, raw in read_raw_lines(path) if raw.strip()), b"").decode("utf-8", "replace").lstrip()
    begin = _loaded(first)
    if isinstance(begin, dict) and not isinstance(begin.get("data"), list):
        yield from _json_lines(path)
        return
    if lines and (first[:1] not in ("[", "{") or path.stat().st_size > _WHOLE):
        yield from _json_lines(path)
        return
    text = "".join(raw.decode("utf-8", "replace") for _, raw in read_raw_lines(path)) if lines else _whole(path)
    if lines and not isinstance(_loaded(text), dict | list):
        yield from _json_lines(path)
    elif text.lstrip().startswith("["):
        yield from _json_array(path, _whole(path))
    else:
        yield from _json_object(path, _whole(path))


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
                "carriage returns", "lines end with a carriage return alone (CR); save the file with LF.", origin
            )
        return RejectedRecord("broken line", "this is not JSON; every line must be one whole object.", origin)
    if not isinstance(values, dict):
        return RejectedRecord("broken line", f"{NO_OBJECT}; every line must be one, with named values.", origin)
    return Record(values, origin)


def _whole(path: Path) -> str:
    return "".join(line for _, line in read_lines(path))


def _loaded(text: str) -> Any:
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
        sentence = f'{path} is neither an array of objects, nor SQuAD\'s form {{"data": [...]}}, nor JSON lines.'
        raise UnreadableError("broken file", sentence, str(path))


def _json_array(path: Path, text: str) -> Iterator[Record | RejectedRecord]:
    decoder = json.JSONDecoder()
    place, counted, number = text.index("[") + 1, 0, 1
    while True:
        while place < len(text) and text[place] in " \t\r\n,":
            place += 1
        number, counted = number + text.count("\n", counted, place), place
        if text[place : place + 1] == "]":
            if text[place + 1 :].strip():
                raise _broken(path, number, ValueError("there is something behind the array"))
            return
        try:
            values, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            raise _broken(path, number, error) from None
        origin = Origin(str(path), number)
        if isinstance(values, dict):
            yield Record(values, origin)
        else:
            yield RejectedRecord("no object", f"{NO_OBJECT}; every element must be one, with named values.", origin)


def _squad(path: Path, text: str, articles: list[Any]) -> Iterator[Record | RejectedRecord]:
    decode = json.JSONDecoder().raw_decode
    place, number = 0, 1
    try:
        for article in articles:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    identifier = question["id"]
                    keys = re.compile(r'"id"\s*:\s*').finditer(text, place)
                    found = next((key.end() for key in keys if decode(text, key.end())[0] == identifier), place)
                    number, place = number + text.count("\n", place, found), found
                    values = {"id": str(identifier), "question": question["question"], "context": paragraph["context"]}
                    if question.get("is_impossible"):
                        values["answers"] = []
                    elif "answers" in question:
                        values["answers"] = question["answers"]
                    yield Record(values, Origin(str(path), number))
    except (KeyError, TypeError) as error:
        raise UnreadableError(
            "broken file",
            f"{path}:{number}: after this line SQuAD's form (data, paragraphs, context, qas, id, question) is not kept "
            f"({error}); correct it.",
            f"{path}:{number}",
        ) from None
