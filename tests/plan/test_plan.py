import json
import math
import re
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from modernbert.cli import app
from modernbert.config import load, parse
from modernbert.errors import ConfigError, DataError, ModernBertError
from modernbert.model import EncoderConfig, MaskedLM
from modernbert.plan.description import describe
from modernbert.plan.figure import plot_plan
from modernbert.plan.inputs import model_shape
from modernbert.plan.plan import (
    PUBLISHED_UTILISATION,
    Cluster,
    plan,
    simulate_updates,
)
from modernbert.stream import lengths
from modernbert.stream.shards import Shards
from modernbert.train.pretrain import pretrain
from modernbert.train.recipe import BatchSize, PretrainRecipe

RECIPES = Path(__file__).parents[2] / "recipes"
SAMPLE_DOCUMENTS = lengths.SAMPLE_DOCUMENTS  # as users have it
SMALL = {
    "tokenizer": "nowhere/tokenizer",
    "data": {"web": "nowhere/web", "books": {"path": "nowhere/books", "min_tokens": 1000}},
    "run": {"directory": "run", "microbatch_tokens": 2048},
    "model": {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 4, "num_attention_heads": 2},
    "phases": {
        "pretrain": {
            "tokens": 4_000_000,
            "max_length": 512,
            "mixture": {"web": 1.0},
            "schedule": {"warmup_tokens": 100_000},
            "batch_tokens": {"tokens": 32_768, "start": 8192, "warmup_tokens": 800_000},
        },
        "context": {"tokens": 500_000, "max_length": 1024, "mixture": {"web": 1.0, "books": 1.0}},
    },
}


@pytest.fixture(autouse=True)
def _small_sample(monkeypatch):
    """What does not depend on how well the lengths are known is planned from fewer of them."""
    monkeypatch.setattr(lengths, "SAMPLE_DOCUMENTS", 1000)


def small(**changes) -> PretrainRecipe:
    return parse(PretrainRecipe, SMALL | changes, "small")


@pytest.fixture(scope="module")
def base():
    return plan(
        load(PretrainRecipe, RECIPES / "base" / "pretrain.toml"), Cluster.of(), hours=["pretrain=194.2", "context=39.9"]
    )


@pytest.fixture(scope="module")
def large():
    return plan(
        load(PretrainRecipe, RECIPES / "large" / "pretrain.toml"), Cluster.of(), hours=["pretrain+restart=425.3"]
    )


def test_the_published_runs_have_the_published_numbers(base, large):
    assert [phase.effort.tokens for phase in base.phases] == [1_719 * 10**9, 250 * 10**9, 50 * 10**9]
    assert sum(phase.effort.tokens for phase in large.phases[:2]) == 1_719 * 10**9
    assert base.parameters_total == 149_655_232
    assert large.parameters_total == 395_881_664
    assert [stage.rows for stage in base.phases[0].stages] == [768 * k for k in range(1, 7)]
    assert [phase.stages[-1].rows for phase in base.phases] == [4608, 576, 576]
    assert [phase.stages[-1].rows for phase in large.phases] == [4928, 4928, 616, 624]
    assert [phase.microbatch_rows for phase in base.phases] == [96, 12, 12]
    assert [phase.microbatch_rows for phase in large.phases[1:]] == [56, 7, 7]
    assert all(phase.packing_efficiency > 0.99 for phase in (*base.phases, *large.phases))


def test_the_published_hours_give_307000_tokens_per_second_and_the_assumed_utilisation(base, large):
    assert base.implied[0].tokens_per_second == pytest.approx(307_000, rel=0.01)
    assert large.implied[0].tokens_per_second == pytest.approx(140_000, rel=0.01)
    assert base.implied[0].share_of_peak == pytest.approx(PUBLISHED_UTILISATION, abs=5e-4)
    assert base.phases[0].effort.hours == pytest.approx(194.2, rel=0.005)
    assert 0.3 < large.implied[0].share_of_peak < 0.35


def test_the_published_microbatches_fit_the_published_devices(base, large):
    for phase in (*base.phases, *large.phases):
        assert phase.fits
        assert phase.largest_microbatch_rows >= phase.microbatch_rows


def test_planning_two_trillion_tokens_is_as_fast_as_two_billion(monkeypatch):
    packed, calls = lengths.Packer.next_packed_sequence, Counter()

    def counted(packer):
        calls[tokens] += 1
        return packed(packer)

    monkeypatch.setattr(lengths.Packer, "next_packed_sequence", counted)
    recipe = load(PretrainRecipe, RECIPES / "base" / "pretrain.toml")
    for scale in (1000, 1):
        phases = {
            name: phase.model_copy(update={"tokens": phase.tokens // scale}) for name, phase in recipe.phases.items()
        }
        tokens = sum(phase.tokens for phase in phases.values())
        assert plan(recipe.model_copy(update={"phases": phases}), Cluster.of()).total.tokens >= tokens
    assert tokens > 2 * 10**12
    assert calls[tokens] == calls[tokens // 1000] > 0


@given(
    start=st.integers(64, 4000),
    factor=st.integers(1, 12),
    extra=st.integers(0, 63),
    warmup=st.integers(1, 300_000),
    max_length=st.sampled_from([8, 64, 100]),
    tokens=st.integers(1, 400_000),
    empty=st.fractions(0, Fraction(1, 2)),
)
def test_simulated_updates_equal_a_step_by_step_calculation(start, factor, extra, warmup, max_length, tokens, empty):
    batch = BatchSize(tokens=start * factor + extra, start=start, warmup_tokens=warmup)
    per_row = max_length * (1 - empty)
    read, counted = Fraction(0), Counter()
    while read < tokens:
        size = batch.at(sum(counted.values()))
        counted[size] += 1
        read += max(1, size // max_length) * per_row
    stages = simulate_updates(batch, max_length, tokens, per_row)
    assert {stage.batch_tokens: stage.updates for stage in stages} == counted


def test_a_real_run_has_the_planned_number_of_updates(recipe_for, tmp_path):
    recipe = recipe_for(tmp_path / "run")
    found = plan(recipe, Cluster.of(count=1))
    assert found.lengths == "those of the recipe's shards"
    pretrain(recipe)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = Counter(line["phase"] for line in lines if "loss" in line)
    for phase in found.phases:
        assert abs(phase.effort.updates - steps[phase.name]) <= 1
        assert phase.packing_efficiency == pytest.approx(
            sum(line["fill"] for line in lines if "loss" in line and line["phase"] == phase.name) / steps[phase.name],
            abs=0.05,
        )


def test_a_plan_needs_neither_tokenizer_nor_shards_and_states_its_assumptions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = plan(small(), Cluster.of("rtx4090", 1))
    assert found.vocabulary == 50_368
    assert "assumed" in found.lengths
    assert "nowhere/web does not exist" in found.lengths
    assert list(tmp_path.iterdir()) == []


def test_the_vocabulary_size_is_that_of_an_existing_tokenizer(recipe_for, tmp_path):
    assert plan(recipe_for(tmp_path), Cluster.of(count=1)).vocabulary == 1024
    assert plan(recipe_for(tmp_path), Cluster.of(count=1), vocab_size=2048).vocabulary == 2048


def test_the_largest_microbatch_fits_and_a_larger_one_does_not():
    recipe = load(PretrainRecipe, RECIPES / "base" / "pretrain.toml")
    cluster = Cluster.of("a100-40")
    [phase, *_] = plan(recipe, cluster).phases
    assert not phase.fits
    for rows, fits in ((phase.largest_microbatch_rows, True), (phase.largest_microbatch_rows + 1, False)):
        run = recipe.run.model_copy(update={"microbatch_tokens": rows * 1024})
        phases = {"pretrain": recipe.phases["pretrain"]}
        [found] = plan(recipe.model_copy(update={"run": run, "phases": phases}), cluster).phases
        assert found.fits == fits
        assert found.largest_microbatch_rows == phase.largest_microbatch_rows


def test_a_plan_with_a_too_large_microbatch_suggests_one_that_fits():
    recipe = load(PretrainRecipe, RECIPES / "base" / "pretrain.toml")
    words = describe(plan(recipe, Cluster.of("a100-40"))).rpartition("run.microbatch_tokens=")
    assert words[1]
    run = recipe.run.model_copy(update={"microbatch_tokens": int(words[2])})
    found = plan(recipe.model_copy(update={"run": run}), Cluster.of("a100-40"))
    assert all(phase.fits for phase in found.phases)


def test_a_source_counts_only_documents_of_the_lengths_in_the_recipe():
    long = small(phases={"only": SMALL["phases"]["context"] | {"mixture": {"books": 1.0}, "batch_tokens": 8192}})
    both = small(phases={"only": SMALL["phases"]["context"] | {"mixture": {"web": 1.0}, "batch_tokens": 8192}})
    chunks = [plan(recipe, Cluster.of(count=1)).phases[0].chunk_tokens for recipe in (long, both)]
    assert chunks[0] > chunks[1]


def test_longer_documents_increase_only_the_cost_of_attention(tmp_path):
    found = []
    for start in (16, 512):
        path = tmp_path / f"{start}.json"
        path.write_text(json.dumps({"histogram": [{"start": start, "stop": 2 * start, "documents": 5}]}))
        recipe = small(data={"web": "nowhere/web", "books": "nowhere/books"})
        found.append(plan(recipe, Cluster.of(count=1), histogram=path).phases[1].flops_per_token)
    assert found[1].attention > 2 * found[0].attention
    assert found[1].layers == found[0].layers


@pytest.mark.slow
def test_checkpointing_takes_more_hours_for_the_same_operations():
    plain = plan(small(), Cluster.of(count=1)).total
    again = plan(small(run=SMALL["run"] | {"activation_checkpointing": True}), Cluster.of(count=1)).total
    assert again.flops == plain.flops
    assert 1 < again.hours / plain.hours < 4 / 3


@pytest.mark.slow
def test_hours_fall_with_devices_and_cost_does_not():
    one, eight = (plan(small(), Cluster.of(count=n, cost_per_hour=2.0)).total for n in (1, 8))
    assert one.hours == pytest.approx(8 * eight.hours)
    assert one.cost == pytest.approx(eight.cost)
    assert one.cost == pytest.approx(2 * one.device_hours)


def test_fp32_has_no_hours_as_its_peak_is_unknown():
    found = plan(small(run=SMALL["run"] | {"precision": "fp32"}), Cluster.of(count=1, cost_per_hour=1.0))
    assert found.total.hours is None
    assert found.total.cost is None
    assert "no hours" in describe(found)


@pytest.mark.parametrize("name", sorted(path.parent.name for path in RECIPES.glob("*/pretrain.toml")))
def test_every_shipped_recipe_can_be_planned(name):
    recipe = load(PretrainRecipe, RECIPES / name / "pretrain.toml")
    found = plan(recipe, Cluster.of())
    fewest = min(phase.stages[0].rows for phase in found.phases)
    assert found.cluster.count == min(8, fewest)
    assert f"{found.cluster.count} x h100" in describe(found)


@pytest.mark.slow
def test_the_speed_of_this_machine_is_measured(monkeypatch):
    monkeypatch.setattr("modernbert.plan.costs.product_rates", lambda: {"bf16": 50.0, "fp32": 100.0})
    monkeypatch.setattr("modernbert.runtime.fast_bf16", lambda: False)
    auto = plan(small(), Cluster.of("cpu", utilisation=0.5))
    assert auto.cluster.count == 1
    assert auto.total.hours == pytest.approx(auto.total.flops / 100e9 / 0.5 / 3600)
    assert "100 GFLOP/s (fp32, measured)" in describe(auto)
    bf16 = plan(small(run=SMALL["run"] | {"precision": "bf16"}), Cluster.of("cpu", utilisation=0.5))
    assert bf16.total.hours == pytest.approx(2 * auto.total.hours)
    assert bf16.phases[0].memory.activations < auto.phases[0].memory.activations


def test_a_plan_has_the_epochs_of_each_source(recipe_for, tmp_path):
    recipe = recipe_for(tmp_path / "run")
    many = recipe.phases["pretrain"].model_copy(update={"tokens": 10**9})
    found = plan(recipe.model_copy(update={"phases": {"pretrain": many}}), Cluster.of(count=1))
    shards = Shards.open(recipe.data["library"].path).split(recipe.validation.fraction)
    [phase] = found.phases
    held = int(shards.train.lengths.sum())
    assert phase.epochs["library"] == pytest.approx(10**9 * (1 - 2 / phase.chunk_tokens) / held)
    assert f"epochs of library{phase.epochs['library']:>20,.2f}"[:18] in describe(found)
    assert f"phases.pretrain reads library {phase.epochs['library']:,.0f} times" in describe(found)
    assert "max_repeats limits it" in describe(found)


def test_epochs_are_unknown_without_shards():
    assert plan(small(), Cluster.of(count=1)).phases[0].epochs == {}


def test_the_shape_is_that_of_an_existing_start_model(tmp_path):
    start = tmp_path / "start"
    recipe = small(model={"start": str(start), "preset": "large"})
    assert model_shape(recipe).num_hidden_layers == 28
    config = EncoderConfig(
        vocab_size=640, hidden_size=64, intermediate_size=96, num_hidden_layers=5, num_attention_heads=2
    )
    MaskedLM(config).save_pretrained(start)
    assert model_shape(recipe).num_hidden_layers == 5
    assert plan(recipe, Cluster.of(count=1)).vocabulary == 640


def test_a_corpus_too_small_for_max_repeats_is_refused(recipe_for, tmp_path):
    recipe = recipe_for(tmp_path)
    phase = recipe.phases["pretrain"].model_copy(update={"max_repeats": 1.0, "tokens": 10**9})
    with pytest.raises(ConfigError, match="max_repeats allows"):
        plan(recipe.model_copy(update={"phases": {"pretrain": phase}}), Cluster.of(count=1))


@pytest.mark.parametrize(
    ("cluster", "arguments", "changes", "message"),
    [
        ({"device": "h300"}, {}, {}, r"no device 'h300' in the table; choose one of cpu, a100-40, "),
        ({"count": 0}, {}, {}, "A run cannot use 0 devices; give 1 or more"),
        ({"utilisation": 1.5}, {}, {}, "A utilisation of .* is not possible"),
        ({"utilisation": math.nan}, {}, {}, "A utilisation of .* is not possible"),
        ({"cost_per_hour": -1.0}, {}, {}, "cannot cost -1"),
        ({"count": 17}, {}, {}, r"A batch of 16 packed sequences in phases\.pretrain is too small for 17 devices"),
        ({}, {"hours": ["decay=3"]}, {}, "names the phase 'decay', but the recipe has pretrain, context"),
        ({}, {"hours": ["pretrain=long"]}, {}, r"not of the form phase=194\.2"),
        ({}, {"hours": ["pretrain"]}, {}, r"not of the form phase=194\.2"),
        ({}, {"hours": ["pretrain=-1"]}, {}, r"not of the form phase=194\.2"),
        ({}, {"vocab_size": 0}, {}, "A vocabulary cannot have 0 tokens"),
        ({}, {"shards": Path("a"), "histogram": Path("b")}, {}, "give one of them"),
        ({}, {"shards": Path("nowhere")}, {}, "There is no shard folder nowhere"),
        ({}, {"histogram": Path("nowhere.json")}, {}, r"nowhere\.json is not a length histogram"),
        ({}, {}, {"model": {"start": "nowhere/start"}}, r"set the shape in \[model\] or model\.preset"),
        (
            {},
            {},
            {"data": {"web": "nowhere/web", "books": {"path": "nowhere/books", "min_tokens": 10**9}}},
            r"No document of data\.books has 1000000000 to any number of tokens",
        ),
    ],
)
def test_invalid_arguments_are_an_error(cluster, arguments, changes, message):
    with pytest.raises((ConfigError, DataError), match=message) as error:
        plan(small(**changes), Cluster.of(**({"count": 1} | cluster)), **arguments)
    assert isinstance(error.value, ModernBertError)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("ending", "begins"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_the_schedule_is_plotted(tmp_path, ending, begins, base):
    plot_plan(base, load(PretrainRecipe, RECIPES / "base" / "pretrain.toml"), tmp_path / f"plan{ending}")
    assert (tmp_path / f"plan{ending}").read_bytes().startswith(begins)


def test_another_suffix_of_the_figure_is_refused(tmp_path, base):
    with pytest.raises(ConfigError, match=r"must end in \.png, \.svg or \.pdf"):
        plot_plan(base, load(PretrainRecipe, RECIPES / "base" / "pretrain.toml"), tmp_path / "plan.bmp")


@pytest.mark.slow
def test_the_command_prints_a_table_or_json(tmp_path, monkeypatch):
    recipe = RECIPES / "tiny" / "pretrain.toml"
    monkeypatch.chdir(tmp_path)
    arguments = ["plan", str(recipe), "run.precision=bf16", "--gpus", "1", "--hours", "decay=0.5"]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    for words in ("parameters", "7,072,192", "updates", "device hours", "that fits, in tokens", "decay in 0.5 hours"):
        assert words in shown.stdout
    found = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert found["parameters_total"] == 7_072_192
    assert found["total"]["updates"] == sum(phase["effort"]["updates"] for phase in found["phases"])
    assert found["phases"][0]["memory"].keys() >= {"weights", "gradients", "optimizer", "activations", "logits"}
    assert found["implied"][0]["hours"] == 0.5


@pytest.mark.slow
def test_the_documentation_shows_the_output_of_the_commands(tmp_path, monkeypatch):
    monkeypatch.setattr(lengths, "SAMPLE_DOCUMENTS", SAMPLE_DOCUMENTS)
    page = (RECIPES.parent / "docs" / "planning.md").read_text(encoding="utf-8")
    (tmp_path / "recipes").symlink_to(RECIPES)
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^modernbert (plan .*)$", page, re.MULTILINE)
    printed = {line for command in commands for line in CliRunner().invoke(app, command.split()).stdout.splitlines()}
    shown = [line for block in re.findall(r"```text\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    assert len(commands) == 3
    assert len(shown) > 40
    assert [line for line in shown if line not in printed] == []
