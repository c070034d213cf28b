import math

import torch

from modernbert.kernels import Rope


def test_a_pair_turns_by_position_times_frequency():
    positions = torch.tensor([0, 1, 7, 8191])
    x = torch.randn(4, 2, 8, dtype=torch.float32)
    turned = Rope.of(positions, 8, theta=100.0)(x)
    for row, position in enumerate(positions.tolist()):
        for i in range(4):
            angle = position * 100.0 ** (-2 * i / 8)
            expected = complex(math.cos(angle), math.sin(angle)) * torch.complex(x[row, :, i], x[row, :, i + 4])
            torch.testing.assert_close(
                torch.complex(turned[row, :, i], turned[row, :, i + 4]), expected, atol=1e-3, rtol=0
            )


def test_scores_depend_on_the_distance_alone():
    q, k = torch.randn(1, 1, 64), torch.randn(1, 1, 64)

    def score(i: int, j: int) -> float:
        rope = Rope.of(torch.tensor([i, j]), 64, theta=10_000.0)
        turned = rope(torch.cat((q, k)))
        return float((turned[0] * turned[1]).sum())

    assert abs(score(3, 10) - score(503, 510)) < 1e-3


def test_angles_are_fp32_whatever_is_rotated():
    rope = Rope.of(torch.tensor([8000]), 64, theta=160_000.0)
    x = torch.randn(1, 1, 64).bfloat16()
    torch.testing.assert_close(rope(x), rope(x.float()).bfloat16(), atol=0, rtol=0)
