"""StableAdamW of all tensors at once, in Triton, against plain PyTorch tensor by tensor."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from modernbert.train import optimizer as module
from modernbert.train.optimizer import StableAdamW
from synchronisation import never_waiting


@pytest.fixture
def device(triton_device, monkeypatch) -> torch.device:
    """The device of the kernels. The optimizer uses them there; by default it uses them only on CUDA."""
    from modernbert.kernels.triton import optimizer as kernels

    monkeypatch.setattr(module, "_MULTI_TENSOR_DEVICE", triton_device.type)
    if triton_device.type == "cpu":
        monkeypatch.setattr(kernels, "CHUNK", 256)  # less work for the interpreter on small tensors
        monkeypatch.setattr(kernels, "BLOCK", 128)
    return triton_device


def made(device):
    from modernbert.kernels.triton.optimizer import CHUNK

    torch.manual_seed(0)
    shapes = [(7, 5), (3,), (4, 4, 2), (CHUNK + 21,), (1,), (CHUNK // 8, 8)]  # an incomplete chunk, and a full one
    ours = [nn.Parameter(torch.randn(shape, device=device)) for shape in shapes]
    theirs = [nn.Parameter(p.detach().double().cpu()) for p in ours]  # fp64 uses plain PyTorch
    pairs = []
    for parameters in (ours, theirs):
        groups = [
            {"params": parameters[:4], "weight_decay": 1e-3},
            {"params": parameters[4:], "weight_decay": 0.0, "lr": 3e-2, "betas": (0.8, 0.9)},
        ]
        pairs.append(StableAdamW(groups, lr=1e-2, peak_lr=2e-2))
    return ours, theirs, *pairs


@pytest.mark.parametrize("max_norm", [None, 0.7, 1e9])
def test_five_steps_equal_the_plain_way(device, max_norm):
    ours, theirs, one, other = made(device)
    for step in range(5):
        for x, y in zip(ours, theirs, strict=True):
            x.grad = torch.randn_like(x) * (50.0 if step == 3 else 1.0)  # a spike, so that the step shrinks
            y.grad = x.grad.double().cpu()
        if step == 2:  # one tensor is updated less often from now on, and the table changes
            ours[1].grad = theirs[1].grad = None
        for optimizer in (one, other):
            optimizer.param_groups[0]["lr"] = 1e-2 / (1 + step)
        kept = [None if p.grad is None else p.grad.clone() for p in ours]
        norm, wanted = one.step(max_norm), other.step(max_norm)
        assert norm.shape == ()
        assert norm.device == ours[0].device
        assert float(norm) == pytest.approx(float(wanted), rel=1e-5)
        assert all(p.grad is old or torch.equal(p.grad, old) for p, old in zip(ours, kept, strict=True))
        for x, y in zip(ours, theirs, strict=True):
            torch.testing.assert_close(x.cpu().double(), y, rtol=1e-5, atol=1e-6)
            assert one.state[x]["step"] == other.state[y]["step"]
            for moment in ("exp_avg", "exp_avg_sq"):
                torch.testing.assert_close(
                    one.state[x][moment].cpu().double(), other.state[y][moment], rtol=1e-5, atol=1e-6
                )


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e30])
@pytest.mark.parametrize("max_norm", [None, 1.0])
def test_a_gradient_that_is_not_finite_changes_nothing(device, bad, max_norm):
    ours, _, optimizer, _ = made(device)
    for step in range(2):
        for parameter in ours:
            parameter.grad = torch.randn_like(parameter)
        if step == 1:
            before = copy.deepcopy([(p.detach(), optimizer.state[p]) for p in ours])
            ours[3].grad[-15] = bad
        norm = optimizer.step(max_norm)
    assert not norm.isfinite()
    for parameter, (old, state) in zip(ours, before, strict=True):
        assert torch.equal(parameter, old)
        assert all(torch.equal(optimizer.state[parameter][m], state[m]) for m in ("exp_avg", "exp_avg_sq"))


def test_a_run_resumed_from_restored_moments_equals_one_without_a_stop(device):
    ours, _, optimizer, _ = made(device)
    gradients = [[torch.randn_like(p) for p in ours] for _ in range(4)]

    def take(parameters, optimizer, some):
        for each in some:
            for parameter, gradient in zip(parameters, each, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()

    take(ours, optimizer, gradients[:2])
    fresh, _, resumed, _ = made(device)
    for new, old in zip(fresh, ours, strict=True):
        new.data.copy_(old)
        state = optimizer.state[old]
        resumed.state[new] = {"step": 2, "exp_avg": state["exp_avg"].clone(), "exp_avg_sq": state["exp_avg_sq"].clone()}
    take(ours, optimizer, gradients[2:])
    take(fresh, resumed, gradients[2:])
    assert all(torch.equal(a, b) for a, b in zip(ours, fresh, strict=True))


def test_tables_are_written_anew_only_where_something_moved(device, monkeypatch):
    from modernbert.kernels.triton import optimizer as kernels

    copied = []
    plain = kernels._copied
    monkeypatch.setattr(kernels, "_copied", lambda values, *rest: copied.append(len(values)) or plain(values, *rest))
    ours, _, optimizer, _ = made(device)
    for parameter in ours:
        parameter.grad = torch.randn_like(parameter)
    for tables in (4, 1, 1, 2, 1):  # settings always; addresses where a gradient moved; chunks at the start
        if tables == 2:
            ours[0].grad = ours[0].grad.clone()
        copied.clear()
        optimizer.step()
        assert len(copied) == tables


def test_unsupported_tensors_use_the_plain_optimizer(device, monkeypatch):
    monkeypatch.setattr(StableAdamW, "_step_at_once", lambda *_: pytest.fail("addressed"))
    turned = nn.Parameter(torch.randn(6, 4, device=device).t())
    half = nn.Parameter(torch.randn(6, device=device, dtype=torch.bfloat16))
    for parameter in (turned, half):
        before = parameter.detach().clone()
        parameter.grad = torch.ones_like(parameter)
        StableAdamW([parameter], lr=1e-1, peak_lr=1e-1).step()
        assert not torch.equal(parameter, before)


@pytest.mark.gpu
def test_a_step_waits_for_nothing(device):
    ours, _, optimizer, _ = made(device)
    for checked in (False, True):
        for parameter in ours:
            parameter.grad = torch.randn_like(parameter)
        with never_waiting() if checked else nullcontext():
            norm = optimizer.step(1.0)
    assert norm.is_cuda
