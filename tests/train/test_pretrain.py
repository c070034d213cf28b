import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from modernbert.config import dump
from modernbert.errors import CheckpointError, ConfigError, DataError
from modernbert.model import MaskedLM
from modernbert.run_metrics import Metrics
from modernbert.stream.loader import Loader
from modernbert.train import loop
from modernbert.train import pretrain as module
from modernbert.train.distributed import Processes
from modernbert.train.pretrain import pretrain
from modernbert.train.stopping import StopRequest


def weights(folder):
    return load_file(folder / "model.safetensors")


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def losses(run):
    return [line["loss"] for line in Metrics(run / "metrics.jsonl").read() if "loss" in line]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, material):
    """One uninterrupted run for several tests."""
    from corpora import tiny_recipe
    from modernbert.config import parse
    from modernbert.train.recipe import PretrainRecipe

    run = tmp_path_factory.mktemp("whole") / "run"
    assert pretrain(parse(PretrainRecipe, tiny_recipe(*material, run), "tiny")) == run / "final"
    return run


def test_the_loss_falls_through_all_phases(whole_run):
    found = losses(whole_run)
    assert sum(found[-3:]) / 3 < sum(found[:3]) / 3 - 0.5


def test_every_phase_reports_its_own_settings(whole_run):
    lines = [line for line in Metrics(whole_run / "metrics.jsonl").read() if "loss" in line]
    assert list(dict.fromkeys(line["phase"] for line in lines)) == ["pretrain", "context", "decay"]
    assert [line["batch_tokens"] for line in lines][:3] == [512, 512, 512]
    assert lines[0]["learning_rate"] < 3e-3
    assert lines[-1]["learning_rate"] == pytest.approx(3e-6, rel=1e-6)
    assert sum(line["fill"] for line in lines) / len(lines) > 0.9


def test_the_model_keeps_the_thetas_and_the_length_of_the_last_phase(whole_run):
    config = MaskedLM.from_pretrained(whole_run / "final").config
    assert (config.global_rope_theta, config.local_rope_theta) == (160_000.0, 10_000.0)
    assert config.max_position_embeddings == 256
    assert config.attention_output_dropout == 0.1


def test_every_checkpoint_is_a_loadable_model_folder(whole_run):
    for folder in (whole_run / "checkpoints").iterdir():
        MaskedLM.from_pretrained(folder)
        assert (folder / "tokenizer.json").is_file()


def test_the_newest_checkpoints_and_the_end_of_every_phase_stay(whole_run):
    folders = module.checkpoint.folders(whole_run / "checkpoints")
    states = [json.loads((folder / "training" / "state.json").read_text()) for folder in folders]
    assert [state["phase"] for state in states if state["phase_end"]] == [0, 1, 2]
    assert [state["phase"] for state in states if not state["phase_end"]] == [2]  # keep_checkpoints is 2


def test_validation_reports_loss_accuracy_and_bits_per_byte(whole_run):
    results = [
        line["validation"]["library"] for line in Metrics(whole_run / "metrics.jsonl").read() if "validation" in line
    ]
    assert len(results) >= 3
    assert results[-1]["loss"] < results[0]["loss"]
    assert 0 <= results[-1]["accuracy"] <= 1
    assert 0.5 < results[-1]["bits_per_byte"] < 8


def test_two_runs_give_identical_weights(whole_run, recipe_for, tmp_path):
    final = pretrain(recipe_for(tmp_path / "run"))
    assert equal(weights(final), weights(whole_run / "final"))


class CrashError(Exception):
    pass


@pytest.mark.parametrize("crash_at", [1, 3, 6, 11, 15])
def test_a_crashed_run_resumes_to_the_same_weights(whole_run, recipe_for, tmp_path, monkeypatch, crash_at):
    """Before the first checkpoint (without and with metrics), inside the batch warm-up, and after a phase change."""
    original, calls = module.Pretraining._update, []

    def update(self, *arguments):
        calls.append(1)
        if len(calls) == crash_at:
            raise CrashError
        return original(self, *arguments)

    monkeypatch.setattr(module.Pretraining, "_update", update)
    with pytest.raises(CrashError):
        pretrain(recipe_for(tmp_path / "run"))
    monkeypatch.undo()
    final = pretrain(recipe_for(tmp_path / "run"))
    assert equal(weights(final), weights(whole_run / "final"))
    assert losses(tmp_path / "run") == losses(whole_run)


def test_a_crash_while_saving_keeps_the_previous_checkpoint(whole_run, recipe_for, tmp_path, monkeypatch):
    original, saves = module.checkpoint.save_file, []

    def save_file(*arguments):
        saves.append(1)
        if len(saves) == 2:
            raise CrashError
        original(*arguments)

    monkeypatch.setattr(module.checkpoint, "save_file", save_file)
    with pytest.raises(CrashError):
        pretrain(recipe_for(tmp_path / "run"))
    monkeypatch.undo()
    assert len(module.checkpoint.folders(tmp_path / "run" / "checkpoints")) == 1
    assert equal(weights(pretrain(recipe_for(tmp_path / "run"))), weights(whole_run / "final"))


def test_ctrl_c_saves_and_the_same_command_resumes(whole_run, recipe_for, tmp_path, monkeypatch):
    original = module.Pretraining._update

    def update(self, *arguments):
        if self.progress.step == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *arguments)

    monkeypatch.setattr(module.Pretraining, "_update", update)
    assert pretrain(recipe_for(tmp_path / "run")) is None
    monkeypatch.undo()
    assert module.checkpoint.folders(tmp_path / "run" / "checkpoints")[-1].name == "step-00000006"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert equal(weights(pretrain(recipe_for(tmp_path / "run"))), weights(whole_run / "final"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_that_was_ignored_at_the_start_stays_ignored(number):
    """As with nohup."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), number)
            assert not stop.requested
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_a_complete_run_is_unchanged(whole_run, recipe_for):
    before = (whole_run / "final" / "model.safetensors").stat().st_mtime_ns
    assert pretrain(recipe_for(whole_run)) == whole_run / "final"
    assert (whole_run / "final" / "model.safetensors").stat().st_mtime_ns == before


def test_the_largest_seed_trains(recipe_for, tmp_path):
    assert pretrain(recipe_for(tmp_path / "run", seed=2**63 - 1)) == tmp_path / "run" / "final"


def test_a_directory_of_another_recipe_is_refused(whole_run, recipe_for):
    with pytest.raises(ConfigError, match=r"whose \[seed\] differs"):
        pretrain(recipe_for(whole_run, seed=7))


def test_a_directory_with_other_files_is_refused(recipe_for, tmp_path):
    (tmp_path / "precious.txt").write_text("keep me")
    with pytest.raises(ConfigError, match="not empty and holds no run"):
        pretrain(recipe_for(tmp_path))
    assert (tmp_path / "precious.txt").read_text() == "keep me"


@pytest.mark.slow
def test_the_size_of_microbatches_does_not_change_the_result(recipe_for, tmp_path):
    def run(name, microbatch_tokens):
        recipe = recipe_for(tmp_path / name)
        changed = recipe.run.model_copy(update={"microbatch_tokens": microbatch_tokens})
        model = recipe.model.model_copy(update={"attention_output_dropout": 0.0})
        pretrain(recipe.model_copy(update={"run": changed, "model": model}))
        return losses(tmp_path / name)

    assert run("small", 256) == pytest.approx(run("large", 4096), rel=1e-4)


def test_a_loss_that_is_not_finite_stops_the_run_with_an_error(recipe_for, tmp_path, monkeypatch):
    def loss_at(self, *arguments):
        return original(self, *arguments) * float("nan")

    original = MaskedLM.loss_at
    monkeypatch.setattr(MaskedLM, "loss_at", loss_at)
    with pytest.raises(ConfigError, match="not finite at step 1: lower"):
        pretrain(recipe_for(tmp_path / "run"))


def test_nothing_is_saved_after_a_step_whose_loss_is_not_finite(recipe_for, tmp_path, monkeypatch):
    """Although losses are read a step late: step 4, with a checkpoint, starts before the loss of step 3 is read."""

    def loss_at(self, *arguments):
        return original(self, *arguments) * (float("nan") if torch.initial_seed() == 3 else 1.0)

    original = MaskedLM.loss_at
    monkeypatch.setattr(MaskedLM, "loss_at", loss_at)
    monkeypatch.setattr(loop, "_ASYNCHRONOUS_DEVICE", "cpu")
    recipe = recipe_for(tmp_path / "run", phases={"only": _phase(tokens=8_000)})
    run = recipe.run.model_copy(update={"checkpoint_every_steps": 2})
    with pytest.raises(ConfigError, match="not finite at step 3: lower"):
        pretrain(recipe.model_copy(update={"run": run}))
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000002"]


def test_losses_equal_those_of_a_plain_loop_exactly(recipe_for, tmp_path):
    """The plain loop has no prefetching and no late reads; the run has a batch warm-up and dropout."""
    batch_tokens = {"tokens": 1024, "start": 512, "warmup_tokens": 2_000}
    recipe = recipe_for(tmp_path / "run", phases={"only": _phase(tokens=8_000, batch_tokens=batch_tokens)})
    elsewhere = recipe.model_copy(update={"run": recipe.run.model_copy(update={"directory": tmp_path / "plain"})})
    phase, plain = recipe.phases["only"], module.Pretraining(elsewhere, Processes(0, 1, torch.device("cpu")))
    plain._enter("only", phase)
    loader, model, optimizer = plain.data.loader("only"), plain.model, plain.optimizer
    expected, tokens = [], 0
    while tokens < phase.tokens:
        rows = loader.next_packed_sequences(phase.batch_tokens.at(len(expected)) // 128)
        batches = [loader.batch(rows[first : first + 4]) for first in range(0, len(rows), 4)]
        tokens += sum(len(batch.input_ids) for batch in batches)
        predicted = torch.tensor(float(sum((batch.labels != -100).sum() for batch in batches)))
        torch.manual_seed(recipe.seed + len(expected) + 1)
        total = torch.zeros(())
        for batch in batches:
            masked = batch.labels != -100
            rows_of_it = masked.nonzero().squeeze(1)
            loss = model.loss_at(batch.input_ids, batch.sequences, rows_of_it, batch.labels[masked]) / predicted
            loss.backward()
            total += loss.detach()
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = 1e-3
        optimizer.step()
        optimizer.zero_grad()
        expected.append(float(total))
    final = pretrain(recipe)
    assert losses(tmp_path / "run") == expected
    assert equal(
        weights(final), {name: weight for name, weight in model.state_dict().items() if name in weights(final)}
    )
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]


@pytest.mark.slow
@pytest.mark.parametrize("graphs", [False, True])
def test_padding_and_fixed_gradient_addresses_do_not_change_the_losses(
    recipe_for, tmp_path, monkeypatch, caplog, graphs
):
    """The inputs of a CUDA device, on the CPU; the recording of graphs fails, if it is possible."""

    def recorder():
        def record(work):
            raise RuntimeError("there is no device")

        return record

    recipe = recipe_for(tmp_path / "plain")
    model = recipe.model.model_copy(update={"attention_output_dropout": 0.0})
    pretrain(recipe.model_copy(update={"model": model}))
    monkeypatch.setattr(loop, "_ASYNCHRONOUS_DEVICE", "cpu")
    monkeypatch.setattr(module, "CudaRecorder", recorder)
    monkeypatch.setattr(module.Pretraining, "_supports_graphs", lambda self: graphs)
    run = recipe.run.model_copy(update={"directory": tmp_path / "staged"})
    with caplog.at_level(logging.WARNING, logger="modernbert"):
        final = pretrain(recipe.model_copy(update={"model": model, "run": run}))
    assert caplog.text.count("continues without CUDA graphs") == graphs
    assert losses(tmp_path / "staged") == pytest.approx(losses(tmp_path / "plain"), rel=1e-4)
    for name, weight in weights(tmp_path / "plain" / "final").items():
        torch.testing.assert_close(weights(final)[name], weight, rtol=0, atol=1e-4)
    lines = zip(*(Metrics(tmp_path / name / "metrics.jsonl").read() for name in ("plain", "staged")), strict=True)
    for one, other in lines:
        assert (one["step"], one["tokens"], one.get("fill")) == (other["step"], other["tokens"], other.get("fill"))


def test_an_error_of_the_loader_is_raised_unchanged_at_its_update(recipe_for, tmp_path, monkeypatch):
    original = Loader.next_packed_sequences

    def next_packed_sequences(self, count):
        if self.state()["rows"] >= 6 * 4:
            raise DataError("the disk with the shards is gone")
        return original(self, count)

    monkeypatch.setattr(Loader, "next_packed_sequences", next_packed_sequences)
    with pytest.raises(DataError, match="the disk with the shards is gone"):
        pretrain(recipe_for(tmp_path / "run", phases={"only": _phase(tokens=8_000)}))
    assert len(losses(tmp_path / "run")) == 6
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_losses_that_are_read_late_are_reported_with_their_steps(recipe_for, tmp_path, monkeypatch):
    recipe = recipe_for(tmp_path / "run", phases={"only": _phase(tokens=8_000), "then": _phase(tokens=2_000)})

    def run(name, every_steps):
        changed = recipe.run.model_copy(update={"log_every_steps": every_steps, "directory": tmp_path / name})
        pretrain(recipe.model_copy(update={"run": changed}))
        return [line for line in Metrics(tmp_path / name / "metrics.jsonl").read() if "loss" in line]

    monkeypatch.setattr(loop, "_ASYNCHRONOUS_DEVICE", "cpu")
    read, counts = [], {}
    original = module.Pretraining._read

    def watched(self, launched):
        read.append(self.progress.step)
        found = original(self, launched)
        counts[found.progress.step] = found.count
        return found

    monkeypatch.setattr(module.Pretraining, "_read", watched)
    single = {line["step"]: line for line in run("single", 1)}
    assert read == [2, 3, 4, 4, 6, 6, 8, 8, *read[8:]]  # all are read before a checkpoint or a validation
    last = 0
    for line in run("threes", 3):
        steps = range(last + 1, line["step"] + 1)
        nats = sum(counts[step] * single[step]["loss"] for step in steps)
        assert line["loss"] == pytest.approx(nats / sum(counts[step] for step in steps), rel=1e-12)
        for name in ("phase", "tokens", "grad_norm", "learning_rate"):
            assert line[name] == single[line["step"]][name]
        last = line["step"]
    assert last == max(single)


@pytest.mark.parametrize("name", ["model.safetensors", "training/optimizer.safetensors", "training/state.json"])
def test_a_damaged_checkpoint_is_reported_and_the_previous_one_is_used(whole_run, recipe_for, tmp_path, caplog, name):
    run = tmp_path / "run"
    shutil.copytree(whole_run, run)
    shutil.rmtree(run / "final")
    newest = module.checkpoint.folders(run / "checkpoints")[-1]
    content = bytearray((newest / name).read_bytes())
    content[len(content) // 2] ^= 1
    (newest / name).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        final = pretrain(recipe_for(run))
    assert f"{newest.name} is damaged ({name})" in caplog.text
    assert equal(weights(final), weights(whole_run / "final"))


def test_a_run_with_only_damaged_checkpoints_is_an_error(whole_run, recipe_for, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole_run, run)
    shutil.rmtree(run / "final")
    for folder in module.checkpoint.folders(run / "checkpoints"):
        (folder / "model.safetensors").write_bytes(b"broken")
    for _ in range(2):  # it is an error again, and not a silent new start
        with pytest.raises(CheckpointError, match=r"Every checkpoint in .* is damaged"):
            pretrain(recipe_for(run))


def test_a_full_disk_is_an_error_and_keeps_the_last_checkpoint(whole_run, recipe_for, tmp_path, monkeypatch):
    original, saves = module.checkpoint.save_file, []

    def save_file(*arguments):
        saves.append(1)
        if len(saves) == 2:
            raise OSError(28, "No space left on device")
        original(*arguments)

    monkeypatch.setattr(module.checkpoint, "save_file", save_file)
    with pytest.raises(CheckpointError, match=r"step 8 could not be written \(.*No space left on device\); free space"):
        pretrain(recipe_for(tmp_path / "run"))
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000004"]
    assert equal(weights(pretrain(recipe_for(tmp_path / "run"))), weights(whole_run / "final"))


@pytest.mark.slow
def test_the_best_checkpoints_and_the_milestones_are_kept(recipe_for, tmp_path):
    recipe = recipe_for(tmp_path / "run")
    run = recipe.run.model_copy(update={"keep_checkpoints": 1, "keep_best": 2, "keep_every_tokens": 5_000})
    validation = recipe.validation.model_copy(update={"every_steps": 1})
    pretrain(recipe.model_copy(update={"run": run, "validation": validation}))
    found = {path.name: json.loads((path / "training" / "state.json").read_text())
             for path in module.checkpoint.folders(tmp_path / "run" / "checkpoints")}  # fmt: skip
    milestones = [state["tokens"] for state in found.values() if state["milestone"] and not state["phase_end"]]
    assert {1, 2} <= {tokens // 5_000 for tokens in milestones}
    best = [path.name for path in module.checkpoint.best(tmp_path / "run" / "checkpoints", 2)]
    losses = sorted(state["validation_loss"] for state in found.values() if state["phase"] == 2)
    assert [found[name]["validation_loss"] for name in best] == losses[:2]
    assert len(found) <= 1 + 2 + 3 + 3


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_that_is_killed_at_any_time_resumes_to_the_same_weights(material, tmp_path):
    """SIGKILL at least ten times at random times, also while saving, at phase changes and in the batch warm-up."""
    from corpora import tiny_recipe
    from modernbert.config import parse
    from modernbert.train.recipe import PretrainRecipe

    def command(name):
        recipe = tiny_recipe(*material, tmp_path / name)
        recipe["run"]["checkpoint_every_steps"] = 1
        for phase in recipe["phases"].values():
            phase["tokens"] *= 6
        path = tmp_path / f"{name}.toml"
        path.write_text(dump(parse(PretrainRecipe, recipe, "tiny")))
        return [sys.executable, "-c", "from modernbert.cli import main; main()", "pretrain", str(path)]

    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command("whole"), check=True, env=environment, timeout=300)
    generator, phases, kills, step = random.Random(0), set(), 0, 0
    while not (tmp_path / "killed" / "final").exists():
        process = subprocess.Popen(command("killed"), env=environment)
        target = step + generator.randint(4, 9)
        while process.poll() is None:
            lines = [line for line in Metrics(tmp_path / "killed" / "metrics.jsonl").read() if "loss" in line]
            step = lines[-1]["step"] if lines else 0
            if step >= target:
                time.sleep(generator.uniform(0, 0.06))  # an update and its checkpoint take about as long
                process.kill()
                kills += process.wait() == -signal.SIGKILL
                phases.add(lines[-1]["phase"])
    assert kills >= 10
    assert phases == {"pretrain", "context", "decay"}
    assert equal(weights(tmp_path / "killed" / "final"), weights(tmp_path / "whole" / "final"))
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


def test_shards_of_another_tokenizer_are_refused(recipe_for, tmp_path):
    from corpora import make_tokenizer

    with pytest.raises(DataError, match="outside the vocabulary of 320"):
        pretrain(recipe_for(tmp_path / "run", tokenizer=str(make_tokenizer(tmp_path / "other", vocab_size=320))))


def test_nothing_in_a_checkpoint_is_pickled(whole_run):
    newest = sorted((whole_run / "checkpoints").iterdir())[-1]
    kinds = {path.suffix for path in newest.rglob("*") if path.is_file()}
    assert kinds == {".json", ".safetensors", ".toml"}
    assert json.loads((newest / "training" / "state.json").read_text())["step"] > 0


def test_training_works_outside_the_main_thread(recipe_for, tmp_path):
    """Signals can only be handled in the main thread; in another one, training works without."""
    recipe = recipe_for(tmp_path / "run")
    results = []
    thread = threading.Thread(target=lambda: results.append(pretrain(recipe)))
    thread.start()
    thread.join()
    assert results == [tmp_path / "run" / "final"]


def test_a_shard_that_vanishes_during_a_run_is_an_error_and_keeps_the_last_checkpoint(
    whole_run, recipe_for, material, tmp_path, monkeypatch
):
    shards = tmp_path / "shards"
    shutil.copytree(material[1], shards)
    recipe = recipe_for(tmp_path / "run", data={"library": str(shards)})
    original = module.Pretraining._update

    def update(self, *arguments):
        if self.progress.step == 5:
            (shards / "library.ds").rename(tmp_path / "elsewhere")
        return original(self, *arguments)

    monkeypatch.setattr(module.Pretraining, "_update", update)
    with pytest.raises(DataError, match=r"library\.ds is missing; put it back and give the same command again"):
        pretrain(recipe)
    monkeypatch.undo()
    (tmp_path / "elsewhere").rename(shards / "library.ds")
    assert equal(weights(pretrain(recipe)), weights(whole_run / "final"))


def test_a_loss_spike_is_logged_with_its_step_and_all_documents_of_the_batch(recipe_for, tmp_path, monkeypatch, caplog):
    original = module.Pretraining._read

    def read(self, launched):
        found = original(self, launched)
        return replace(found, loss=found.loss + 30) if found.progress.step == 23 else found

    monkeypatch.setattr(module.Pretraining, "_read", read)
    monkeypatch.setattr(loop, "_ASYNCHRONOUS_DEVICE", "cpu")  # so that the loss is read a step late
    recipe = recipe_for(tmp_path / "run", phases={"only": _phase(tokens=14_000)})
    run = recipe.run.model_copy(update={"log_every_steps": 10})
    with caplog.at_level(logging.WARNING, logger="modernbert"):
        pretrain(recipe.model_copy(update={"run": run}))
    [warning] = [record.getMessage() for record in caplog.records if "the loss rose" in record.getMessage()]
    [spike] = [line for line in Metrics(tmp_path / "run" / "metrics.jsonl").read() if "spike" in line]
    assert "step     23" in warning
    assert "library" in warning
    assert spike["step"] == 23
    assert spike["spike"]["loss"] > spike["spike"]["usual"] + 20
    assert len(spike["spike"]["documents"]["library"]) >= 2


def test_only_documents_of_the_configured_lengths_are_read(recipe_for, material, tmp_path):
    limits = {"path": str(material[1]), "min_tokens": 150, "max_tokens": 200}
    training = module.Pretraining(
        recipe_for(tmp_path / "run", data={"library": limits}), Processes(0, 1, torch.device("cpu"))
    )
    lengths = training.data.training["library"].lengths
    assert lengths.min() >= 150
    assert lengths.max() <= 200


def test_lengths_without_documents_are_refused(recipe_for, material, tmp_path):
    limits = {"path": str(material[1]), "min_tokens": 100_000}
    with pytest.raises(DataError, match=r"no document of 100000 to any number of tokens; change data\.library"):
        pretrain(recipe_for(tmp_path / "run", data={"library": limits}))


def test_a_source_is_not_repeated_more_than_max_repeats(recipe_for, tmp_path):
    with pytest.raises(ConfigError, match="max_repeats"):
        pretrain(recipe_for(tmp_path / "run", phases={"only": _phase(tokens=10_000_000, max_repeats=2)}))


@pytest.mark.slow
def test_activation_checkpointing_does_not_change_the_result(whole_run, recipe_for, tmp_path):
    recipe = recipe_for(tmp_path / "run")
    run = recipe.run.model_copy(update={"activation_checkpointing": True})
    final = pretrain(recipe.model_copy(update={"run": run}))
    assert equal(weights(final), weights(whole_run / "final"))


@pytest.mark.slow
def test_compiled_layers_train_to_the_same_losses(recipe_for, tmp_path):
    """In a process of its own, as dynamo cannot trace through the shape checks of a test run."""
    recipe = recipe_for(tmp_path / "plain")
    model = recipe.model.model_copy(update={"attention_output_dropout": 0.0})
    pretrain(recipe.model_copy(update={"model": model}))
    run = recipe.run.model_copy(update={"compile": True, "directory": tmp_path / "compiled"})
    compiled = recipe.model_copy(update={"model": model, "run": run})
    (tmp_path / "compiled.toml").write_text(dump(compiled))
    command = [sys.executable, "-m", "modernbert", "pretrain", str(tmp_path / "compiled.toml")]
    subprocess.run(command, check=True, timeout=250)
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), abs=1e-4)


def _phase(**changes):
    return {
        "max_length": 128,
        "mixture": {"library": 1.0},
        "schedule": {"peak_lr": 1e-3},
        "batch_tokens": 512,
    } | changes
