import math

import pytest
import torch

from modernbert.model import EncoderConfig, MaskedLM

CUT_SIGMA = 0.8796  # standard deviation of a normal cut at two sigma, in units of sigma


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return MaskedLM(EncoderConfig(vocab_size=512, hidden_size=192, intermediate_size=256, num_hidden_layers=8,
                                  num_attention_heads=3, attention_bias=True, norm_bias=True))  # fmt: skip


def test_matrices_are_cut_normals_and_residual_projections_are_smaller(model):
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            sigma = 0.02 / math.sqrt(2 * 8) if name.endswith("Wo.weight") else 0.02
            assert parameter.abs().max() <= 2 * sigma, name
            assert parameter.std().item() == pytest.approx(CUT_SIGMA * sigma, rel=0.03), name
            assert abs(parameter.mean().item()) < 0.02 * sigma, name


def test_norms_are_one_and_biases_zero(model):
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            assert torch.equal(parameter, torch.full_like(parameter, 0.0 if name.endswith("bias") else 1.0)), name


def test_a_seed_gives_the_same_weights():
    states = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        states.append(
            MaskedLM(EncoderConfig(vocab_size=64, hidden_size=32, num_attention_heads=2, num_hidden_layers=1))
        )
    first, second, third = (model.model.layers[0].attn.Wqkv.weight for model in states)
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
