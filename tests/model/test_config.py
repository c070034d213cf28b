import json
import logging

import pytest
import torch
from transformers import ModernBertConfig

from modernbert.errors import ConfigError
from modernbert.model import Encoder, EncoderConfig, MaskedLM

OLDER = {
    "model_type": "modernbert",
    "num_hidden_layers": 4,
    "global_attn_every_n_layers": 2,
    "local_attention": 32,
    "global_rope_theta": 160000.0,
    "local_rope_theta": 10000.0,
}
NEWER = {
    "model_type": "modernbert",
    "num_hidden_layers": 4,
    "layer_types": ["full_attention", "sliding_attention", "full_attention", "sliding_attention"],
    "local_attention": 32,
    "rope_parameters": {
        "full_attention": {"rope_type": "default", "rope_theta": 160000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    },
}


def test_both_spellings_mean_the_same():
    older, newer = EncoderConfig.from_hf(OLDER), EncoderConfig.from_hf(NEWER)
    assert older.layer_types == newer.layer_types
    assert [older.window(layer) for layer in range(4)] == [None, 16, None, 16]
    assert [newer.rope_theta(layer) for layer in range(4)] == [160_000.0, 10_000.0, 160_000.0, 10_000.0]


def test_both_spellings_are_written_and_read_back():
    config = EncoderConfig.from_hf(OLDER)
    written = config.to_hf()
    assert {**OLDER, **NEWER}.items() <= written.items()
    assert EncoderConfig.from_hf(written) == config
    for spelling in (OLDER, NEWER):
        kept = {key: value for key, value in written.items() if key not in (OLDER.keys() ^ NEWER.keys())}
        assert EncoderConfig.from_hf(kept | spelling) == config


def test_transformers_reads_what_is_written():
    config = EncoderConfig.base(global_rope_theta=123.0, local_rope_theta=45.0, local_attention=10)
    theirs = ModernBertConfig(**config.to_hf())
    assert tuple(theirs.layer_types) == config.layer_types
    assert theirs.rope_parameters["full_attention"]["rope_theta"] == 123.0
    assert theirs.rope_parameters["sliding_attention"]["rope_theta"] == 45.0
    assert theirs.sliding_window == config.window(1) == 5


def test_the_published_config_is_base(shared):
    values = json.loads((shared / "modernbert-tokenizer" / "config.json").read_text())
    assert EncoderConfig.from_hf(values) == EncoderConfig.base()


def test_an_irregular_pattern_is_never_written_in_the_older_spelling():
    config = EncoderConfig(num_hidden_layers=3, layer_types=["full_attention"] * 2 + ["sliding_attention"])
    assert "global_attn_every_n_layers" not in config.to_hf()
    assert EncoderConfig.from_hf(config.to_hf()) == config


@pytest.mark.parametrize("theta", [-1, None])
def test_a_local_theta_of_minus_one_or_null_is_the_global_one(theta):
    assert EncoderConfig.from_hf(OLDER | {"local_rope_theta": theta}).local_rope_theta == 160_000.0


def test_pooling_is_cls_where_the_file_is_silent():
    assert EncoderConfig.from_hf(OLDER).classifier_pooling == "cls"
    assert EncoderConfig.from_hf(OLDER | {"classifier_pooling": "mean"}).classifier_pooling == "mean"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bert"}, "describes a 'bert' model"),
        ({"hidden_activation": "silu"}, "hidden_activation = 'silu' is not implemented"),
        ({"attention_dropout": 0.1}, "attention_dropout = 0.1 is not implemented"),
        ({"rope_scaling": {"type": "yarn"}}, "rope_scaling"),
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "rope_type 'yarn' is not implemented"),
        ({"rope_parameters": {"full_attention": {"factor": 2.0}}}, "rope parameter 'factor' is not implemented"),
        ({"layer_types": ["full_attention"]}, "names 1 layers but num_hidden_layers is 4"),
        ({"layer_types": ["chunked_attention"] * 4}, "layer_types"),
        ({"num_attention_heads": 7}, "must divide into 7 heads"),
        ({"pad_token_id": 60_000}, "pad_token_id 60000 is outside the vocabulary"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(changes, message):
    with pytest.raises(ConfigError, match=message):
        EncoderConfig.from_hf(OLDER | changes)


def test_an_unknown_key_is_reported_once(caplog):
    with caplog.at_level(logging.WARNING):
        EncoderConfig.from_hf(OLDER | {"my_own_key": 1})
    assert "my_own_key" in caplog.text


def test_special_tokens_outside_a_small_vocabulary_become_none():
    assert EncoderConfig(vocab_size=100).pad_token_id is None


@pytest.mark.parametrize(
    ("config", "bare", "with_head"),
    [(EncoderConfig.base(), 149_014_272, 149_655_232), (EncoderConfig.large(), 394_781_696, 395_881_664)],
    ids=["base", "large"],
)
def test_parameter_counts_are_the_published_ones(config, bare, with_head):
    with torch.device("meta"):
        assert sum(p.numel() for p in Encoder(config).parameters()) == bare
        assert sum(p.numel() for p in MaskedLM(config).parameters()) == with_head


@pytest.mark.parametrize(
    "changes",
    [
        {"head_dim": 64},
        {"num_key_value_heads": 12},
        {"partial_rotary_factor": 1.0},
        {"rope_parameters": {"full_attention": {"rope_theta": 160000.0, "partial_rotary_factor": 1.0}}},
        {"sliding_window": 16},
        {"sliding_window": None},
    ],
)
def test_what_changes_nothing_is_read(changes):
    assert EncoderConfig.from_hf(OLDER | changes) == EncoderConfig.from_hf(OLDER)


def test_a_sliding_window_means_what_it_means_in_transformers():
    values = {key: value for key, value in OLDER.items() if key != "local_attention"} | {"sliding_window": 24}
    theirs = ModernBertConfig.from_dict(values)
    ours = EncoderConfig.from_hf(values)
    assert ours.local_attention == theirs.local_attention == 48
    assert ours.window(1) == theirs.sliding_window == 24


# Contents of foreign, wrong or malicious files. Each gives a one-sentence error without delay.
DEEP = json.loads("[" * 400 + "]" * 400)
STRANGE = [None, True, -1, 0, 3.5, 1e308, float("nan"), float("inf"), 10**9, 2**63, 10**40, "", "x", [], [[]], {}]
STRANGE += [{"a": 1}, {"": None}, {"0": 3}, [1] * 5, ["full_attention"], DEEP, "\ud800"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "key", [*EncoderConfig(num_hidden_layers=4).to_hf(), "num_labels", "sliding_window", "head_dim"]
)
def test_a_value_of_any_type_or_size_is_read_or_is_one_sentence(key):
    for value in STRANGE:
        values = EncoderConfig(num_hidden_layers=4).to_hf() | {key: value}
        try:
            config = EncoderConfig.from_hf(values)
        except ConfigError as error:
            said = str(error)
        else:
            said = ""
            assert config.num_hidden_layers <= 1000
            assert len(config.labels) <= 1_000_000
        assert "\n" not in said
        assert len(said) < 5000


@pytest.mark.parametrize("values", [[], None, 3, "x", [{}]])
def test_a_config_that_is_not_an_object_is_one_sentence(values):
    with pytest.raises(ConfigError, match="not an object with keys"):
        EncoderConfig.from_hf(values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_labels": 10**9}, "num_labels = 1000000000 is not a number of labels from 1 to 1,000,000"),
        ({"head_dim": 32}, "head_dim = 32 is not implemented; only 64, given"),
        ({"num_key_value_heads": 4}, "num_key_value_heads = 4 is not implemented; only 12, given"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5 is not implemented"),
        ({"sliding_window": 32}, "sliding_window = 32 is half of local_attention, which is 32"),
        ({"sliding_window": -1}, "sliding_window = -1 is not a number of tokens"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"global_rope_theta": float("inf")}, "global_rope_theta"),
        ({"norm_eps": 1e308}, "norm_eps"),
    ],
)
def test_values_that_change_what_is_computed_are_refused_by_name(changes, message):
    with pytest.raises(ConfigError, match=message):
        EncoderConfig.from_hf(OLDER | changes)


def test_a_mistake_in_config_json_is_not_reported_as_one_of_a_recipe():
    with pytest.raises(ConfigError) as error:
        EncoderConfig.from_hf(OLDER | {"num_attention_heads": 7})
    assert str(error.value).startswith("config.json: hidden_size 768 must divide into 7 heads")
