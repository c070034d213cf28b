"""Cross-entropy in Triton against plain PyTorch in fp64, alone and after the decoder."""

import pytest
import torch
from torch.nn import functional as F

from modernbert.kernels import cross_entropy as seam
from modernbert.kernels.cross_entropy import linear_cross_entropy
from synchronisation import never_waiting

HALF = torch.bfloat16


@pytest.fixture
def kernels(triton_device, monkeypatch):
    """Use the kernels also on the CPU; by default they are used only on CUDA."""
    from modernbert.kernels.triton import cross_entropy

    monkeypatch.setattr(seam, "_on_triton", lambda x: x.dtype in (torch.float32, HALF))
    if triton_device.type == "cpu":
        monkeypatch.setattr(cross_entropy, "LANES", 64)  # smaller tiles: the interpreter is slow on large ones
        monkeypatch.setattr(cross_entropy, "SPLIT_ROWS", 64)
    return cross_entropy


def precise(logits, bias, labels):
    """Losses, gradient and gradient of the bias in fp64."""
    logits = (logits.double() + (0 if bias is None else bias.double())).requires_grad_()
    losses = F.cross_entropy(logits, labels, reduction="none", ignore_index=-100)
    [gradient] = torch.autograd.grad(losses.sum(), logits)
    return losses.detach(), gradient, gradient.sum(0)


@pytest.mark.parametrize(
    ("rows", "vocab", "bias"),
    [(5, 1000, True), (3, 2 * 512 + 5, False), (1, 17, True), (1, 17, False), (7, 1, True), (70, 40, False)],
)
@pytest.mark.parametrize("dtype", [torch.float32, HALF])
def test_losses_and_gradients(kernels, triton_device, dtype, rows, vocab, bias):
    torch.manual_seed(0)
    logits, offset = (torch.randn(rows, vocab) * 4).to(dtype), torch.randn(vocab) if bias else None
    labels = torch.randint(0, vocab, (rows,))
    labels[rows // 2] = -100 if rows > 1 else 0
    losses, gradient, bias_gradient = precise(logits, offset, labels)
    ours, theirs = logits.to(triton_device), None if offset is None else offset.to(triton_device)
    without = kernels.softmax_gradient(ours, theirs, labels.to(triton_device), False)
    assert torch.equal(ours.cpu(), logits)  # unchanged if no gradient is requested
    found = kernels.softmax_gradient(ours, theirs, labels.to(triton_device), True)
    assert torch.equal(found, without)
    torch.testing.assert_close(found.cpu().double(), losses, rtol=1e-5, atol=1e-5)
    tolerance = 8e-3 if dtype == HALF else 1e-5
    assert (ours.cpu().double() - gradient).norm() <= tolerance * gradient.norm() + 1e-9
    assert not ours[labels == -100].any()
    summed = kernels.column_sum(ours).cpu().double()
    torch.testing.assert_close(summed, ours.cpu().double().sum(0), rtol=1e-4, atol=1e-5)
    assert (summed - bias_gradient).norm() <= 2 * tolerance * gradient.norm() + 1e-9


def test_large_and_infinite_logits(kernels, triton_device):
    logits = torch.tensor([[1e4, -1e4, 0.0], [-torch.inf, 3.0, 4.0], [-5e4, -5e4, -5e4]], device=triton_device)
    labels = torch.tensor([1, 2, 0], device=triton_device)
    wanted, gradient, _ = precise(logits.cpu(), None, labels.cpu())
    found = kernels.softmax_gradient(logits, None, labels, True)
    torch.testing.assert_close(found.cpu().double(), wanted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(logits.cpu().double(), gradient, rtol=1e-6, atol=1e-6)


def test_an_ignored_row_counts_for_nothing_whatever_is_in_it(kernels, triton_device):
    logits = torch.full((3, 20), torch.nan, device=triton_device)
    labels = torch.full((3,), -100, device=triton_device)
    assert not kernels.softmax_gradient(logits, None, labels, True).any()
    assert not logits.any()


def test_a_label_outside_the_vocabulary_makes_the_loss_nan(kernels, triton_device):
    logits, labels = torch.randn(3, 20, device=triton_device), torch.tensor([0, 20, -1], device=triton_device)
    assert kernels.softmax_gradient(logits, None, labels, False).isnan().tolist() == [False, True, True]


def test_no_rows(kernels, triton_device):
    logits, labels = torch.empty(0, 20, device=triton_device), torch.empty(0, dtype=torch.int64, device=triton_device)
    assert kernels.softmax_gradient(logits, None, labels, True).shape == (0,)
    assert torch.equal(kernels.column_sum(logits), torch.zeros(20, device=triton_device))


def test_operators_pass_the_checks_of_torch(kernels, triton_device):
    logits, bias = torch.randn(5, 24, device=triton_device), torch.randn(24, device=triton_device)
    labels = torch.tensor([1, 23, -100, 0, 4], device=triton_device)
    torch.library.opcheck(torch.ops.modernbert.triton_softmax_gradient.default, (logits, bias, labels, True))
    torch.library.opcheck(torch.ops.modernbert.triton_column_sum.default, (logits,))


@pytest.mark.parametrize(
    ("rows_at_once", "bias", "autocast", "reduction"),
    [
        (10, True, True, "sum"), (10, False, False, "mean"), (1000, True, False, "mean"), (1000, False, True, "mean"),
        (1000, True, True, "mean"), (1000, False, False, "sum"),
    ],
)  # fmt: skip
def test_the_loss_of_a_decoder(kernels, triton_device, monkeypatch, rows_at_once, bias, autocast, reduction):
    for bound in ("CHUNK_ELEMENTS", "CUDA_CHUNK_ELEMENTS"):
        monkeypatch.setattr(seam, bound, rows_at_once * 50)
    torch.manual_seed(0)
    inputs = [torch.randn(37, 16), torch.randn(50, 16), torch.randn(50)][: 3 if bias else 2]
    labels = torch.randint(0, 50, (37,))
    labels[::5] = -100
    exact = [t.double().requires_grad_() for t in inputs]
    expected = F.cross_entropy(F.linear(*exact), labels, reduction=reduction)
    ours = [t.to(triton_device).requires_grad_() for t in inputs]
    with torch.autocast(triton_device.type, HALF, enabled=autocast):
        loss = linear_cross_entropy(*(ours if bias else [*ours, None]), labels.to(triton_device), reduction)
    tolerance = 2e-2 if autocast else 1e-5
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=tolerance)
    grads = torch.autograd.grad(3 * loss, ours)
    for found, wanted in zip(grads, torch.autograd.grad(3 * expected, exact), strict=True):
        assert found.dtype == torch.float32
        assert (found.cpu().double() - wanted).norm() <= tolerance * wanted.norm()


@pytest.mark.gpu
def test_nothing_waits_for_the_device(kernels):
    x, weight, bias = (torch.randn(*s, device="cuda", requires_grad=True) for s in ((64, 32), (100, 32), (100,)))
    labels = torch.randint(0, 100, (64,), device="cuda")
    linear_cross_entropy(x, weight, bias, labels).backward()  # compile and query once
    with never_waiting(), torch.autocast("cuda", HALF):
        linear_cross_entropy(x, weight, bias, labels, "sum").backward()
