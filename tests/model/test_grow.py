import pytest
import torch

from modernbert.errors import ConfigError
from modernbert.model import EncoderConfig, MaskedLM
from modernbert.model.grow import _centred, depths, grow, grow_folder

SMALL = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 4, "num_attention_heads": 4}
LARGE = {
    "vocab_size": 96,
    "hidden_size": 112,
    "intermediate_size": 130,
    "num_hidden_layers": 7,
    "num_attention_heads": 7,
}


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return MaskedLM(EncoderConfig(**SMALL, norm_bias=True, classifier_bias=True))


def test_an_axis_keeps_the_old_in_its_centre_and_wraps_around():
    assert _centred(4, 8).tolist() == [2, 3, 0, 1, 2, 3, 0, 1]
    assert _centred(3, 5).tolist() == [2, 0, 1, 2, 0]
    assert _centred(5, 5).tolist() == [0, 1, 2, 3, 4]


def test_to_the_same_shape_nothing_changes(small):
    same = grow(small, small.config)
    assert all(torch.equal(x, same.state_dict()[name]) for name, x in small.state_dict().items())


def test_heads_and_glu_halves_are_tiled_apart(small):
    large = grow(small, EncoderConfig(**LARGE), "published")
    layer = depths(small.config, large.config, "published")[5]
    old, new = small.model.layers[layer], large.model.layers[5]
    head, columns = _centred(4, 7), _centred(64, 112)
    for part in range(3):
        theirs = old.attn.Wqkv.weight.view(3, 4, 16, 64)[part][head][:, :, columns]
        assert torch.equal(new.attn.Wqkv.weight.view(3, 7, 16, 112)[part], theirs)
    for half in range(2):
        theirs = old.mlp.Wi.weight.view(2, 80, 64)[half][_centred(80, 130)][:, columns]
        assert torch.equal(new.mlp.Wi.weight.view(2, 130, 112)[half], theirs)
    assert torch.equal(new.attn.Wo.weight.view(112, 7, 16), old.attn.Wo.weight.view(64, 4, 16)[columns][:, head])
    assert torch.equal(new.mlp.Wo.weight, old.mlp.Wo.weight[columns][:, _centred(80, 130)])
    assert torch.equal(large.model.embeddings.tok_embeddings.weight, small.decoder.weight[:, columns])
    assert torch.equal(large.head.dense.weight, small.head.dense.weight[columns][:, columns])
    assert torch.equal(large.decoder.bias, small.decoder.bias)
    assert torch.equal(large.model.final_norm.weight, small.model.final_norm.weight[columns])


def test_the_published_map_mixes_kinds_and_the_default_does_not():
    base, large = EncoderConfig.base(), EncoderConfig.large()
    for kind, wrong in (("published", 12), ("same-kind", 0)):
        found = depths(base, large, kind)
        assert len(found) == 28
        assert sum(base.layer_types[old] != large.layer_types[new] for new, old in enumerate(found)) == wrong
        assert found == sorted(found) or kind == "same-kind"
        assert max(found) <= 21


def test_the_last_layer_is_in_range_for_any_ratio():
    for layers in range(4, 40):
        shape = EncoderConfig(**(SMALL | {"num_hidden_layers": layers}))
        for kind in ("published", "same-kind"):
            assert set(depths(EncoderConfig(**SMALL), shape, kind)) <= set(range(4))


def test_a_copy_of_the_first_layer_gets_a_fresh_attention_norm(small):
    large = grow(small, EncoderConfig(**(LARGE | {"num_hidden_layers": 10})), "published")
    copies = [i for i, old in enumerate(depths(small.config, large.config, "published")) if old == 0 and i > 0]
    assert copies
    for i in copies:
        assert torch.equal(large.model.layers[i].attn_norm.weight, torch.ones(112))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 128}, "keeps the vocabulary of 96"),
        ({"hidden_size": 32, "num_attention_heads": 4}, "hidden_size would shrink from 64 to 32"),
        ({"num_hidden_layers": 2}, "num_hidden_layers would shrink"),
    ],
)
def test_what_cannot_grow_is_refused(small, changes, message):
    with pytest.raises(ConfigError, match=message):
        grow(small, EncoderConfig(**(SMALL | changes)))


def test_a_kind_without_origin_is_refused(small):
    local = MaskedLM(EncoderConfig(**(SMALL | {"layer_types": ["full_attention"] * 4})))
    with pytest.raises(ConfigError, match="has no sliding_attention layer; choose"):
        grow(local, EncoderConfig(**LARGE))


def test_a_folder_grows_into_a_folder(small, tmp_path):
    import json

    small.save_pretrained(tmp_path / "small")
    (tmp_path / "config.json").write_text(json.dumps(EncoderConfig(**LARGE).to_hf()))
    grow_folder(tmp_path / "small", tmp_path / "large", config=tmp_path / "config.json")
    assert MaskedLM.from_pretrained(tmp_path / "large").config.hidden_size == 112
    with pytest.raises(ConfigError, match="Give the new shape"):
        grow_folder(tmp_path / "small", tmp_path / "large")
    with pytest.raises(ConfigError, match="no depth map 'other'"):
        grow_folder(tmp_path / "small", tmp_path / "large", preset="large", depth_map="other")
