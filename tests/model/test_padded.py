import pytest
import torch

from modernbert import encode_padded
from modernbert.model import Encoder, EncoderConfig, MaskedLM
from modernbert.packed import Sequences

CONFIG = EncoderConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2, local_attention=8
)


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("kind", [Encoder, MaskedLM])
def test_padding_changes_nothing_and_stays_zero(kind, left):
    torch.manual_seed(0)
    model = kind(CONFIG).eval()
    lengths = [5, 12, 1]
    ids, mask = torch.zeros(3, 12, dtype=torch.long), torch.zeros(3, 12, dtype=torch.long)
    rows = [torch.randint(4, 64, (length,)) for length in lengths]
    for number, row in enumerate(rows):
        at = slice(12 - len(row), 12) if left else slice(0, len(row))
        ids[number, at], mask[number, at] = row, 1
    found = encode_padded(model, ids, mask)
    assert found.shape[:2] == (3, 12)
    for number, row in enumerate(rows):
        alone = model(row, Sequences.from_lengths([len(row)]))
        torch.testing.assert_close(found[number][mask[number].bool()], alone, atol=1e-5, rtol=1e-5)
        assert not found[number][~mask[number].bool()].any()


def test_without_a_mask_every_id_is_a_token():
    model = Encoder(CONFIG).eval()
    ids = torch.randint(4, 64, (2, 7))
    assert torch.equal(encode_padded(model, ids), encode_padded(model, ids, torch.ones_like(ids)))
