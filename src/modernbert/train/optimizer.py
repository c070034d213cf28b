"""StableAdamW (Wortsman et al. 2023, arXiv 2304.13013) with fully decoupled weight decay."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class StableAdamW(torch.optim.Optimizer):
    """AdamW whose step shrinks where the gradient outgrows its second moment, tensor by tensor.

    It takes the place of gradient clipping. Weights decay by `weight_decay * lr / peak_lr` a step, so that the decay
    does not depend on the size of the learning rate (Loshchilov & Hutter 2019, arXiv 1711.05101, eq. 12).
    Equal to `optimi.StableAdamW(decouple_lr=True)`, which the tests compare it with.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        *,
        lr: float,
        peak_lr: float,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "peak_lr": peak_lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        )

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient. Moments use debiased betas, as Adafactor does."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        beta1, beta2 = (_debiased(beta, state["step"]) for beta in group["betas"])
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        mean.lerp_(grad, 1 - beta1)
        square.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        surprise = (grad.square() / square.clamp(min=group["eps"] ** 2)).mean().sqrt()  # RMS_t, algorithm 2
        lr = group["lr"] / surprise.clamp(min=1)
        if group["weight_decay"]:
            parameter.mul_(1 - lr / group["peak_lr"] * group["weight_decay"])
        parameter.sub_(mean / (square.sqrt() + group["eps"]) * lr)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; norm weights and biases do not."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


def _debiased(beta: float, step: int) -> float:
    """The beta that folds Adam's bias correction into the moving average itself: beta (1 - b^(t-1)) / (1 - b^t)."""
    return (beta**step - beta) / (beta**step - 1)
