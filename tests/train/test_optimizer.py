import optimi
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from modernbert.train.optimizer import StableAdamW, parameter_groups


@pytest.mark.slow
@pytest.mark.parametrize("weight_decay", [0.0, 9e-4])
def test_every_step_equals_the_reference(level_or_off, weight_decay):
    torch.manual_seed(0)
    shapes = [(7, 5), (3,), (4, 4, 2), (16384 + 21,)]  # the last is more than one block of the native kernel
    ours = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    a = StableAdamW(ours, lr=1e-2, peak_lr=2e-2, weight_decay=weight_decay)
    b = optimi.StableAdamW(
        theirs, lr=1e-2, betas=(0.9, 0.98), eps=1e-6, weight_decay=weight_decay, decouple_lr=True, max_lr=2e-2
    )
    for step in range(30):
        lr = 2e-2 * (0.5 + step / 60)
        a.param_groups[0]["lr"] = b.param_groups[0]["lr"] = lr
        for x, y in zip(ours, theirs, strict=True):
            x.grad = torch.randn_like(x) * (50.0 if step % 10 == 9 else 1.0)  # a spike, so that the clipping acts
            y.grad = x.grad.clone()
        a.step()
        b.step()
        for x, y in zip(ours, theirs, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)


def test_the_native_step_does_not_depend_on_the_number_of_threads(level):
    moved = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        parameter = nn.Parameter(torch.randn(5, 16384 + 21))
        optimizer = StableAdamW([parameter], lr=1e-2, peak_lr=1e-2, weight_decay=1e-3)
        for _ in range(3):
            parameter.grad = torch.randn_like(parameter)
            optimizer.step()
        moved.append(parameter.detach())
    assert torch.equal(*moved)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_and_layouts_use_the_torch_implementation(level, dtype):
    torch.manual_seed(0)
    start, gradient = torch.randn(6, 4), torch.randn(6, 4)
    plain = nn.Parameter(start.clone())
    odd = nn.Parameter(start.to(dtype))
    turned = nn.Parameter(start.clone())
    for parameter, grad in ((plain, gradient), (odd, gradient.to(dtype)), (turned, gradient.t().contiguous().t())):
        parameter.grad = grad
        StableAdamW([parameter], lr=1e-2, peak_lr=1e-2).step()
    torch.testing.assert_close(turned, plain)
    torch.testing.assert_close(odd.to(torch.float32), plain, rtol=1e-2, atol=1e-2)
    assert not torch.equal(odd.to(torch.float32), start)


@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_gradients_above_max_norm_are_clipped(level_or_off, max_norm):
    torch.manual_seed(0)
    cut = [nn.Parameter(torch.randn(shape)) for shape in ((40, 7), (11,))]
    scaled = [nn.Parameter(p.detach().clone()) for p in cut]
    one, other = (StableAdamW(parameters, lr=1e-2, peak_lr=1e-2) for parameters in (cut, scaled))
    for _ in range(3):
        for x, y in zip(cut, scaled, strict=True):
            x.grad = torch.randn_like(x)
            y.grad = x.grad.clone()
        kept = [p.grad.clone() for p in scaled]
        nn.utils.clip_grad_norm_(cut, max_norm)
        one.step()
        other.step(max_norm)
        assert all(torch.equal(p.grad, before) for p, before in zip(scaled, kept, strict=True))
    for x, y in zip(cut, scaled, strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_gradient_that_is_not_finite_changes_nothing_and_is_reported(level_or_off, bad):
    parameters = [nn.Parameter(torch.ones(40)), nn.Parameter(torch.ones(3))]
    optimizer = StableAdamW(parameters, lr=1e-2, peak_lr=1e-2, weight_decay=0.1)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    assert float(optimizer.step()) == pytest.approx(43**0.5)
    before = [p.detach().clone() for p in parameters]
    moments = [{k: torch.as_tensor(v).clone() for k, v in optimizer.state[p].items()} for p in parameters]
    parameters[0].grad[37] = bad
    assert not optimizer.step().isfinite()
    for parameter, old, state in zip(parameters, before, moments, strict=True):
        assert torch.equal(parameter, old)
        assert all(torch.equal(torch.as_tensor(v), state[k]) for k, v in optimizer.state[parameter].items())


@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    order=st.randoms(use_true_random=False),
    step=st.integers(1, 2),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    of_gradient=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_the_update_does_not_depend_on_the_layout(shape, order, step, dtype, of_gradient):
    """Transposed, or with gaps between its elements, in any dtype."""
    axes = list(range(len(shape)))
    order.shuffle(axes)

    def laid_out(x):
        room = torch.zeros([x.shape[a] * step for a in axes], dtype=dtype)
        view = room[tuple(slice(None, None, step) for _ in axes)].permute([axes.index(a) for a in range(len(shape))])
        return view.copy_(x)

    torch.manual_seed(0)
    start, *gradients = (torch.randn(shape).to(dtype) for _ in range(4))
    plain, odd = nn.Parameter(start.clone()), nn.Parameter(laid_out(start))
    one, other = (StableAdamW([p], lr=1e-2, peak_lr=1e-2, weight_decay=1e-3) for p in (plain, odd))
    for gradient in gradients:
        plain.grad, odd.grad = gradient.clone(), laid_out(gradient) if of_gradient else gradient.clone()
        one.step()
        other.step()
    assert not torch.equal(odd, start)
    torch.testing.assert_close(odd, plain)


def test_a_gradient_spike_changes_the_weights_less_than_in_adamw():
    quiet, torch_rng = torch.full((100,), 0.01), torch.Generator().manual_seed(0)
    moved = {}
    for kind in ("stable", "plain"):
        parameter = nn.Parameter(torch.zeros(100))
        if kind == "stable":
            optimizer = StableAdamW([parameter], lr=1e-2, peak_lr=1e-2)
        else:
            optimizer = torch.optim.AdamW([parameter], lr=1e-2, betas=(0.9, 0.98), eps=1e-6, weight_decay=0)
        for _ in range(50):
            parameter.grad = quiet * torch.randn(100, generator=torch_rng)
            optimizer.step()
        before = parameter.detach().clone()
        parameter.grad = torch.ones(100) * 10
        optimizer.step()
        moved[kind] = float((parameter.detach() - before).abs().mean())
    assert moved["stable"] < 0.5 * moved["plain"]


def test_norms_and_biases_do_not_decay():
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    decaying, free = parameter_groups(model, 0.1)
    assert [p.dim() for p in decaying["params"]] == [2]
    assert decaying["weight_decay"] == 0.1
    assert len(free["params"]) == 3
    assert free["weight_decay"] == 0.0


def test_decay_is_independent_of_the_learning_rate():
    shrunk = []
    for lr in (1e-2, 1e-4):
        parameter = nn.Parameter(torch.ones(4, 4))
        optimizer = StableAdamW([parameter], lr=lr, peak_lr=lr, weight_decay=0.1)
        parameter.grad = torch.zeros(4, 4)
        optimizer.step()
        shrunk.append(parameter.detach().clone())
    torch.testing.assert_close(shrunk[0], torch.full((4, 4), 0.9))
    torch.testing.assert_close(shrunk[0], shrunk[1])
