import logging
import re

import pytest
import torch

from modernbert.errors import CheckpointError
from modernbert.model import EncoderConfig, MaskedLM
from modernbert.train.average import average, average_run
from modernbert.train.pretrain import pretrain

SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}


def test_every_weight_is_the_mean(tmp_path):
    models = []
    for seed in range(3):
        torch.manual_seed(seed)
        models.append(MaskedLM(EncoderConfig(**SIZES)))
        models[-1].save_pretrained(tmp_path / str(seed))
    mean = average([tmp_path / str(seed) for seed in range(3)])
    for name, parameter in mean.named_parameters():
        expected = sum(model.get_parameter(name) for model in models) / 3
        torch.testing.assert_close(parameter, expected)


def test_models_of_different_shapes_cannot_be_averaged(tmp_path):
    MaskedLM(EncoderConfig(**SIZES)).save_pretrained(tmp_path / "a")
    MaskedLM(EncoderConfig(**SIZES, local_attention=8)).save_pretrained(tmp_path / "b")
    with pytest.raises(CheckpointError, match="different configurations"):
        average([tmp_path / "a", tmp_path / "b"])


def test_the_best_checkpoints_of_a_run_and_the_last_are_averaged(recipe_for, tmp_path, caplog):
    recipe = recipe_for(tmp_path / "run")
    run = recipe.run.model_copy(update={"keep_checkpoints": 100, "checkpoint_every_steps": 2})
    validation = recipe.validation.model_copy(update={"every_steps": 2})
    pretrain(recipe.model_copy(update={"run": run, "validation": validation}))
    folders = average_run([tmp_path / "run"], tmp_path / "mean", best=2)
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names[-1] in [folder.name for folder in folders]
    assert 2 <= len(folders) <= 3
    assert (tmp_path / "mean" / "tokenizer.json").is_file()
    MaskedLM.from_pretrained(tmp_path / "mean")
    with caplog.at_level(logging.WARNING):
        assert len(average_run([tmp_path / "run"], tmp_path / "all", best=100)) < 100
    assert re.search(r"keeps \d+ checkpoints of its newest phase that have a validation loss, not 100", caplog.text)


def test_a_run_without_checkpoints_is_an_error(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match="no checkpoint to average"):
        average_run([tmp_path], tmp_path / "mean", best=3)
