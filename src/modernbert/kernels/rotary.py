"""Rotary position embeddings over the whole head, two halves (Su et al. 2021, arXiv 2104.09864, in NeoX order)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Rope:
    """The rotation of every token of a packed batch. Angles are always fp32."""

    cos: Float[Tensor, "tokens 1 head_dim"]
    sin: Float[Tensor, "tokens 1 head_dim"]  # negative on the first half, so that a rotation is two products

    @classmethod
    def of(cls, positions: Int[Tensor, "tokens"], head_dim: int, theta: float) -> "Rope":
        """Rotate pair (i, i + head_dim / 2) of a head by `position * theta ** (-2 i / head_dim)`."""
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device) / head_dim
        angles = torch.outer(positions.float(), 1.0 / theta**exponents).unsqueeze(1)
        sin = angles.sin()
        return cls(torch.cat((angles.cos(),) * 2, dim=-1), torch.cat((-sin, sin), dim=-1))

    @property
    def angles(self) -> tuple[Float[Tensor, "tokens half"], Float[Tensor, "tokens half"]]:
        """Cosine and sine of the angle of each pair, without a copy, for kernels that rotate pairs."""
        half = self.cos.shape[-1] // 2
        return self.cos[:, 0, :half], self.sin[:, 0, half:]

    def __call__(self, x: Float[Tensor, "tokens heads head_dim"]) -> Float[Tensor, "tokens heads head_dim"]:
        precise = x.float()
        swapped = precise.roll(x.shape[-1] // 2, dims=-1)
        return torch.addcmul(precise * self.cos, swapped, self.sin).to(x.dtype)
