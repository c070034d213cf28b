"""Rotary position embeddings over the whole head, two halves (Su et al. 2021, arXiv 2104.09864, in NeoX order)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Rope:
    """The rotation of every token of a packed stream. Angles are fp32, whatever the dtype of what is rotated."""

    cos: Float[Tensor, "tokens 1 half"]
    sin: Float[Tensor, "tokens 1 half"]

    @classmethod
    def of(cls, positions: Int[Tensor, "tokens"], head_dim: int, theta: float) -> "Rope":
        """Rotate pair i of a head by `position * theta ** (-2 i / head_dim)`."""
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device) / head_dim
        angles = torch.outer(positions.float(), 1.0 / theta**exponents).unsqueeze(1)
        return cls(angles.cos(), angles.sin())

    def __call__(self, x: Float[Tensor, "tokens heads head_dim"]) -> Float[Tensor, "tokens heads head_dim"]:
        first, second = x.float().chunk(2, dim=-1)
        turned = torch.cat((first * self.cos - second * self.sin, second * self.cos + first * self.sin), dim=-1)
        return turned.to(x.dtype)
