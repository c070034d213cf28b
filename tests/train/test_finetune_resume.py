"""A run that stops anywhere goes on to the same weights."""

import pytest

from labelled import StopAfter, predicted, recipe, same
from modernbert.run_metrics import Metrics
from modernbert.train.finetune import Finetuning, finetune, run

pytestmark = pytest.mark.usefixtures("no_pictures")


def test_an_interrupted_run_ends_with_the_same_bits(model, csvs, tmp_path):
    options = {"data": csvs, "training": {"epochs": 3, "dropout": 0.3, "evaluations_per_epoch": 2}}
    whole = finetune(recipe(model, tmp_path / "whole", **options))
    stops = 0
    while (found := run(recipe(model, tmp_path / "parts", **options), StopAfter(13))) is None:
        stops += 1
        assert stops < 20
    assert stops >= 2
    assert same(whole, found)
    assert predicted(whole) == predicted(found)


def test_a_run_that_is_resumed_between_evaluations_ends_with_the_same_bits(model, csvs, tmp_path):
    options = {"data": csvs, "training": {"epochs": 1, "dropout": 0.3}}
    machine = {"device": "cpu", "checkpoint_every_steps": 5}
    whole = finetune(recipe(model, tmp_path / "whole", **options, machine=machine))
    original = Finetuning._update

    class CrashError(Exception):
        """Ends the run between two evaluations."""

    def update(self, *arguments):
        if self.progress.step == 8:
            raise CrashError
        return original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Finetuning, "_update", update)
        with pytest.raises(CrashError):
            finetune(recipe(model, tmp_path / "parts", **options, machine=machine))
    [saved] = (tmp_path / "parts" / "training" / "seed-0" / "checkpoints").iterdir()
    assert saved.name == "step-00000005"
    parts = finetune(recipe(model, tmp_path / "parts", **options, machine=machine))
    assert same(whole, parts)
    assert [line["step"] for line in Metrics(parts / "metrics.jsonl").read()] == [
        line["step"] for line in Metrics(whole / "metrics.jsonl").read()
    ]
