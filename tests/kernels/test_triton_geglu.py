"""GeGLU in Triton against plain PyTorch in fp64."""

import pytest
import torch
from torch.nn import functional as F


@pytest.fixture
def geglu(triton_device):
    from modernbert.kernels.triton import geglu

    return geglu.geglu


@pytest.mark.parametrize(("rows", "width"), [(34, 48), (1, 1152), (17, 129), (3, 1), (16, 128)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_geglu_and_its_gradient(geglu, triton_device, dtype, rows, width):
    torch.manual_seed(0)
    x = torch.randn(rows, 2 * width) * 4
    x.view(-1)[:6] = torch.tensor([-40.0, -9, 0, 9, 40, 100])[: x.numel()]
    x, given = x.to(dtype), torch.randn(rows, width).to(dtype)
    precise = x.double().requires_grad_()
    activated, gate = precise.chunk(2, -1)
    wanted = F.gelu(activated) * gate
    [wanted_grad] = torch.autograd.grad(wanted, precise, given.double())
    ours = x.to(triton_device).requires_grad_()
    found = geglu(ours)
    [grad] = torch.autograd.grad(found, ours, given.to(triton_device))
    # The interpreter truncates to bf16, and a GPU rounds.
    tolerance = 8e-3 if dtype == torch.bfloat16 else 1e-6
    for value, expected in ((found, wanted), (grad, wanted_grad)):
        assert value.dtype == dtype
        assert (value.cpu().double() - expected).norm() <= tolerance * expected.norm()


def test_more_dimensions_no_rows_and_other_layouts(geglu, triton_device):
    x = torch.randn(2, 3, 40, device=triton_device)
    assert torch.equal(geglu(x), geglu(x.flatten(0, 1)).unflatten(0, (2, 3)))
    turned = torch.randn(40, 6, device=triton_device).t()
    assert torch.equal(geglu(turned), geglu(turned.contiguous()))
    empty = torch.empty(0, 40, device=triton_device, requires_grad=True)
    assert torch.autograd.grad(geglu(empty).sum(), empty)[0].shape == (0, 40)


def test_the_operator_passes_the_checks_of_torch(geglu, triton_device):
    x = torch.randn(5, 24, device=triton_device, requires_grad=True)
    torch.library.opcheck(torch.ops.modernbert.triton_geglu.default, (x,))
