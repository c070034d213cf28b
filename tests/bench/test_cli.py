"""The command `modernbert bench`: tables, JSON, files and the exit status."""

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from modernbert.bench.report import read_report, write_report
from modernbert.cli import app
from modernbert.errors import ConfigError


def bench(*arguments):
    return CliRunner().invoke(app, ["bench", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured")
    options = ("--model", "tiny", "--dtype", "fp32", "--threads", 1, "--rounds", 1)
    done = bench(
        "inference", *options, "--published", "--documents", 2, "--workload", "one", "--workload", "512 variable",
        "--output", folder / "one.json", "--figure", folder / "one.png",
    )  # fmt: skip
    assert done.exit_code == 0
    return folder, done


def test_inference_prints_a_table_and_writes_a_report_and_a_figure(measured):
    folder, done = measured
    rows = [line.split("|")[1:-1] for line in done.stdout.splitlines() if line.startswith("|")]
    assert [[cell.strip() for cell in row[:3]] for row in rows[2:]] == [
        ["one", "70", "modernbert"],
        ["one", "70", "transformers SDPA"],
        ["512 variable (2 of 8,192 documents)", "464", "modernbert"],
        ["512 variable (2 of 8,192 documents)", "464", "transformers SDPA"],
    ]
    assert "matrix products alone ran at" in done.stdout
    assert {path.name for path in folder.iterdir()} == {"one.json", "one.png", "one.svg"}
    assert [result.workload for result in read_report(folder / "one.json").results] == ["one", "512 variable"]


def test_training_and_scaling_print_json_for_machines(tmp_path):
    options = ("--model", "tiny", "--dtype", "fp32", "--threads", 1, "--rounds", 1, "--json")
    done = bench("training", *options, "--workload", "one", "--output", tmp_path / "t.json")
    assert json.loads(done.stdout) == json.loads((tmp_path / "t.json").read_text())
    done = bench("scaling", *options, "--length", 16, "--output", tmp_path / "s.json", "--figure", tmp_path / "s.svg")
    assert json.loads(done.stdout) == json.loads((tmp_path / "s.json").read_text())
    assert (tmp_path / "s.png").exists()


def test_scaling_prints_a_table_for_people():
    options = ("--model", "tiny", "--dtype", "fp32", "--threads", 1, "--rounds", 1)
    rows = [line for line in bench("scaling", *options, "--length", 16).stdout.splitlines() if line.startswith("| 16")]
    assert len(rows) == 2


def test_a_slower_report_is_status_1_and_names_the_works(measured, tmp_path):
    old = measured[0] / "one.json"
    assert bench("compare", old, old).exit_code == 0
    report = read_report(old)
    first = report.results[0]
    ours = replace(first.entries[0], ratio=0.5 * first.entries[0].ratio)
    slower = replace(first, entries=(ours, *first.entries[1:]))
    write_report(replace(report, results=(slower, report.results[1])), tmp_path / "new.json")
    done = bench("compare", old, tmp_path / "new.json")
    assert done.exit_code == 1
    assert done.stderr == "Slower than before by more than 10%: one.\n"
    assert bench("compare", old, tmp_path / "new.json", "--tolerance", 0.6).exit_code == 0
    found = json.loads(bench("compare", old, tmp_path / "new.json", "--json").stdout)
    assert [change["slower"] for change in found["changes"]] == [True, False]


def test_a_workload_of_one_report_only_is_reported(measured, tmp_path):
    old = measured[0] / "one.json"
    report = read_report(old)
    write_report(replace(report, results=report.results[:1]), tmp_path / "new.json")
    done = bench("compare", old, tmp_path / "new.json")
    assert (done.exit_code, done.stderr) == (0, "In one report only, not compared: 512 variable.\n")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--precision", "int4"], "There is no precision 'int4'"),
        (["--precision", "int8", "--precision", "float32", "--soak", 5], "--soak measures one server"),
    ],
)
def test_servers_are_measured_in_precisions_that_there_are(options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        bench("serve", "folder", "--texts", "texts.txt", *options)
