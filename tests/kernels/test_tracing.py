"""torch.export sees the native kernels as operators; compiled layers are tested in tests/train."""

import pytest
import torch
from torch import nn

from modernbert.kernels import native
from modernbert.model import Encoder, EncoderConfig
from modernbert.packed import Sequences

pytestmark = pytest.mark.skipif(native.unavailable() is not None, reason=f"the native backend {native.unavailable()}")
LENGTHS = (30, 1, 50)


class Packed(nn.Module):
    """An encoder whose sequences come in as tensors."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 2}
        self.encoder = Encoder(EncoderConfig(vocab_size=100, local_attention=16, **sizes)).eval()

    def forward(self, tokens, boundaries, positions):
        sequences = Sequences(boundaries, max(LENGTHS), positions, positions, (len(LENGTHS), max(LENGTHS)))
        return self.encoder(tokens, sequences)


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    sequences = Sequences.from_lengths(LENGTHS)
    return torch.arange(sum(LENGTHS)) % 100, sequences.cu_seqlens, sequences.positions


def test_an_exported_encoder_keeps_them_as_operators():
    model = Packed()
    exported = torch.export.export(model, inputs())
    found = {str(node.target) for node in exported.graph.nodes if "modernbert" in str(node.target)}
    assert found == {"modernbert.attention.default", "modernbert.add_norm.default", "modernbert.geglu.default"}
    with torch.no_grad():
        torch.testing.assert_close(exported.module()(*inputs()), model(*inputs()))
