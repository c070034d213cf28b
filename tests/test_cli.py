"""The command line from outside: what goes to stdout, what to stderr, and the exit status."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from corpora import make_model
from modernbert import __version__
from modernbert.cli import app, main
from modernbert.errors import CheckpointError


def commands(group=None, path=()):
    """The names of all commands, those of groups with the group's name before them."""
    for name, command in (group or get_command(app)).commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name))


def invoke(*arguments):
    return CliRunner().invoke(app, [*arguments])


def modernbert(*arguments, cwd=None, stdin=None):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", "from modernbert.cli import main; main()", *map(str, arguments)],
        capture_output=True,
        text=True,
        input=stdin,
        cwd=cwd,
        timeout=280,
        check=False,
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("cli"))


def test_help_stays_light():
    code = """
import sys
sys.argv = ["modernbert", "--help"]
from modernbert.cli import main
try:
    main()
except SystemExit as stop:
    assert stop.code == 0
heavy = {"torch", "transformers", "numpy", "tokenizers", "datatrove"} & set(sys.modules)
assert not heavy, heavy
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=280, check=False)
    assert result.returncode == 0, result.stderr
    assert "fill-mask" in result.stdout


def test_importing_the_package_loads_no_torch():
    code = (
        "import modernbert, sys; assert 'torch' not in sys.modules; modernbert.FillMask; assert 'torch' in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=280, check=False).returncode == 0


@pytest.mark.parametrize("command", [*commands()])
def test_every_command_has_help_with_an_example(command):
    result = invoke(*command.split(), "--help")
    assert result.exit_code == 0
    assert "Examples" in result.stdout
    assert f"modernbert {command}" in result.stdout.partition("Examples")[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fill-mask", "no mask", "--model", "MODEL"], "There is no [MASK] in 'no mask'"),
        (["fill-mask", "[MASK]", "--model", "no/such-folder-at-all/x"], "There is no model 'no/such-folder-at-all/x'"),
        (["fill-mask", "--model", "MODEL"], "There is no text"),
        (["fill-mask", "--file", "none.txt", "--model", "MODEL"], "none.txt cannot be read"),
        (["pretrain", "none.toml"], "There is no recipe none.toml"),
        (["corpus", "none.toml"], "There is no recipe none.toml"),
        (["inspect", "nowhere"], "There is no shard folder nowhere"),
        (["tokenizer", "train", "nowhere.txt", "--output", "x"], "There is no file at 'nowhere.txt'"),
        (
            ["tokenizer", "train", "python:json", "--kind", "magic", "--output", "x"],
            "There is no tokenizer kind 'magic'",
        ),
        (["import", "none.pt", "out"], "There is no checkpoint none.pt"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments, message, model, tmp_path):
    result = modernbert(*(str(model) if a == "MODEL" else a for a in arguments), cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert len([line for line in result.stderr.splitlines() if line.startswith("modernbert: ")]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fill-mask", "--modle", "x"], "--model"),
        (["pertrain"], "No such command"),
        (["pretrain"], "RECIPE.toml"),
        (["inspect", "x", "--length", "long"], "--length"),
    ],
)
def test_a_mistyped_command_is_status_2_and_no_traceback(arguments, message, monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["modernbert", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    shown = capfd.readouterr()
    assert message in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""


def test_doctor_prints_its_report_for_people_and_for_machines(monkeypatch):
    """Both use one report, since rates differ between two measurements."""
    from modernbert import doctor

    report = doctor.diagnose()
    monkeypatch.setattr(doctor, "diagnose", lambda: report)
    printed = [invoke("doctor", *options).stdout for options in ((), ("--json",))]
    assert printed[0].strip() == doctor.describe(report)
    assert "native kernels" in printed[0]
    assert json.loads(printed[1]) == report


def test_fill_mask_prints_json_for_machines(model, tmp_path):
    lines = tmp_path / "texts.txt"
    lines.write_text("def [MASK]():\n\n[MASK] x in y", encoding="utf-8")
    result = modernbert(
        "fill-mask", "-", "--file", lines, "--model", model, "--top-k", 2, "--json", stdin="a [MASK] b\n"
    )
    found = json.loads(result.stdout)
    assert [entry["text"] for entry in found] == ["a [MASK] b", "def [MASK]():", "", "[MASK] x in y"]
    assert all(len(mask) == 2 for entry in found for mask in entry["masks"])


def test_fill_mask_prints_a_table_for_people(model):
    result = invoke("fill-mask", "import [MASK]", "--model", str(model), "--top-k", "3")
    assert result.exit_code == 0
    assert len(re.findall(r"^ +\d+\.\d%  \S", result.stdout, re.MULTILINE)) == 3


@pytest.mark.slow
def test_the_tiny_recipe_is_three_commands(tmp_path):
    """Runs the commands of its comments from an empty directory; the last one is shortened."""
    recipes = Path(__file__).parents[1] / "recipes" / "tiny"
    made = modernbert(
        "tokenizer", "train", "python:json", "python:email", "--vocab-size", 1024, "--output", "output/tiny/tokenizer",
        cwd=tmp_path,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    made = modernbert("corpus", recipes / "corpus.toml", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    report = modernbert("inspect", "output/tiny/shards/library", "--length", 128, "--json", cwd=tmp_path)
    assert json.loads(report.stdout)["packing_efficiency"] > 0.99
    changes = ["phases.pretrain.tokens=9000", "phases.context.tokens=5000", "phases.decay.tokens=5000"]
    made = modernbert("pretrain", recipes / "pretrain.toml", *changes, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert made.stdout.strip() == "output/tiny/run/final"
    filled = modernbert("fill-mask", "import [MASK]", "--model", "output/tiny/run/final", "--json", cwd=tmp_path)
    assert len(json.loads(filled.stdout)[0]["masks"][0]) == 5


@pytest.mark.slow
@pytest.mark.parametrize("output", ["/proc/nowhere/model", "/dev/null/model", "a" * 300])
def test_an_output_that_cannot_be_written_is_one_line_and_status_2(output, model, tmp_path):
    for arguments in (
        ("average", str(model), "--output", output),
        ("tokenizer", "train", "python:json", "--output", output),
    ):
        more = ("--vocab-size", "512") if arguments[0] == "tokenizer" else ()
        result = modernbert(*arguments, *more, cwd=tmp_path)
        assert result.returncode == 2, result.stderr
        assert "Traceback" not in result.stderr
        assert result.stderr.strip().splitlines()[-1].startswith("modernbert: ")


def test_without_a_command_the_first_ones_are_shown_and_all_of_them_exist():
    result = invoke()
    assert result.exit_code == 0
    shown = [line.split()[1] for line in result.stdout.splitlines() if line.startswith("  modernbert ")]
    assert len(shown) == 5
    assert set(shown) <= set(commands())


def test_every_command_has_its_panel_in_the_help():
    assert "Further commands" not in invoke("--help").stdout


def test_a_group_shows_examples():
    for group in ("evaluate", "bench", "tokenizer"):
        assert f"modernbert {group}" in invoke(group, "--help").stdout.partition("Examples")[2]


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_the_version_has_a_short_and_a_long_option(option):
    assert invoke(option).stdout.strip() == __version__


def test_evaluate_accepts_a_folder_without_its_subcommand(tmp_path):
    short = invoke("evaluate", str(tmp_path / "no-model"), "data.csv")
    long = invoke("evaluate", "folder", str(tmp_path / "no-model"), "data.csv")
    assert isinstance(short.exception, CheckpointError)
    assert str(short.exception) == str(long.exception)
