"""Attention in plain PyTorch, on any device, forward and backward, without a dense tokens x tokens matrix.

Each sequence is divided into tiles that depend only on its length:

- a global layer, or a sequence that a window nearly covers: slices of queries with all keys of the sequence;
- a local layer on a longer sequence: blocks of queries with the keys from `window` before to `window` after each block.

Tiles of equal shape run as one batched matrix product, so that many short sequences need few calls. Keys outside the
sequence or the window are masked, and their indices stay inside the sequence. So not even a NaN can reach another
sequence, and the result of a sequence has the same bits in every batch.

Scores and softmax are fp32 for 16-bit inputs; the products with values and gradients run in the input's dtype. The
backward pass recomputes the scores of one tile at a time (Dao et al. 2022, arXiv 2205.14135, section 3.1).
"""

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from modernbert.packed import Sequences

_BLOCK = 64  # queries of a local tile: 64 x 192 scores at window 64; less padding than 128, fewer products than 32
_TILE_ELEMENTS = 1 << 21  # fp32 scores in memory at a time: 8 MiB, about the size of the caches of two cores


@dataclass(frozen=True)
class Group:
    """Tiles of one shape. Indices are rows of the packed batch; padding repeats a row of the same sequence."""

    queries: Int[Tensor, "tiles slices q"]
    keys: Int[Tensor, "tiles k"]
    bias: Float[Tensor, "tiles 1 #q k"] | None  # 0 or -inf; None if all keys are visible to all queries
    real: Float[Tensor, "tiles slices q"] | None  # 0 on padding queries; None without padding

    def to(self, device: torch.device) -> "Group":
        bias = None if self.bias is None else self.bias.to(device)
        real = None if self.real is None else self.real.to(device)
        return Group(self.queries.to(device), self.keys.to(device), bias, real)


@dataclass(frozen=True)
class Plan:
    """All tiles of a batch, and the positions of each token's output and key gradients in the concatenated results."""

    groups: tuple[Group, ...]
    output_rows: Int[Tensor, "tokens"]
    key_rows: Int[Tensor, "copies tokens"]  # the index after the last row means "no further copy"


_plans: WeakKeyDictionary[Sequences, dict[tuple[int | None, int], Plan]] = WeakKeyDictionary()


def attention(
    q: Float[Tensor, "tokens heads head_dim"],
    k: Float[Tensor, "tokens heads head_dim"],
    v: Float[Tensor, "tokens heads head_dim"],
    sequences: Sequences,
    window: int | None,
) -> Float[Tensor, "tokens heads head_dim"]:
    """softmax(q k^T / sqrt(head_dim)) v inside each sequence, where |i - j| <= window."""
    known = _plans.setdefault(sequences, {})
    key = (window, q.shape[1])
    if key not in known:
        known[key] = _plan(sequences, window, heads=q.shape[1])
    output: Tensor = _Attention.apply(q, k, v, known[key])
    return output


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: Plan) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.plan = plan
        outputs: list[Tensor] = []
        for group in plan.groups:
            keys, values = _precise(_gather(k, group.keys)), _gather(v, group.keys)
            for part in group.queries.unbind(1):
                weights = _weights(_gather(q, part), keys, group.bias)
                outputs.append(_rows(torch.bmm(weights.to(v.dtype), values), part))
        return _concatenate(outputs).index_select(0, plan.output_rows).view_as(q)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v = ctx.saved_tensors
        plan: Plan = ctx.plan
        scale = q.shape[-1] ** -0.5
        query_grads: list[Tensor] = []
        key_grads: list[Tensor] = []
        value_grads: list[Tensor] = []
        for group in plan.groups:
            keys, values = _gather(k, group.keys), _gather(v, group.keys)
            precise_keys = _precise(keys)
            key_grad, value_grad = torch.zeros_like(precise_keys), torch.zeros_like(precise_keys)
            for index, part in enumerate(group.queries.unbind(1)):
                queries, output_grad = _gather(q, part), _gather(grad, part)
                if group.real is not None:  # a padding query must not count twice
                    heads = group.real[:, index, :, None].to(grad.dtype).repeat_interleave(q.shape[1], 0)
                    output_grad = output_grad * heads
                weights = _weights(queries, precise_keys, group.bias)
                value_grad += torch.bmm(weights.to(v.dtype).transpose(1, 2), output_grad)
                score_grad = _precise(torch.bmm(output_grad, values.transpose(1, 2))).mul_(weights)
                score_grad.addcmul_(weights, score_grad.sum(-1, keepdim=True), value=-1).mul_(scale)
                score_grad = score_grad.to(q.dtype)
                query_grads.append(_rows(torch.bmm(score_grad, keys), part))
                key_grad += torch.bmm(score_grad.transpose(1, 2), queries)
            key_grads.append(_rows(key_grad, group.keys))
            value_grads.append(_rows(value_grad, group.keys))
        grad_q = _concatenate(query_grads).index_select(0, plan.output_rows)
        grad_k, grad_v = (_sum_copies(parts, plan.key_rows).to(q.dtype) for parts in (key_grads, value_grads))
        return grad_q.view_as(q), grad_k.view_as(k), grad_v.view_as(v), None


def _weights(queries: Tensor, precise_keys: Tensor, bias: Tensor | None) -> Tensor:
    """Softmax of the scores of some queries over all keys of their tile, at least fp32: (tiles * heads, q, k)."""
    scores = torch.bmm(_precise(queries) * queries.shape[-1] ** -0.5, precise_keys.transpose(1, 2))
    if bias is not None:
        scores.view(bias.shape[0], -1, *scores.shape[1:]).add_(bias)
    return torch.softmax(scores, -1, out=scores)


def _precise(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _gather(x: Tensor, index: Tensor) -> Tensor:
    """Rows of (tokens, heads, head_dim) for index (tiles, rows), as (tiles * heads, rows, head_dim)."""
    rows = x.flatten(1).index_select(0, index.flatten()).view(*index.shape, *x.shape[1:])
    return rows.transpose(1, 2).flatten(0, 1)


def _rows(y: Tensor, index: Tensor) -> Tensor:
    """The inverse layout: (tiles * heads, rows, head_dim) as (tiles * rows, heads * head_dim)."""
    tiles, rows = index.shape
    return y.view(tiles, -1, *y.shape[1:]).transpose(1, 2).reshape(tiles * rows, -1)


def _concatenate(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _sum_copies(parts: list[Tensor], rows: Tensor) -> Tensor:
    """For each token, the sum of its rows, one for every tile in which it is a key."""
    if len(rows) == 1:
        return _concatenate(parts).index_select(0, rows[0])
    padded = torch.cat([*parts, parts[0].new_zeros(1, parts[0].shape[1])])
    total = padded.index_select(0, rows[0])
    for copy in rows[1:]:
        total += padded.index_select(0, copy)
    return total


def _plan(sequences: Sequences, window: int | None, heads: int) -> Plan:
    by_shape: dict[tuple[int, int, int], list[_Tiles]] = {}
    for start, length in zip(sequences.cu_seqlens.tolist(), sequences.lengths, strict=False):
        if length:
            tiles = _tiles(start, length, window, heads)
            by_shape.setdefault(tiles.shape, []).append(tiles)
    groups, token_rows, key_tokens = [], [], []
    for shape, members in by_shape.items():
        rows_at_once = max(1, _TILE_ELEMENTS // (heads * shape[1] * shape[2]))
        for part in torch.tensor([row for tiles in members for row in tiles.rows]).split(rows_at_once):
            group, tokens, keys = _group(part, shape, window)
            groups.append(group)
            token_rows.append(tokens)
            key_tokens.append(keys)
    output_rows = _positions_of(torch.cat(token_rows), sequences.num_tokens)[0]
    key_rows = _positions_of(torch.cat(key_tokens), sequences.num_tokens)
    device = sequences.device
    return Plan(tuple(group.to(device) for group in groups), output_rows.to(device), key_rows.to(device))


@dataclass(frozen=True)
class _Tiles:
    """The tiles of one sequence: rows of (start, length, first query, first key), all of shape (slices, q, k)."""

    shape: tuple[int, int, int]
    rows: list[tuple[int, int, int, int]]


def _tiles(start: int, length: int, window: int | None, heads: int) -> _Tiles:
    """The tiles of a sequence; they depend only on it, so that its result does not depend on other sequences."""
    padded = _round_up(length, 16 if length <= 128 else 64)
    if window is not None and padded > _BLOCK + 2 * window:
        blocks = range(0, length, _BLOCK)
        return _Tiles((1, _BLOCK, _BLOCK + 2 * window), [(start, length, i, i - window) for i in blocks])
    rows_at_once = padded if window is not None else min(padded, max(32, _TILE_ELEMENTS // (heads * padded) // 32 * 32))
    return _Tiles((-(-padded // rows_at_once), rows_at_once, padded), [(start, length, 0, 0)])


def _group(rows: Tensor, shape: tuple[int, int, int], window: int | None) -> tuple[Group, Tensor, Tensor]:
    """The group of some tiles; the token of each output row and of each key row, -1 for padding."""
    slices, q, k = shape
    start, length, first_query, first_key = rows.unsqueeze(-1).unbind(1)
    query = first_query + torch.arange(slices * q)
    key = first_key + torch.arange(k)
    query_real, key_real = query < length, (key >= 0) & (key < length)
    queries, keys = start + query.minimum(length - 1), start + key.clamp(min=0).minimum(length - 1)
    visible = key_real[:, None]
    if window is not None:
        visible = visible & ((query.minimum(length - 1)[:, :, None] - key[:, None]).abs() <= window)
    group = Group(
        queries=queries.unflatten(1, (slices, q)),
        keys=keys,
        bias=None if visible.all() else torch.zeros(visible.shape).masked_fill_(~visible, float("-inf")).unsqueeze(1),
        real=None if query_real.all() else query_real.float().unflatten(1, (slices, q)),
    )
    tokens = queries.masked_fill(~query_real, -1).unflatten(1, (slices, q)).transpose(0, 1).flatten()
    return group, tokens, keys.masked_fill(~key_real, -1).flatten()


def _positions_of(tokens: Tensor, num_tokens: int) -> Tensor:
    """For each token, the positions at which it occurs, (copies, num_tokens), padded with `len(tokens)`."""
    order = tokens.argsort(stable=True)
    order = order[tokens[order] >= 0]
    occurring = tokens[order]
    counts = torch.bincount(occurring, minlength=num_tokens)
    copy = torch.arange(len(order)) - (counts.cumsum(0) - counts)[occurring]
    positions = torch.full((int(counts.max()), num_tokens), len(tokens))
    positions[copy, occurring] = order
    return positions


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step
