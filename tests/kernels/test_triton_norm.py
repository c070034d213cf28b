"""Layer norm in Triton, with the operation before it, against plain PyTorch in fp64."""

import pytest
import torch
from torch.nn import functional as F

HALF = torch.bfloat16
DTYPES = [(torch.float32, torch.float32), (torch.float32, HALF), (HALF, HALF), (HALF, torch.float32)]


@pytest.fixture
def norm(triton_device):
    from modernbert.kernels.triton import norm

    return norm


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    found, wanted = found.detach().cpu().double(), wanted.detach().cpu().double()
    assert found.shape == wanted.shape
    return float((found - wanted).norm() / wanted.norm().clamp(min=1e-30))


def near(found, wanted, *dtypes) -> bool:
    tolerance = 8e-3 if HALF in dtypes else 2e-6
    return all(error(a, b) < tolerance for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize(("rows", "width"), [(1, 768), (5, 256), (37, 100), (3, 1), (2, 2048)])
@pytest.mark.parametrize(("stream", "dtype"), DTYPES, ids=str)
def test_add_norm_and_its_gradients(norm, triton_device, stream, dtype, rows, width):
    torch.manual_seed(0)
    x = (torch.randn(rows, width, dtype=torch.float64) * 3 + 1).to(stream)
    y = torch.randn(rows, width, dtype=torch.float64).to(dtype)
    weight = torch.rand(width) + 0.5
    given = torch.randn(rows, width).to(stream), torch.randn(rows, width).to(dtype)
    precise = [t.double().requires_grad_() for t in (x, y, weight)]
    total = precise[0] + precise[1]
    # The norm is computed from the stored sum, which is rounded in bf16.
    rounded = total + (total.detach().to(stream).double() - total.detach())
    wanted = total, F.layer_norm(rounded, (width,), precise[2], None, 1e-5)
    wanted_grads = torch.autograd.grad(wanted, precise, [g.double() for g in given])
    ours = [t.to(triton_device).requires_grad_() for t in (x, y, weight)]
    found = norm.add_norm(*ours, 1e-5, dtype)[:2]
    assert (found[0].dtype, found[1].dtype) == (stream, dtype)
    grads = torch.autograd.grad(found, ours, [g.to(triton_device) for g in given])
    assert [g.dtype for g in grads] == [stream, dtype, torch.float32]
    assert near(found, wanted, stream, dtype)
    if width > 1:  # a row of one number has no deviation, and its gradient is only rounding error
        assert near(grads, wanted_grads, stream, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
def test_a_gradient_of_the_norm_alone_or_of_the_sum_alone(norm, triton_device, dtype):
    torch.manual_seed(0)
    x, y, weight = (torch.randn(*shape, device=triton_device) for shape in ((6, 96), (6, 96), (96,)))
    given = torch.randn(6, 96, device=triton_device)
    for part in range(2):
        ours = [x.to(dtype).requires_grad_(), y.to(dtype).requires_grad_(), weight.clone().requires_grad_()]
        precise = [t.detach().double().requires_grad_() for t in ours]
        total = precise[0] + precise[1]
        wanted = (total, F.layer_norm(total, (96,), precise[2], None, 1e-5))[part]
        found = norm.add_norm(*ours, 1e-5, dtype)[part]
        grads = torch.autograd.grad(found, ours[: 2 + part], given.to(dtype))
        wanted_grads = torch.autograd.grad(wanted, precise[: 2 + part], given.to(dtype).double())
        assert near(grads, wanted_grads, dtype)


@pytest.mark.parametrize(("rows", "width"), [(1, 768), (37, 100), (200, 32)])
@pytest.mark.parametrize(("given_dtype", "dtype"), DTYPES, ids=str)
def test_layer_norm_and_its_gradients(norm, triton_device, given_dtype, dtype, rows, width):
    torch.manual_seed(0)
    x, weight = (torch.randn(rows, width) * 3 + 1).to(given_dtype), torch.rand(width) + 0.5
    given = torch.randn(rows, width).to(dtype)
    precise = [t.double().requires_grad_() for t in (x, weight)]
    wanted = F.layer_norm(precise[0], (width,), precise[1], None, 1e-5)
    ours = [t.to(triton_device).requires_grad_() for t in (x, weight)]
    found = norm.layer_norm(*ours, 1e-5, dtype)[0]
    assert found.dtype == dtype
    grads = torch.autograd.grad(found, ours, given.to(triton_device))
    assert near([found], [wanted], given_dtype, dtype)
    assert near(grads, torch.autograd.grad(wanted, precise, given.double()), given_dtype, dtype)


@pytest.mark.parametrize("table_dtype", [torch.float32, HALF])
@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@pytest.mark.parametrize("index_dtype", [torch.int64, torch.int32])
def test_embedding_norm_and_its_gradients(norm, triton_device, table_dtype, dtype, index_dtype):
    torch.manual_seed(0)
    tokens = torch.tensor([3, 0, 3, 9, 9, 9, 1], dtype=index_dtype)
    table, weight = torch.randn(10, 80).to(table_dtype), torch.rand(80) + 0.5
    given = torch.randn(7, 80).to(dtype)
    precise = [t.double().requires_grad_() for t in (table, weight)]
    wanted = F.layer_norm(F.embedding(tokens, precise[0]), (80,), precise[1], None, 1e-5)
    ours = [t.to(triton_device).requires_grad_() for t in (table, weight)]
    found = norm.embedding_norm(tokens.to(triton_device), *ours, 1e-5, dtype)[0]
    grads = torch.autograd.grad(found, ours, given.to(triton_device))
    assert (found.dtype, grads[0].dtype) == (dtype, table_dtype)
    assert near([found], [wanted], dtype)
    assert near(grads, torch.autograd.grad(wanted, precise, given.double()), dtype, table_dtype)


@pytest.mark.parametrize("index", [-1, 10, 2**40])
def test_an_id_outside_the_table_is_nan_and_leaves_the_other_rows_alone(norm, triton_device, index):
    torch.manual_seed(0)
    table, weight = (torch.randn(*shape, device=triton_device).requires_grad_() for shape in ((10, 80), (80,)))
    tokens = torch.tensor([3, index, 1], device=triton_device)
    found = norm.embedding_norm(tokens, table, weight, 1e-5, torch.float32)[0]
    assert found[1].isnan().all()
    wanted = norm.embedding_norm(tokens[::2], table, weight, 1e-5, torch.float32)[0]
    assert torch.equal(found[::2], wanted)
    grad = torch.autograd.grad(found.sum(), table)[0]
    assert torch.equal(grad[[1, 3]], torch.autograd.grad(wanted.sum(), table)[0][[1, 3]])


def test_no_rows_give_no_rows_and_a_gradient_of_zeros(norm, triton_device):
    x, y = (torch.empty(0, 64, device=triton_device, requires_grad=True) for _ in range(2))
    weight = torch.ones(64, device=triton_device, requires_grad=True)
    tokens = torch.empty(0, dtype=torch.int64, device=triton_device)
    total, normed, _, _ = norm.add_norm(x, y, weight, 1e-5, torch.float32)
    assert total.shape == normed.shape == (0, 64)
    for result in (normed, norm.layer_norm(x, weight, 1e-5, torch.float32)[0]):
        assert torch.equal(torch.autograd.grad(result.sum(), weight)[0], torch.zeros_like(weight))
    table = torch.ones(5, 64, device=triton_device, requires_grad=True)
    result = norm.embedding_norm(tokens, table, weight, 1e-5, torch.float32)[0]
    for grad in torch.autograd.grad(result.sum(), (table, weight)):
        assert not grad.any()


def test_inputs_need_not_be_contiguous(norm, triton_device):
    torch.manual_seed(0)
    x, given = torch.randn(48, 6, device=triton_device).t(), torch.randn(48, 6, device=triton_device).t()
    weight = torch.rand(48, device=triton_device)
    straight = x.contiguous().requires_grad_()
    turned = x.detach().requires_grad_()
    grads = []
    for each in (straight, turned):
        total, normed, _, _ = norm.add_norm(each, each, weight, 1e-5, torch.float32)
        grads.append(torch.autograd.grad((total, normed), each, (given, given))[0])
    assert torch.equal(*grads)


def test_operators_pass_the_checks_of_torch(norm, triton_device):
    """Shapes, gradients and aliases are as declared to torch.compile and export."""
    x, y, table = (torch.randn(7, 32, device=triton_device) for _ in range(3))
    weight = torch.rand(32, device=triton_device)
    tokens = torch.tensor([1, 6, 1], device=triton_device)
    ours = torch.ops.modernbert
    for dtype in (torch.float32, HALF):
        inputs = x.clone().requires_grad_(), y.to(dtype, copy=True).requires_grad_(), weight.clone().requires_grad_()
        torch.library.opcheck(ours.triton_add_norm.default, (*inputs, 1e-5, dtype))
    torch.library.opcheck(ours.triton_layer_norm.default, (x.clone().requires_grad_(), weight, 1e-5, HALF))
    torch.library.opcheck(
        ours.triton_embedding_norm.default, (tokens, table.clone().requires_grad_(), weight, 1e-5, HALF)
    )


def test_the_same_input_gives_the_same_bits(norm, triton_device):
    torch.manual_seed(0)
    x, given = (torch.randn(301, 24, device=triton_device) for _ in range(2))
    weight = torch.ones(24, device=triton_device, requires_grad=True)
    found = [
        torch.autograd.grad(norm.layer_norm(x, weight, 1e-5, torch.float32)[0], weight, given)[0] for _ in range(2)
    ]
    assert torch.equal(found[0], found[1])
