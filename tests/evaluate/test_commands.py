"""The commands `modernbert evaluate`: tables, JSON, and one-sentence errors."""

import json

import pytest
from typer.testing import CliRunner

from corpora import make_model
from modernbert.cli import app
from modernbert.errors import ConfigError
from modernbert.text.documents import read_texts


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("commands")
    make_model(base)
    [text] = read_texts(["python:textwrap"])
    (base / "text.txt").write_text(text)
    return base


def evaluate(*arguments):
    result = CliRunner().invoke(app, ["evaluate", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


def test_mlm_prints_a_table_or_json(folder):
    table = evaluate("mlm", folder / "model", folder / "text.txt", "--tokens", 500)
    assert "| text " in table
    assert "| 1 to 128 " in table
    found = json.loads(evaluate("mlm", folder / "model", folder / "text.txt", "--tokens", 500, "--json"))
    assert f"{found['everything']['bits_per_byte']:.3f}" in table


def test_length_prints_a_table_or_json(folder):
    arguments = ("length", folder / "model", folder / "text.txt", "--length", 16, "--length", 64, "--stretches", 2)
    table = evaluate(*arguments)
    assert "| 16 " in table
    assert [one["length"] for one in json.loads(evaluate(*arguments, "--json"))["results"]] == [16, 64]


def test_an_unknown_precision_is_reported(folder):
    with pytest.raises(ConfigError, match="no precision 'fp8'"):
        evaluate("mlm", folder / "model", folder / "text.txt", "--precision", "fp8")
