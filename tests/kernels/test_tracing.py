"""torch.export sees the native kernels as operators; compiled layers are tested in tests/train."""

import pytest
import torch
from torch import nn

from modernbert.errors import BackendError
from modernbert.kernels import native
from modernbert.model import Encoder, EncoderConfig
from modernbert.packed import Sequences

pytestmark = pytest.mark.skipif(native.unavailable() is not None, reason=f"the native backend {native.unavailable()}")
LENGTHS = (30, 1, 50)


class Packed(nn.Module):
    """An encoder whose sequences are tensor inputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 2}
        self.encoder = Encoder(EncoderConfig(vocab_size=100, local_attention=16, **sizes)).eval()

    def forward(self, tokens, boundaries, positions, slots):
        sequences = Sequences(boundaries, max(LENGTHS), positions, slots, (len(LENGTHS), max(LENGTHS)))
        return self.encoder(tokens, sequences)


def inputs() -> tuple[torch.Tensor, ...]:
    sequences = Sequences.from_lengths(LENGTHS)
    return torch.arange(sum(LENGTHS)) % 100, sequences.cu_seqlens, sequences.positions, sequences.slots


def test_an_exported_encoder_keeps_them_as_operators():
    model = Packed()
    exported = torch.export.export(model, inputs())
    found = {str(node.target) for node in exported.graph.nodes if "modernbert" in str(node.target)}
    assert found == {"modernbert.attention.default", "modernbert.add_norm.default", "modernbert.geglu.default"}
    with torch.no_grad():
        torch.testing.assert_close(exported.module()(*inputs()), model(*inputs()))


def test_an_exported_encoder_refuses_inconsistent_boundaries():
    """Only the operator itself can prevent an access out of bounds."""
    tokens, _, positions, slots = inputs()
    exported = torch.export.export(Packed(), inputs()).module()
    for hostile in ([0, 30, 31, 10**6], [0, 40, 31, 81], [-5, 30, 31, 81], [0, 30, 31, 50]):
        with torch.no_grad(), pytest.raises(BackendError, match="do not rise from 0 to the number of tokens"):
            exported(tokens, torch.tensor(hostile, dtype=torch.int32), positions, slots)
