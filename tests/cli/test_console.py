"""Texts from the command line, stdin and files are unchanged, or give a one-sentence error."""

import io
import json
import sys

import pytest
from typer.testing import CliRunner

from corpora import make_model
from modernbert.cli import app
from modernbert.cli.console import texts_of
from modernbert.errors import DataError
from modernbert.model import QuestionAnswering

LINES = ["\ufeffa\u2028b", "c\x85d\x0ce", "f\tg", "", "h"]
TEXTS = ["a\u2028b", "c\x85d\x0ce", "f\tg", "", "h"]


def give_stdin(monkeypatch, raw):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw), encoding="utf-8"))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_texts_are_cut_at_ends_of_lines_alone_and_have_no_byte_order_mark(end, tmp_path, monkeypatch):
    raw = end.join(LINES).encode()
    (tmp_path / "x.txt").write_bytes(raw)
    give_stdin(monkeypatch, raw)
    assert texts_of(["x\u2028y", "-"], tmp_path / "x.txt") == ["x\u2028y", *TEXTS, *TEXTS]


def test_text_n_of_a_file_is_its_line_n(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"\none\n  \ntwo\n")
    assert texts_of([], tmp_path / "x.txt") == ["", "one", "  ", "two"]
    (tmp_path / "x.txt").write_bytes(b"\n \n")
    with pytest.raises(DataError, match="There is no text"):
        texts_of([], tmp_path / "x.txt")


def test_what_is_not_utf_8_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "x.txt").write_bytes(b"good\nb\xe9d")
    give_stdin(monkeypatch, b"good\nb\xe9d")
    for texts, file, where in (
        (["-"], None, "stdin cannot be read as text"),
        ([b"b\xe9d".decode("utf-8", "surrogateescape")], None, r"The text 'b\\udce9d' is not UTF-8"),
        ([], tmp_path / "x.txt", r"x\.txt cannot be read as text"),
    ):
        with pytest.raises(DataError, match=f"{where}.*; convert it to UTF-8") as error:
            texts_of(texts, file)
        str(error.value).encode()


def test_answers_are_sought_in_a_context_without_its_byte_order_mark(tmp_path):
    QuestionAnswering.from_pretrained(make_model(tmp_path)).save_pretrained(tmp_path / "answers")
    found = []
    for mark in ("", "\ufeff"):
        (tmp_path / "x.txt").write_text(f"{mark}One cat sat.\nTwo did not.", encoding="utf-8")
        command = [
            "predict",
            "Who?",
            "--context",
            tmp_path / "x.txt",
            "--model",
            tmp_path / "answers",
            "--device",
            "cpu",
        ]
        found.append(json.loads(CliRunner().invoke(app, [*map(str, command), "--json"]).stdout))
    assert found[0] == found[1]
