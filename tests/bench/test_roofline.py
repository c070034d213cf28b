import pytest
import torch

from modernbert.bench.roofline import MATRIX_FLOPS, encoder_flops, matrix_products, training_flops
from modernbert.model import EncoderConfig

# One global layer and one whose tokens see two others on each side.
SMALL = EncoderConfig(
    vocab_size=128,
    hidden_size=8,
    intermediate_size=6,
    num_hidden_layers=2,
    num_attention_heads=2,
    layer_types=("full_attention", "sliding_attention"),
    local_attention=4,
)
LENGTHS = (3, 5)
MATRICES = 2 * (8 * 24 + 8 * 8 + 8 * 12 + 6 * 8)  # of a token in a layer: Wqkv, Wo, Wi, Wo
PAIRS = (9 + 25) + (9 + 3 + 4 + 5 + 4 + 3)  # visible pairs: in the global layer, and in the window
ATTENTION = 2 * 2 * 8  # of a pair: its score and its weighted value


def test_operations_of_an_encoder_are_those_counted_by_hand():
    assert encoder_flops(SMALL, LENGTHS) == pytest.approx(8 * 2 * MATRICES + PAIRS * ATTENTION, rel=1e-12)


def test_a_training_step_has_three_times_as_many_and_those_of_the_decoded_rows():
    head = 3 * 2 * 2 * (8 * 8 + 8 * 128)  # of two tokens
    assert training_flops(SMALL, LENGTHS, 2) == pytest.approx(3 * encoder_flops(SMALL, LENGTHS) + head, rel=1e-12)


def test_the_number_of_matrix_products_is_as_documented():
    from torch.utils.flop_counter import FlopCounterMode

    run = matrix_products(torch.bfloat16)
    with FlopCounterMode(display=False) as counter:
        run()
    assert counter.get_total_flops() == MATRIX_FLOPS
