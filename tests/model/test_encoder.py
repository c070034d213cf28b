"""Padding to common batch shapes under autocast on a CPU does not change outputs."""

import pytest
import torch

from modernbert.model import EncoderConfig, MaskedLM
from modernbert.model import encoder as module
from modernbert.model.encoder import pad_to_bucket
from modernbert.packed import Sequences


def bf16():
    return torch.autocast("cpu", torch.bfloat16)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return MaskedLM(
        EncoderConfig(
            vocab_size=128, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=2,
            local_attention=16, pad_token_id=120, cls_token_id=121, sep_token_id=122, mask_token_id=123,
        )
    )  # fmt: skip


def test_batches_of_one_size_have_few_shapes():
    with bf16():
        lengths = {n: len(pad_to_bucket(torch.zeros(n, 2))) for n in range(1, 2000)}
    assert all(n <= padded <= n * 9 / 8 for n, padded in lengths.items())
    assert len({padded for n, padded in lengths.items() if n >= 512}) == len(range(512, 2000, 64)) + 1
    assert len({padded for n, padded in lengths.items() if 128 <= n < 256}) <= 9


def test_without_autocast_nothing_is_added():
    rows = torch.arange(5)
    assert pad_to_bucket(rows) is rows
    with bf16():
        assert pad_to_bucket(torch.ones(17, 3)).tolist() == [[1.0] * 3] * 17 + [[0.0] * 3]


def test_padding_adds_one_sequence():
    sequences = Sequences.from_lengths([3, 2])
    assert sequences.padded_to(5) is sequences
    padded = sequences.padded_to(9)
    assert padded.lengths == (3, 2, 4)
    assert padded.max_length == 4
    assert padded.positions.tolist() == [0, 1, 2, 0, 1, 0, 1, 2, 3]


def test_what_fills_a_batch_changes_neither_outputs_nor_gradients(model, monkeypatch):
    lengths = [37, 2, 60, 1, 30]  # 130 tokens, padded up to 144
    tokens = torch.randint(0, 120, (sum(lengths),), generator=torch.Generator().manual_seed(1))
    labels = torch.where(torch.arange(len(tokens)) % 3 == 0, tokens, -100)

    def run():
        model.zero_grad()
        sequences = Sequences.from_lengths(lengths)
        with bf16():
            hidden = model.model(tokens, sequences)
            loss = model.loss(tokens, sequences, labels)
        loss.backward()
        return hidden.float(), loss, {name: x.grad.clone() for name, x in model.named_parameters()}

    hidden, loss, gradients = run()
    seen = []
    monkeypatch.setattr(module, "pad_to_bucket", lambda x: seen.append(len(x)) or x)
    plain_hidden, plain_loss, plain_gradients = run()
    assert seen, "the encoder asks for its shape"
    assert hidden.shape == plain_hidden.shape == (130, 64)
    torch.testing.assert_close(hidden, plain_hidden, rtol=0.02, atol=0.02)
    torch.testing.assert_close(loss, plain_loss, rtol=1e-3, atol=0)
    for name, gradient in gradients.items():
        assert (gradient - plain_gradients[name]).norm() <= 0.02 * plain_gradients[name].norm(), name
