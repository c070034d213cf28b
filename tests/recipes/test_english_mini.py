"""The scripts of recipes/english-mini, with a small model and its shards."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from corpora import make_shards, make_tokenizer, tiny_recipe
from modernbert import FillMask
from modernbert.config import load, parse
from modernbert.model.packaged import FOLDER as FOLDER_OF_PACKAGE
from modernbert.model.quantized_folder import INT8_WEIGHTS
from modernbert.train.pretrain import pretrain
from modernbert.train.recipe import PretrainRecipe

FOLDER = Path(__file__).parents[2] / "recipes" / "english-mini"


def script(name, monkeypatch):
    """A script of the recipe as a module; it can import the other scripts."""
    monkeypatch.syspath_prepend(FOLDER)
    for other in ("evaluate", "carry", "phases", "ship"):
        monkeypatch.delitem(sys.modules, other, raising=False)
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run with its tokenizer and shards."""
    base = tmp_path_factory.mktemp("english-mini")
    tokenizer = make_tokenizer(base / "tokenizer")
    shards = make_shards(base / "shards" / "library", tokenizer)
    values = tiny_recipe(tokenizer, shards, base / "run")
    for phase, tokens in (("pretrain", 2000), ("context", 1000), ("decay", 1000)):
        values["phases"][phase]["tokens"] = tokens
    values["phases"]["pretrain"]["schedule"]["warmup_tokens"] = 500
    pretrain(parse(PretrainRecipe, values, "test"))
    return base


def test_archives_restore_every_byte_and_are_reproducible(run, tmp_path, monkeypatch):
    carry = script("carry", monkeypatch)
    hashes = carry.pack(run, tmp_path / "first.tar.xz")
    assert {Path(name).parts[0] for name in hashes} == {"tokenizer", "shards"}
    assert carry.unpack(tmp_path / "first.tar.xz", tmp_path / "there") == hashes
    for name in hashes:
        assert (tmp_path / "there" / name).read_bytes() == (run / name).read_bytes()
    carry.pack(tmp_path / "there", tmp_path / "second.tar.xz")
    assert (tmp_path / "first.tar.xz").read_bytes() == (tmp_path / "second.tar.xz").read_bytes()
    assert carry.unpack(tmp_path / "first.tar.xz", tmp_path / "there") == hashes  # a second call finds all files


def test_a_damaged_archive_and_other_files_in_the_way_are_one_sentence(run, tmp_path, monkeypatch):
    carry = script("carry", monkeypatch)
    archive = tmp_path / "carried.tar.xz"
    carry.pack(run, archive)
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(carry.CarryError, match="cannot be unpacked"):
        carry.unpack(archive, tmp_path / "there")
    assert not (tmp_path / "there").exists()
    archive.write_bytes(whole)
    carry.unpack(archive, tmp_path / "there")
    (tmp_path / "there" / "tokenizer" / "tokenizer.json").write_text("another")
    with pytest.raises(carry.CarryError, match="tokenizer is there and holds other files"):
        carry.unpack(archive, tmp_path / "there")
    with pytest.raises(carry.CarryError, match="holds no file"):
        carry.pack(tmp_path / "nothing", archive)


def test_unpacking_needs_nothing_but_python(run, tmp_path, monkeypatch):
    script("carry", monkeypatch).pack(run, tmp_path / "carried.tar.xz")
    words = [sys.executable, "-I", "-S", FOLDER / "carry.py", "unpack", tmp_path / "carried.tar.xz"]
    done = subprocess.run(
        [*words, "--folder", tmp_path / "there"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "there" / "shards" / "library" / "library.ds").is_file()


@pytest.mark.slow
def test_training_from_shards_needs_no_extra():
    """The other machine may lack them."""
    code = """
import sys
for module in ("datatrove", "pyarrow", "orjson", "zstandard", "matplotlib", "scipy", "transformers"):
    sys.modules[module] = None
import modernbert.cli, modernbert.train.pretrain
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_phases_keep_their_proportions_in_any_time(monkeypatch):
    phases = script("phases", monkeypatch)
    path = FOLDER / "pretrain.toml"
    recipe = load(PretrainRecipe, path)
    total = sum(phase.tokens for phase in recipe.phases.values())
    for tokens in (60_000_000, total, 2 * total):
        scaled = load(PretrainRecipe, path, phases.overrides(recipe, tokens))
        assert sum(phase.tokens for phase in scaled.phases.values()) == pytest.approx(tokens, abs=3)
        for name, phase in scaled.phases.items():
            assert phase.tokens / tokens == pytest.approx(recipe.phases[name].tokens / total, rel=1e-6)
            assert phase.mixture == recipe.phases[name].mixture
        first = scaled.phases["pretrain"]
        assert first.schedule.warmup_tokens < 0.05 * first.tokens
        assert first.batch_tokens.warmup_tokens < 0.2 * first.tokens


def test_the_recipe_is_within_its_number_of_parameters():
    from modernbert.model import MaskedLM

    model = MaskedLM(load(PretrainRecipe, FOLDER / "pretrain.toml").model.config(vocab_size=16384))
    assert sum(parameter.numel() for parameter in model.parameters()) <= 12_000_000


def test_a_run_becomes_a_folder_with_its_figures_and_its_card(run, tmp_path, monkeypatch, capsys):
    ship = script("ship", monkeypatch)
    output = tmp_path / "int8"
    monkeypatch.setattr(ship, "install", lambda stored: pytest.fail("it is not good enough"))
    words = ["ship.py", "--run", run / "run", "--output", output, "--tokens", 2000, "--trained-on", "a processor"]
    monkeypatch.setattr(sys, "argv", [*map(str, words), "--install"])
    with pytest.raises(SystemExit) as ended:  # random weights fail the required sentences
        ship.main()
    assert ended.value.code == 1
    assert "30 are required" in capsys.readouterr().out
    assert {path.name for path in output.iterdir()} >= {INT8_WEIGHTS, "config.json", "tokenizer.json", "figures.json"}
    assert len(FillMask.from_pretrained(output, device="cpu")("import [MASK]")[0]) == 5
    figures, text = json.loads((output / "figures.json").read_text()), (output / "README.md").read_text()
    assert text == ship.card(figures)
    stored = figures["models"][ship.STORED]
    assert len(stored["sentences"]) == 50
    for part in (
        f"{stored['parameters']:,} parameters",
        f"{figures['tokens']:,} tokens in ",
        "on a processor.",
        f"{stored['held_out']['library']['bits_per_byte']:.3f}, ",
        "| decay | 1,000 | 25 % | 256 | 1,024 | 30 % | 0.003, falling as 1 - sqrt | library 100 % |",
        "Water is made of hydrogen and [MASK].",
        "CC BY-SA 4.0",
    ):
        assert part in text, part


def test_the_card_of_the_packaged_model_has_the_measured_figures(monkeypatch):
    if not FOLDER_OF_PACKAGE.exists():
        pytest.skip("no model comes with this checkout")
    ship = script("ship", monkeypatch)
    figures = json.loads((FOLDER_OF_PACKAGE / "figures.json").read_text(encoding="utf-8"))
    assert (FOLDER_OF_PACKAGE / "README.md").read_text(encoding="utf-8") == ship.card(figures)
    assert ship.shortfalls(figures) == []
    assert ship.ATTRIBUTION.read_text(encoding="utf-8").strip() in ship.NOTICE.read_text(encoding="utf-8")


def good(ship):
    sentences = [{"text": "", "answer": "a", "best": ["b", "a"] if n < 30 else ["b"]} for n in range(50)]
    stored = {
        "parameters": 11_000_000,
        "bytes": 13_000_000,
        "sentences": sentences,
        "capital": [{"token": " Tokyo", "probability": 0.2}],
    }
    return {"models": {ship.STORED: stored}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parameters": 12_000_001}, "12,000,001 parameters"),
        ({"bytes": 16_000_001}, "16,000,001 bytes"),
        ({"capital": [{"token": "Tokyo", "probability": 0.2}]}, '" Tokyo" is not among'),
        (
            {"sentences": [{"text": "", "answer": "a", "best": ["b", "a"] if n < 29 else ["b"]} for n in range(50)]},
            "of 29 s",
        ),
    ],
)
def test_a_model_ships_only_if_it_reaches_its_target(change, message, monkeypatch):
    ship = script("ship", monkeypatch)
    assert ship.shortfalls(good(ship)) == []
    figures = good(ship)
    figures["models"][ship.STORED] |= change
    [problem] = ship.shortfalls(figures)
    assert message in problem


def test_installing_brings_the_attributions_once(tmp_path, monkeypatch):
    ship = script("ship", monkeypatch)
    (tmp_path / "int8").mkdir()
    (tmp_path / "int8" / "config.json").write_text("{}")
    (tmp_path / "int8" / "config.json").chmod(0o600)
    (tmp_path / "NOTICE").write_text("modernbert\n")
    for _ in range(2):
        ship.install(tmp_path / "int8", tmp_path / "package", tmp_path / "NOTICE")
    assert (tmp_path / "package" / "config.json").stat().st_mode & 0o777 == 0o644  # all users of a machine read it
    notice = (tmp_path / "NOTICE").read_text()
    assert notice.startswith("modernbert\n\n")
    assert notice.count("Wikinews (CC BY 2.5)") == 1
