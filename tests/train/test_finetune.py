"""How a run of fine-tuning trains: seeds, microbatches, frozen parts, learning rates, and what it writes on its way."""

import json
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

from labelled import recipe, report, same, weights
from modernbert.cli import app
from modernbert.config import dump
from modernbert.model import SequenceClassifier
from modernbert.run_metrics import Metrics
from modernbert.train.distributed import Processes
from modernbert.train.epochs import dropout_seed, freeze, layer_groups, schedule_factor
from modernbert.train.finetune import Finetuning, finetune
from modernbert.train.finetune_data import prepare
from modernbert.train.finetune_recipe import Training

pytestmark = pytest.mark.usefixtures("no_pictures")
ALONE = Processes(0, 1, torch.device("cpu"))


@pytest.mark.slow
def test_a_seed_decides_everything(model, csvs, tmp_path):
    one, two, three = (
        finetune(recipe(model, tmp_path / name, data=csvs, seed=seed, training={"epochs": 1}))
        for name, seed in (("a", 5), ("b", 5), ("c", 6))
    )
    assert same(one, two)
    assert not same(one, three)


def test_the_largest_seed_trains(model, csvs, tmp_path):
    folder = finetune(recipe(model, tmp_path / "run", data=csvs, seed=2**63 - 1, training={"epochs": 1}))
    assert (folder / "model.safetensors").exists()


def test_no_two_seeds_or_processes_share_the_dropout_of_a_step():
    seeds = [0, 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**62, 2**63 - 1]
    found = [dropout_seed(seed, step, rank) for seed in seeds for step in (1, 2, 10**6) for rank in (0, 1, 7)]
    assert len(set(found)) == len(found)
    assert all(0 <= number < 2**64 for number in found)
    assert dropout_seed(7, 3) == (7 << 32) + 3  # as runs before had it


def test_microbatches_do_not_change_what_is_learned(model, csvs, tmp_path):
    options = {"data": csvs, "training": {"epochs": 1, "learning_rate": 1e-4, "class_weights": "balanced"}}
    whole = finetune(recipe(model, tmp_path / "whole", **options))
    parts = finetune(recipe(model, tmp_path / "parts", **options, machine={"device": "cpu", "microbatch_tokens": 40}))
    for name, x in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], x, atol=2e-4, rtol=0)


def test_several_seeds_are_all_reported_and_the_best_is_kept(model, csvs, tmp_path):
    folder = finetune(recipe(model, tmp_path / "run", data=csvs, seeds=[1, 2], training={"epochs": 2}))
    found = report(folder)
    assert len(found["metrics"]["test"]["accuracy"]["seeds"]) == 2
    values = found["metrics"]["validation"]["accuracy"]["seeds"]
    assert values[found["seeds"].index(found["best_seed"])] == max(values)
    assert " ± " in (folder / "report.md").read_text()


def test_training_ends_early_without_improvement_and_the_best_is_kept(model, csvs, tmp_path):
    folder = finetune(recipe(model, tmp_path / "run", data=csvs, training={"epochs": 40, "patience": 2}))
    found = report(folder)
    assert found["steps"] < 40 * 12
    assert found["best_step"] < found["steps"]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    scores = {line["step"]: line["validation"]["accuracy"] for line in lines if "validation" in line}
    assert scores[found["best_step"]] == max(scores.values())


def test_frozen_parts_stay_and_the_rest_moves(model, csvs, tmp_path):
    folder = finetune(recipe(model, tmp_path / "run", data=csvs, training={"epochs": 1, "freeze_layers": 1}))
    before, after = weights(model), weights(folder)
    for name, x in before.items():
        if name.startswith("decoder."):
            continue
        stays = name.startswith(("model.embeddings.", "model.layers.0."))
        assert torch.equal(after[name], x) == stays, name


def test_random_weights_are_of_the_seed_and_not_of_the_model(model, csvs, tmp_path):
    def start(seed, name):
        chosen = recipe(model, tmp_path / name, data=csvs, random_weights=True)
        return Finetuning(chosen, *prepare(chosen), seed, ALONE).model

    first, again, other = start(0, "first"), start(0, "again"), start(1, "other")
    loaded = SequenceClassifier.from_pretrained(model, changes={"id2label": first.config.id2label})
    name = "model.embeddings.tok_embeddings.weight"
    weight = first.state_dict()[name]
    assert torch.equal(weight, again.state_dict()[name])
    for strange in (other, loaded):
        assert (weight - strange.state_dict()[name]).norm() > weight.norm()
    of_the_task = {name: getattr(first.config, name) for name in ("problem_type", "modernbert_task")}
    assert first.config == loaded.config.model_copy(update=of_the_task)
    assert first.tokenizer_source == model
    assert first.training


def test_the_learning_rate_falls_from_the_head_down(model, csvs, tmp_path):
    task, sets = prepare(recipe(model, tmp_path / "run", data=csvs))
    training = Training(learning_rate=1.0, layer_decay=0.5, weight_decay=0.1)
    finetuning = Finetuning(recipe(model, tmp_path / "run", data=csvs), task, sets, 0, ALONE)
    freeze(finetuning.model, training)
    names = {id(parameter): name for name, parameter in finetuning.model.named_parameters()}
    rates = {
        names[id(x)]: group["peak_lr"] for group in layer_groups(finetuning.model, training) for x in group["params"]
    }
    assert rates.keys() == set(names.values())
    assert rates["classifier.weight"] == rates["model.final_norm.weight"] == 1.0
    assert rates["model.layers.1.mlp.Wi.weight"] == 0.5
    assert rates["model.layers.0.mlp.Wi.weight"] == 0.25
    assert rates["model.embeddings.tok_embeddings.weight"] == 0.125


@pytest.mark.parametrize("kind", ["linear", "one_minus_sqrt", "constant"])
def test_schedules_rise_to_one_and_fall_as_they_say(kind):
    training = Training(schedule=kind, warmup=0.2)
    factors = [schedule_factor(training, step / 100) for step in range(101)]
    assert factors[10] == pytest.approx(0.5)
    assert factors[20] == pytest.approx(1.0)
    assert factors[60] == pytest.approx({"linear": 0.5, "one_minus_sqrt": 1 - 0.5**0.5, "constant": 1.0}[kind])
    assert factors[100] == pytest.approx(1.0 if kind == "constant" else 0.0)


def test_activation_checkpointing_changes_no_bit(model, csvs, tmp_path):
    plain, again = (
        finetune(
            recipe(
                model,
                tmp_path / str(flag),
                data=csvs,
                training={"epochs": 1, "dropout": 0.1},
                machine={"device": "cpu", "activation_checkpointing": flag},
            )
        )
        for flag in (False, True)
    )
    assert same(plain, again)


@pytest.mark.slow
def test_compiled_layers_finetune_to_the_same_losses(model, csvs, tmp_path):
    """In a process of its own, as dynamo cannot trace through the shape checks of a test run."""
    found = {}
    for flag in (False, True):
        made = recipe(
            model, tmp_path / str(flag), data=csvs, training={"epochs": 1},
            machine={"device": "cpu", "precision": "fp32", "compile": flag},
        )  # fmt: skip
        (tmp_path / f"{flag}.toml").write_text(dump(made))
        command = [sys.executable, "-m", "modernbert", "finetune", str(tmp_path / f"{flag}.toml")]
        result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=250)
        assert "| accuracy, test set" in result.stderr
        assert result.stdout.strip() == str(tmp_path / str(flag))
        found[flag] = [
            line["loss"] for line in Metrics(tmp_path / str(flag) / "metrics.jsonl").read() if "loss" in line
        ]
    assert found[True] == pytest.approx(found[False], abs=1e-4)


def test_tensorboard_follows_every_seed_and_its_files_stay(model, csvs, tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard, an extra, is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    machine = {"device": "cpu", "trackers": ["tensorboard"]}
    folder = finetune(recipe(model, tmp_path / "run", data=csvs, seeds=[1, 2], training={"epochs": 1}, machine=machine))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for seed in (1, 2):
        events = EventAccumulator(str(folder / "tensorboard" / f"seed-{seed}"))
        events.Reload()
        losses = {line["step"]: line["loss"] for line in lines if line["seed"] == seed and "loss" in line}
        assert {event.step: event.value for event in events.Scalars("loss")} == pytest.approx(losses, rel=1e-6)
        assert events.Scalars("validation/accuracy")


def test_the_command_ends_with_the_metrics_beside_the_baseline(model, csvs, tmp_path):
    made = tmp_path / "recipe.toml"
    made.write_text(dump(recipe(model, tmp_path / "run", data=csvs, training={"epochs": 1})))
    result = CliRunner().invoke(app, ["finetune", str(made)])
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{tmp_path / 'run'}\n"
    found = report(tmp_path / "run")["metrics"]["test"]["accuracy"]
    [line] = [line for line in result.stderr.splitlines() if line.startswith("| accuracy, test set")]
    assert line.split("|")[2].strip() == f"{found['value']:.4f}"
    assert line.split("|")[4].strip() == f"{found['baseline']:.4f}"
