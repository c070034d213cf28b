import pytest
import torch
from torch.nn import functional as F

from modernbert.errors import DataError
from modernbert.kernels import cross_entropy as module
from modernbert.kernels.cross_entropy import linear_cross_entropy


def material(dtype, rows=37, hidden=16, vocab=50, bias=True):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, hidden, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(vocab, hidden, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    offset = torch.randn(vocab, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() if bias else None
    return x, weight, offset, torch.randint(0, vocab, (rows,), generator=generator)


def plain(x, weight, bias, labels):
    logits = F.linear(x, weight, bias)
    return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), labels)


@pytest.mark.parametrize("rows_at_once", [1, 10, 37, 1000])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)]
)
def test_loss_and_gradients_equal_the_plain_way(level_or_off, monkeypatch, rows_at_once, bias, dtype, tolerance):
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", rows_at_once * 50)
    x, weight, offset, labels = material(dtype, bias=bias)
    inputs = [t for t in (x, weight, offset) if t is not None]
    precise = [t.detach().double().requires_grad_() for t in inputs]
    expected = plain(precise[0], precise[1], precise[2] if bias else None, labels)
    loss = linear_cross_entropy(x, weight, offset, labels)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=tolerance)
    wanted = torch.autograd.grad(3 * expected, precise)
    for ours, theirs, source in zip(torch.autograd.grad(3 * loss, inputs), wanted, inputs, strict=True):
        assert ours.dtype == source.dtype
        assert (ours.double() - theirs).norm() <= tolerance * theirs.norm()


def test_under_autocast_the_products_are_bf16_and_the_gradients_fp32():
    x, weight, bias, labels = material(torch.float32, rows=200, hidden=64)
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(x, weight, bias, labels)
    grad = torch.autograd.grad(loss, [x, weight, bias])
    expected = torch.autograd.grad(plain(x, weight, bias, labels), [x, weight, bias])
    for ours, theirs in zip(grad, expected, strict=True):
        assert ours.dtype == torch.float32
        assert 0 < (ours - theirs).norm() <= 2e-2 * theirs.norm()


def test_without_gradients_only_the_loss_is_computed():
    x, weight, bias, labels = material(torch.float32)
    with torch.no_grad():
        loss = linear_cross_entropy(x, weight, bias, labels)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, plain(x, weight, bias, labels).detach())


def test_no_tensor_is_larger_than_the_weights_and_a_chunk(monkeypatch):
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 20 * 50)
    x, weight, bias, labels = material(torch.float32, rows=2000)
    sizes = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            sizes.extend(t.numel() for t in torch.utils._pytree.tree_leaves(result) if isinstance(t, torch.Tensor))
            return result

    with Sizes():
        linear_cross_entropy(x, weight, bias, labels).backward()
    assert max(sizes) <= max(x.numel(), 1000)
    assert max(sizes) < 2000 * 50 / 2


def test_a_label_outside_the_vocabulary_is_refused(level_or_off):
    x, weight, bias, labels = material(torch.float32)
    with pytest.raises(DataError, match="A label is outside the vocabulary of 50"):
        linear_cross_entropy(x, weight, bias, labels.index_fill(0, torch.tensor([5]), 50))


@pytest.mark.parametrize("vocab", [1, 7, 16, 100, 1000])
def test_large_logits_and_any_vocabulary(level_or_off, vocab):
    x, weight, bias, labels = material(torch.float32, rows=130, vocab=vocab)
    x = (x.detach() * 100).requires_grad_()
    loss = linear_cross_entropy(x, weight, bias, labels)
    expected = plain(x, weight, bias, labels)
    torch.testing.assert_close(loss, expected)
    for ours, theirs in zip(
        torch.autograd.grad(loss, [x, weight, bias]), torch.autograd.grad(expected, [x, weight, bias]), strict=True
    ):
        assert (ours - theirs).norm() <= 1e-4 * theirs.norm() + 1e-9


@pytest.mark.parametrize("rows_at_once", [10, 1000])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_row_labelled_minus_100_counts_for_nothing(level_or_off, monkeypatch, rows_at_once, reduction, dtype):
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", rows_at_once * 50)
    x, weight, bias, labels = material(dtype)
    labels[::4] = -100
    loss = linear_cross_entropy(x, weight, bias, labels, reduction)
    expected = F.cross_entropy(F.linear(x, weight, bias), labels, reduction=reduction)
    torch.testing.assert_close(loss, expected)
    grads = torch.autograd.grad(loss, [x, weight, bias])
    assert not grads[0][::4].any()
    for ours, theirs in zip(grads, torch.autograd.grad(expected, [x, weight, bias]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_rows_that_all_count_for_nothing_give_zero(level_or_off):
    x, weight, bias, labels = material(torch.float32)
    loss = linear_cross_entropy(x, weight, bias, torch.full_like(labels, -100))
    assert float(loss.detach()) == 0
    assert not any(grad.any() for grad in torch.autograd.grad(loss, [x, weight, bias]))
