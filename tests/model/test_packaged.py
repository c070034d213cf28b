"""The model in the package, and the error of a package without one."""

import json
import sys

import pytest

from corpora import make_model
from modernbert import Classifier, FillMask
from modernbert.cli import main
from modernbert.errors import CheckpointError
from modernbert.model import MaskedLM, packaged


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A small int8 model in the folder of the packaged model."""
    MaskedLM.from_pretrained(make_model(tmp_path)).save_pretrained(tmp_path / "models" / "english-mini", int8=True)
    monkeypatch.setattr(packaged, "FOLDER", tmp_path / "models" / "english-mini")
    return tmp_path / "models" / "english-mini"


@pytest.fixture
def nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(packaged, "FOLDER", tmp_path / "nothing")


def test_its_place_is_inside_the_package():
    import modernbert

    assert packaged.FOLDER.parent.parent == packaged.Path(modernbert.__file__).parent


def test_without_a_source_fill_mask_loads_it(stand_in):
    fill, named = FillMask.from_pretrained(device="cpu"), FillMask.from_pretrained(stand_in, device="cpu")
    assert fill.model.tokenizer_source == stand_in
    assert fill("import [MASK]") == named("import [MASK]")
    assert FillMask.from_pretrained(device="cpu", max_length=77).max_length == 77


def test_without_a_model_the_command_uses_it(stand_in, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["modernbert", "fill-mask", "import [MASK]", "--top-k", "2", "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    [text] = json.loads(capsys.readouterr().out)
    assert len(text["masks"][0]) == 2


def test_a_package_without_a_model_is_reported_in_one_sentence(nothing, monkeypatch, capsys):
    with pytest.raises(CheckpointError, match=r"This installation of modernbert contains no model; name a folder"):
        FillMask.from_pretrained()
    monkeypatch.setattr(sys, "argv", ["modernbert", "fill-mask", "import [MASK]"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("modernbert: This installation of modernbert contains no model")
    assert "\n" not in error


def test_other_predictors_still_want_a_model():
    with pytest.raises(TypeError, match="source"):
        Classifier.from_pretrained()


def test_a_packaged_model_is_small_enough_to_ship():
    if not packaged.FOLDER.exists():
        pytest.skip("no model comes with this checkout")
    assert sum(path.stat().st_size for path in packaged.FOLDER.iterdir()) <= 16_000_000
    fill = FillMask.from_pretrained(device="cpu")
    assert sum(parameter.numel() for parameter in fill.model.parameters()) <= 12_000_000
    assert " Tokyo" in [candidate.token for candidate in fill("The capital of Japan is [MASK].")[0]]
