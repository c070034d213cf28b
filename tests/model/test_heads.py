import torch
from torch.nn import functional as F

from modernbert.model import EncoderConfig, MaskedLM
from modernbert.packed import Sequences

SIZES = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}


def batch():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 96, (50,), generator=generator)
    labels = tokens.masked_fill(torch.rand(50, generator=generator) > 0.3, -100)
    return tokens, Sequences.from_lengths([20, 29, 1]), labels


def test_the_loss_is_the_mean_over_predicted_tokens():
    model = MaskedLM(EncoderConfig(**SIZES))
    tokens, sequences, labels = batch()
    expected = F.cross_entropy(model(tokens, sequences), labels, ignore_index=-100)
    torch.testing.assert_close(model.loss(tokens, sequences, labels), expected)


def test_only_predicted_rows_reach_the_head():
    model = MaskedLM(EncoderConfig(**SIZES))
    tokens, sequences, labels = batch()
    rows = []
    model.head.register_forward_hook(lambda module, inputs, output: rows.append(len(inputs[0])))
    model.loss(tokens, sequences, labels)
    assert rows == [int((labels != -100).sum())]


def test_attention_output_dropout_acts_in_training_only():
    model = MaskedLM(EncoderConfig(**SIZES, attention_output_dropout=0.5))
    tokens, sequences, _ = batch()
    model.eval()
    assert torch.equal(model(tokens, sequences), model(tokens, sequences))
    model.train()
    assert not torch.equal(model(tokens, sequences), model(tokens, sequences))
