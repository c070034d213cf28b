import pytest
from hypothesis import given
from hypothesis import strategies as st

from modernbert.config import dump, load, parse
from modernbert.corpus.recipe import CorpusRecipe
from modernbert.errors import ConfigError
from modernbert.train.recipe import BatchSize, PretrainRecipe, Schedule

RECIPE = {
    "tokenizer": "tok",
    "data": {"a": "shards/a", "b": "shards/b"},
    "run": {"directory": "run"},
    "phases": {
        "pretrain": {
            "tokens": 1000,
            "max_length": 128,
            "mixture": {"a": 1.0},
            "schedule": {"kind": "constant", "peak_lr": 1e-3, "warmup_tokens": 100},
            "batch_tokens": {"tokens": 512, "start": 128, "warmup_tokens": 500},
        },
        "context": {"tokens": 500, "max_length": 1024, "batch_tokens": 2048, "global_rope_theta": 160_000.0},
        "decay": {"tokens": 200, "schedule": {"kind": "one_minus_sqrt"}, "mixture": {"a": 1.0, "b": 2.0}},
    },
}


def test_a_phase_inherits_unset_keys_except_warmups():
    recipe = parse(PretrainRecipe, RECIPE, "test")
    context, decay = recipe.phases["context"], recipe.phases["decay"]
    assert context.schedule == Schedule(kind="constant", peak_lr=1e-3)
    assert context.batch_tokens == BatchSize(tokens=2048)
    assert context.mixture == {"a": 1.0}
    assert decay.max_length == 1024
    assert decay.global_rope_theta == 160_000
    assert decay.schedule == Schedule(kind="one_minus_sqrt", peak_lr=1e-3)


def test_the_resolved_recipe_is_a_valid_recipe(tmp_path):
    recipe = parse(PretrainRecipe, RECIPE, "test")
    path = tmp_path / "recipe.toml"
    path.write_text(dump(recipe))
    assert load(PretrainRecipe, path) == recipe


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mixture": {"c": 1.0}}, "names 'c', which is not in \\[data\\]"),
        ({"max_length": 100_000}, "no sequence fits"),
        ({"batch_tokens": 64}, "at least one packed sequence"),
        ({"batch_tokens": {"tokens": 512, "start": 128}}, "both start and warmup_tokens"),
        ({"batch_tokens": {"tokens": 512, "start": 1024, "warmup_tokens": 10}}, "above its final"),
        ({"mask_ratio": 1.5}, "mask_ratio"),
    ],
)
def test_an_invalid_phase_is_refused(change, message):
    phases = RECIPE["phases"] | {"pretrain": RECIPE["phases"]["pretrain"] | change}
    with pytest.raises(ConfigError, match=message):
        parse(PretrainRecipe, RECIPE | {"phases": phases}, "test")


def test_warmup_is_linear_and_then_constant():
    schedule = Schedule(kind="constant", peak_lr=2.0, warmup_tokens=100)
    assert [schedule.learning_rate(t, 1000) for t in (25, 50, 100, 1000)] == [0.5, 1.0, 2.0, 2.0]


def test_the_decay_is_one_minus_the_square_root_down_to_a_thousandth():
    schedule = Schedule(kind="one_minus_sqrt", peak_lr=2.0)
    assert schedule.learning_rate(0, 100) == 2.0
    assert schedule.learning_rate(25, 100) == pytest.approx(2.0 * (0.001 + 0.999 * 0.5))
    assert schedule.learning_rate(100, 100) == pytest.approx(0.002)
    assert schedule.learning_rate(150, 100) == pytest.approx(0.002)  # the last batch may pass the end


def test_the_published_batch_warmup_has_the_same_number_of_updates_at_each_size():
    batch = BatchSize(tokens=4608 * 1024, start=768 * 1024, warmup_tokens=50_000_000_000)
    sizes = [batch.at(update) for update in range(20_000)]
    counts = [sizes.count(768 * 1024 * k) for k in range(1, 6)]
    assert len(set(counts)) == 1
    spent = sum(size for size in sizes[: 6 * counts[0]])
    assert abs(spent - 50e9) < 6 * 4608 * 1024
    assert sizes[-1] == 4608 * 1024


@given(st.integers(1, 100), st.integers(1, 50), st.integers(1, 5000))
def test_a_batch_warmup_never_shrinks_and_ends_at_its_size(start, factor, warmup):
    batch = BatchSize(tokens=start * factor, start=start, warmup_tokens=warmup)
    sizes = [batch.at(update) for update in range(300)]
    assert sizes == sorted(sizes)
    assert sizes[0] == start
    assert batch.at(10**9) == start * factor


@pytest.mark.parametrize("seed", [2**63, -1])
def test_a_seed_that_toml_cannot_write_or_that_is_negative_is_refused(seed):
    with pytest.raises(ConfigError, match="seed"):
        parse(PretrainRecipe, RECIPE | {"seed": seed}, "test")


def test_the_largest_seed_is_accepted_and_written_unchanged(tmp_path):
    recipe = parse(PretrainRecipe, RECIPE | {"seed": 2**63 - 1}, "test")
    (tmp_path / "recipe.toml").write_text(dump(recipe))
    assert load(PretrainRecipe, tmp_path / "recipe.toml").seed == 2**63 - 1


@pytest.mark.parametrize("directory", ["", ".", "..", "a/..", "/"])
def test_a_run_directory_without_a_name_is_refused(directory):
    with pytest.raises(
        ConfigError, match=r"run\.directory = .* is the current folder, its parent or the root; name a new folder"
    ):
        parse(PretrainRecipe, RECIPE | {"run": {"directory": directory}}, "x")


@pytest.mark.parametrize("change", ["data", "phases"])
def test_a_source_or_phase_without_a_name_is_refused(change):
    values = RECIPE | {change: {"": next(iter(RECIPE[change].values()))} | RECIPE[change]}
    with pytest.raises(ConfigError, match="has no name; give it one"):
        parse(PretrainRecipe, values, "x")


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "a\n"])
def test_the_name_of_a_corpus_source_is_a_valid_folder_name(name):
    values = {"tokenizer": "t", "output": "shards", "sources": [{"name": name, "paths": ["a.txt"]}]}
    with pytest.raises(ConfigError, match=r"sources\.0\.name"):
        parse(CorpusRecipe, values, "x")


def test_a_batch_that_grows_in_too_many_steps_is_refused():
    with pytest.raises(ConfigError, match="the batch starts at 1 tokens, less than 1 / 10,000 of"):
        parse(BatchSize, {"tokens": 2**60, "start": 1, "warmup_tokens": 9}, "x")
