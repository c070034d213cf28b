"""The model equals transformers' ModernBERT: outputs, loss and every gradient, with random weights in fp32."""

import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM

from modernbert.model import Encoder, EncoderConfig, MaskedLM
from modernbert.packed import Sequences, pack

FULL, SLIDING = "full_attention", "sliding_attention"


def config(**changes) -> EncoderConfig:
    sizes = {
        "vocab_size": 128,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
    }
    return EncoderConfig(**(sizes | changes))


def padded(lengths, side):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 120, (len(lengths), max(lengths)), generator=generator)
    places = torch.arange(max(lengths))
    places = places if side == "right" else places.flip(0)
    mask = (places[None, :] < torch.tensor(lengths)[:, None]).long()
    labels = ids.masked_fill((torch.rand(ids.shape, generator=generator) > 0.4) | (mask == 0), -100)
    labels[0, mask[0].nonzero()[0]] = 7  # at least one prediction
    return ids, mask, labels


def assert_close(ours, theirs, what):
    scale = theirs.abs().max().clamp(min=1e-6)
    assert (ours - theirs).abs().max() / scale < 1e-5, what


def assert_parity(shape, lengths, tmp_path, side="right", attention="eager"):
    torch.manual_seed(0)
    ours = MaskedLM(shape)
    with torch.no_grad():
        for parameter in ours.parameters():  # larger weights than fresh ones, so that attention is peaked
            parameter.add_(0.1 * torch.randn_like(parameter))
    ours.save_pretrained(tmp_path / "ours")
    theirs = AutoModelForMaskedLM.from_pretrained(tmp_path / "ours", attn_implementation=attention).train()
    ids, mask, labels = padded(lengths, side)
    tokens, sequences = pack(ids, mask)
    packed_labels, _ = pack(labels, mask)

    hidden = ours.model(tokens, sequences)
    logits = ours(tokens, sequences)
    loss = ours.loss(tokens, sequences, packed_labels)
    loss.backward()
    expected = theirs(ids, attention_mask=mask, labels=labels, output_hidden_states=True)
    expected.loss.backward()

    real = mask.bool()
    assert_close(hidden, theirs.model(ids, attention_mask=mask).last_hidden_state[real], "hidden states")
    assert_close(logits, expected.logits[real], "logits")
    assert_close(loss, expected.loss, "loss")
    gradients = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert_close(parameter.grad, gradients[name].grad, name)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_ragged_batches_under_either_padding(side, attention, tmp_path):
    assert_parity(config(), [150, 3, 77, 1, 150], tmp_path, side, attention)


@pytest.mark.parametrize("layers", [1, 2, 5, 7])
def test_any_number_of_layers(layers, tmp_path):
    assert_parity(config(num_hidden_layers=layers), [20, 90], tmp_path)


@pytest.mark.parametrize("local_attention", [2, 3, 16, 127, 128, 130])
def test_any_window(local_attention, tmp_path):
    assert_parity(config(local_attention=local_attention), [300, 64, 65], tmp_path)


@pytest.mark.parametrize(
    "pattern",
    [[FULL] * 3 + [SLIDING] * 3, [SLIDING] * 4, [FULL] * 2, [SLIDING, FULL, SLIDING]],
    ids=["first three global", "all local", "all global", "mixed"],
)
def test_any_pattern_of_layers(pattern, tmp_path):
    shape = config(num_hidden_layers=len(pattern), layer_types=pattern, local_attention=16)
    assert_parity(shape, [100, 40], tmp_path)


@pytest.mark.parametrize("thetas", [(10_000.0, 10_000.0), (160_000.0, 10_000.0), (500.0, 90_000.0)])
def test_any_pair_of_thetas(thetas, tmp_path):
    assert_parity(config(global_rope_theta=thetas[0], local_rope_theta=thetas[1]), [200], tmp_path)


def test_biases_everywhere(tmp_path):
    biases = {"attention_bias": True, "mlp_bias": True, "norm_bias": True, "classifier_bias": True}
    assert_parity(config(**biases), [33, 12], tmp_path)


def test_no_decoder_bias_and_an_untied_decoder(tmp_path):
    assert_parity(config(decoder_bias=False, tie_word_embeddings=False), [33, 12], tmp_path)


def test_other_head_sizes_and_eps(tmp_path):
    assert_parity(config(num_attention_heads=4, norm_eps=1e-3), [50, 9], tmp_path)


def test_a_folder_written_there_loads_here(tmp_path):
    torch.manual_seed(0)
    MaskedLM(config(local_attention=8)).save_pretrained(tmp_path / "ours")
    theirs = AutoModelForMaskedLM.from_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    ids, mask, _ = padded([40, 7], "right")
    tokens, sequences = pack(ids, mask)
    ours = MaskedLM.from_pretrained(tmp_path / "theirs")
    assert_close(ours(tokens, sequences), theirs(ids, attention_mask=mask).logits[mask.bool()], "logits")


def test_the_bare_encoder_goes_both_ways(tmp_path):
    torch.manual_seed(0)
    ours = Encoder(config())
    ours.save_pretrained(tmp_path / "ours")
    theirs, info = AutoModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    theirs.save_pretrained(tmp_path / "theirs")
    back = Encoder.from_pretrained(tmp_path / "theirs")
    ids, mask, _ = padded([40, 7], "right")
    tokens, sequences = pack(ids, mask)
    assert torch.equal(back(tokens, sequences), ours(tokens, sequences))
    assert_close(ours(tokens, sequences), theirs(ids, attention_mask=mask).last_hidden_state[mask.bool()], "hidden")


def test_nothing_is_missing_or_unexpected_there(tmp_path):
    MaskedLM(config()).save_pretrained(tmp_path / "ours")
    _, info = AutoModelForMaskedLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]


def test_all_hidden_states_are_those_of_transformers(tmp_path):
    torch.manual_seed(0)
    ours = Encoder(config()).eval()
    ours.save_pretrained(tmp_path)
    theirs = AutoModel.from_pretrained(tmp_path, attn_implementation="eager").eval()
    ids = torch.randint(4, 120, (1, 21))
    with torch.no_grad():
        expected = theirs(ids, output_hidden_states=True)
        last, states = ours(ids[0], Sequences.from_lengths([21]), output_hidden_states=True)
    assert len(states) == len(expected.hidden_states) == 5
    torch.testing.assert_close(last, expected.last_hidden_state[0], atol=1e-5, rtol=1e-5)
    for state, other in zip(states, expected.hidden_states, strict=True):
        torch.testing.assert_close(state, other[0], atol=1e-5, rtol=1e-5)
