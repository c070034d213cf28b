import numpy as np
import pytest
import torch

from corpora import make_shards, make_tokenizer, tiny_recipe
from modernbert.config import parse
from modernbert.errors import ConfigError, DataError
from modernbert.evaluate import positions
from modernbert.evaluate.positions import loss_by_position, plot_positions
from modernbert.model import EncoderConfig, MaskedLM
from modernbert.stream.shards import Shards
from modernbert.text.tokenizer import load_tokenizer
from modernbert.train.pretrain import pretrain
from modernbert.train.recipe import PretrainRecipe


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two short phases on documents of about 2,000 tokens."""
    folder = tmp_path_factory.mktemp("positions")
    tokenizer = make_tokenizer(folder / "tokenizer")
    shards = make_shards(folder / "shards", tokenizer, characters=6000)
    recipe = tiny_recipe(tokenizer, shards, folder / "run")
    recipe["validation"]["fraction"] = 0.2
    del recipe["phases"]["decay"]
    recipe["phases"]["pretrain"]["tokens"] = recipe["phases"]["context"]["tokens"] = 2_500
    pretrain(parse(PretrainRecipe, recipe, "tiny"))
    return folder / "run"


def test_the_ends_of_the_phases_are_measured_on_the_same_rows(run):
    found = loss_by_position(run, length=1024, rows=3)
    assert [curve.model for curve in found.curves] == ["after pretrain", "after context"]
    assert found.rows == 3
    for curve in found.curves:
        assert curve.starts == tuple(range(0, 1024, 64))
        assert all(3 < loss < 9 for loss in curve.loss)
        assert all(error > 0 for error in curve.error)
    assert found.curves[0].loss != found.curves[1].loss


def test_the_stretches_add_up_to_the_loss_of_the_model(run, monkeypatch):
    seen = []
    original = positions._sums

    def sums(model, inputs, labels):
        found = original(model, inputs, labels)
        loss = model.loss(
            torch.from_numpy(inputs), positions.Sequences.from_lengths([len(inputs)]), torch.from_numpy(labels)
        )
        seen.append((found, float(loss.detach())))
        return found

    monkeypatch.setattr(positions, "_sums", sums)
    loss_by_position(run, [str(run / "final")], length=1024, rows=2)
    assert len(seen) == 2
    for (losses, counts), loss in seen:
        assert losses.sum() / counts.sum() == pytest.approx(loss, rel=5e-3)  # bf16 against fp32
        assert 0.1 * 1024 < counts.sum() < 0.2 * 1024


def test_rows_are_of_documents_that_were_held_out(run, monkeypatch):
    rows = []
    monkeypatch.setattr(
        positions, "mask_tokens", lambda ids, *_, **__: (rows.append(ids), (ids, np.where(ids < 0, 0, ids)))[1]
    )
    loss_by_position(run, [str(run / "final")], length=1024, rows=4)
    split = Shards.open(run.parent / "shards").split(0.2)
    held_out = [split.validation.shards.document(i).tolist() for i in split.validation.indices]
    ids = load_tokenizer(run.parent / "tokenizer")
    for row in rows:
        assert len(row) == 1024
        assert (row[0], row[-1]) == (ids.token_to_id("[CLS]"), ids.token_to_id("[SEP]"))
        assert any(
            row[1:-1].tolist() == document[start : start + 1022]
            for document in held_out
            for start in range(0, 5000, 1022)
        )


def test_the_picture_is_drawn(run, tmp_path):
    plot_positions(loss_by_position(run, length=1024, rows=2), tmp_path / "positions.svg")
    assert "after context" in (tmp_path / "positions.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"length": 100_000}, DataError, "give a smaller --length"),
        ({"length": 100}, ConfigError, "give at least 1024"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(run, arguments, error, message):
    with pytest.raises(error, match=message):
        loss_by_position(run, **arguments)


def test_a_folder_without_a_run_and_a_model_with_another_vocabulary_are_refused(run, tmp_path):
    with pytest.raises(DataError, match="give the directory of a run"):
        loss_by_position(tmp_path)
    config = MaskedLM.from_pretrained(run / "final").config.model_dump()
    ids = {name: 1 for name in config if name.endswith("_token_id")}
    MaskedLM(EncoderConfig(**config | ids | {"vocab_size": 64})).save_pretrained(tmp_path / "other")
    with pytest.raises(ConfigError, match="does not have the vocabulary"):
        loss_by_position(run, [str(tmp_path / "other")], length=1024)
