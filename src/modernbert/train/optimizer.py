"""StableAdamW (Wortsman et al. 2023, arXiv 2304.13013) with fully decoupled weight decay."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from modernbert.kernels import native, native_operators
from modernbert.kernels import triton as triton_kernels

_BLOCK_ELEMENTS = 1 << 18  # of a tensor at a time on a CPU: temporaries stay in its cache, and calls cost little

_MULTI_TENSOR_DEVICE = "cuda"  # where one kernel updates all tensors; tests set it to the CPU, for the interpreter


class StableAdamW(torch.optim.Optimizer):
    """AdamW with a smaller step for tensors whose gradient is large compared with its second moment.

    It replaces gradient clipping. Weights decay by `weight_decay * lr / peak_lr` per step, so that the decay does not
    depend on the peak learning rate (Loshchilov & Hutter 2019, arXiv 1711.05101, eq. 12).
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
        self._multi_tensor: Any = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._multi_tensor = None

    @torch.no_grad()
    def step(self, max_norm: float | None = None) -> Tensor:  # type: ignore[override]
        """Update every parameter that has a gradient. Moments use debiased betas, as in Adafactor.

        Gradients with a common norm above `max_norm` count as if `clip_grad_norm_` had scaled them down. They are not
        rewritten, which saves a pass over memory.

        Returns the norm of all gradients before the scaling: 0-dim, on their device. If it is not finite, neither
        parameters nor moments change. On CUDA, the host does not wait for the device if all parameters are fp32 and not
        sharded; since it does not know the norm then, it counts that step too.

        With sharding, each process updates its part of a tensor; the norm is that of the full gradients.
        """
        trained = [(p, group) for group in self.param_groups for p in group["params"] if p.grad is not None]
        if trained and self._supports_multi_tensor(trained):
            return self._step_at_once(trained, max_norm)
        norm = nn.utils.get_total_norm([parameter.grad for parameter, _ in trained])
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if not norm.isfinite():
            return norm
        scale = 1.0 if max_norm is None else float((max_norm / (norm + 1e-6)).clamp(max=1.0))
        sharded: list[tuple[DTensor, dict[str, Any], Tensor]] = []
        for parameter, group in trained:
            total = self._moments(parameter, parameter.grad, group, scale)
            if isinstance(parameter, DTensor):
                sharded.append((parameter, group, total))
            else:  # while its moments are in the cache
                self._move(parameter, group, total)
        _sum_over_shards([(parameter, total) for parameter, _, total in sharded])
        for parameter, group, total in sharded:
            self._move(parameter, group, total)
        return norm

    def _supports_multi_tensor(self, trained: list[tuple[Tensor, dict[str, Any]]]) -> bool:
        """Whether one kernel updates all tensors at once: on CUDA, in fp32, not sharded, contiguous."""
        device = trained[0][0].device
        return (
            device.type == _MULTI_TENSOR_DEVICE
            and triton_kernels.supports(device, torch.float32)
            and all(
                x.dtype == torch.float32 and x.device == device and x.is_contiguous() and not isinstance(x, DTensor)
                for parameter, _ in trained
                for x in (parameter, *(self._state(parameter)[moment] for moment in ("exp_avg", "exp_avg_sq")))
            )
        )

    def _step_at_once(self, trained: list[tuple[Tensor, dict[str, Any]]], max_norm: float | None) -> Tensor:
        from modernbert.kernels.triton.optimizer import MultiTensor, Settings

        kinds: dict[tuple[int, int], int] = {}  # a group whose tensors have been updated equally often is one kind
        settings: list[Settings] = []
        tensors: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        of: list[int] = []
        for parameter, group in trained:
            assert parameter.grad is not None
            state = self._state(parameter)
            state["step"] += 1
            kind = kinds.setdefault((id(group), state["step"]), len(settings))
            if kind == len(settings):
                beta1, beta2 = (_debiased(beta, state["step"]) for beta in group["betas"])
                decay = group["weight_decay"] / group["peak_lr"]
                settings.append(Settings(beta1, beta2, group["eps"], group["lr"], decay))
            of.append(kind)
            tensors.append((parameter, parameter.grad.contiguous(), state["exp_avg"], state["exp_avg_sq"]))
        if self._multi_tensor is None:
            self._multi_tensor = MultiTensor()
        norm: Tensor = self._multi_tensor.step(tensors, of, settings, max_norm)
        return norm

    def _state(self, parameter: Tensor) -> dict[str, Any]:
        """The number of updates of a parameter, and its moments."""
        state: dict[str, Any] = self.state[parameter]
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state

    def _moments(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any], scale: float) -> Tensor:
        """Update the moments. Returns the sum of g^2 / v over the local part of the tensor."""
        state = self._state(parameter)
        state["step"] += 1
        beta1, beta2 = (_debiased(beta, state["step"]) for beta in group["betas"])
        grad, mean, square = (_local(x) for x in (gradient, state["exp_avg"], state["exp_avg_sq"]))
        if _native_supports(grad, mean, square):
            ratio_sum = native_operators.stable_adamw_moments(grad, mean, square, (beta1, beta2), group["eps"], scale)
            return torch.tensor(ratio_sum, dtype=parameter.dtype)
        total = torch.zeros((), device=parameter.device, dtype=parameter.dtype)
        for g, m, v in _blocks(grad, mean, square):
            if scale != 1.0:
                g = g * scale
            m.lerp_(g, 1 - beta1)
            v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
            total += (g.square() / v.clamp(min=group["eps"] ** 2)).sum()
        return total

    def _move(self, parameter: Tensor, group: dict[str, Any], total: Tensor) -> None:
        """Update a tensor. The step is smaller for a large `total`, the sum of g^2 / v over the full tensor."""
        state = self.state[parameter]
        update_rms = (total / parameter.numel()).sqrt()  # RMS_t of algorithm 2
        lr = group["lr"] / update_rms.clamp(min=1)
        decay = 1 - lr / group["peak_lr"] * group["weight_decay"]
        values, mean, square = (_local(x) for x in (parameter, state["exp_avg"], state["exp_avg_sq"]))
        if _native_supports(values, mean, square):
            native_operators.stable_adamw_move(
                values, mean, square, group["eps"], decay_factor=float(decay), rate=float(lr)
            )
            return
        for p, m, v in _blocks(values, mean, square):
            if group["weight_decay"]:
                p.mul_(decay)
            p.addcdiv_(m, v.sqrt().add_(group["eps"]).div_(lr), value=-1)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; norm weights and biases do not."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


def _native_supports(*tensors: Tensor) -> bool:
    """Whether the native kernels support these tensors."""
    return all(x.dtype == torch.float32 and x.is_contiguous() and native.supports(x.device, x.dtype) for x in tensors)


def _blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Matching parts of tensors of one shape, small enough for the CPU's cache, to be changed in place.

    Tensors that are not contiguous are not split, as flattening would copy them.
    """
    if not all(x.is_contiguous() for x in tensors):
        yield tensors
        return
    flat = [x.view(-1) for x in tensors]
    if flat[0].is_cuda:
        yield tuple(flat)
    else:
        yield from zip(*(x.split(_BLOCK_ELEMENTS) for x in flat), strict=True)


def _local(x: Tensor) -> Tensor:
    return x.to_local() if isinstance(x, DTensor) else x.detach()


def _sum_over_shards(totals: Iterable[tuple[DTensor, Tensor]]) -> None:
    """Sum the totals of sharded tensors over the processes that hold their parts, in one collective per mesh."""
    by_mesh: dict[DeviceMesh, list[Tensor]] = {}
    for parameter, total in totals:
        by_mesh.setdefault(parameter.device_mesh, []).append(total)
    for mesh, members in by_mesh.items():
        together = torch.stack(members)
        torch.distributed.all_reduce(together, group=mesh.get_group())
        for total, summed in zip(members, together.unbind(), strict=True):
            total.copy_(summed)


def _debiased(beta: float, step: int) -> float:
    """The beta that folds Adam's bias correction into the moving average itself: beta (1 - b^(t-1)) / (1 - b^t)."""
    return (beta**step - beta) / (beta**step - 1)
