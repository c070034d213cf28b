"""Attention in ONNX, without a dense length x length matrix where the length is long.

Two functions of standard operators (opset 18), written in onnxscript, stand where the traced graph has
`modernbert_export::attention`, and are inlined:

- a window: up to four windows long one dense product; above, blocks of queries, each with the keys from `window` before
  to `window` after it;
- global: one dense product as long as the scores are small; above, a loop (Scan) over slices of queries.

Which one runs is decided by the shape of the batch at run time (If), so one file serves short and long texts.
This module needs onnxscript: import it where a graph is made.
"""

from onnxscript import FLOAT, graph, script
from onnxscript import opset18 as op
from onnxscript.values import Opset

from modernbert.export.padded import HIDDEN

_DOMAIN = Opset("modernbert.export", 1)
_SCORES = 1 << 24  # of one slice of a global layer, batch and heads together: 64 MiB in fp32
_BLOCK = 64  # queries of a block of a window


@script(_DOMAIN, default_opset=op)  # type: ignore[untyped-decorator]
def GlobalAttention(q: FLOAT[...], k: FLOAT[...], v: FLOAT[...], bias: FLOAT[...]) -> FLOAT[...]:  # noqa: N802 - the name of an ONNX function
    keys = op.Transpose(k, perm=[0, 1, 3, 2])
    hidden = op.Unsqueeze(bias, op.Constant(value_ints=[1, 2]))
    shape = op.Shape(q)
    front = op.Slice(shape, [0], [2])
    length = op.Slice(shape, [2], [3])
    scores = op.Mul(op.Mul(op.ReduceProd(front, keepdims=1), length), length)
    slices = op.Div(op.Add(scores, op.Constant(value_ints=[_SCORES - 1])), op.Constant(value_ints=[_SCORES]))
    if op.Squeeze(slices) <= 1:
        y = op.MatMul(op.Softmax(op.Add(op.MatMul(q, keys), hidden), axis=-1), v)
    else:
        rows = op.Div(op.Sub(op.Add(length, slices), [1]), slices)
        surplus = op.Sub(op.Mul(slices, rows), length)
        padded = op.Pad(q, op.Concat([0, 0, 0, 0, 0, 0], surplus, [0], axis=0))
        tiles = op.Transpose(op.Reshape(padded, op.Concat(front, slices, rows, [-1], axis=0)), perm=[2, 0, 1, 3, 4])

        # what every slice needs is state of the loop: OpenVINO takes no values from outside of it
        @graph()
        def attend(all_keys, all_hidden, all_values, queries):  # type: ignore[no-untyped-def]
            weights = op.Softmax(op.Add(op.MatMul(queries, all_keys), all_hidden), axis=-1)
            attended = op.MatMul(weights, all_values)
            return op.Identity(all_keys), op.Identity(all_hidden), op.Identity(all_values), attended

        _, _, _, sliced = op.Scan(keys, hidden, v, tiles, body=attend, num_scan_inputs=1)
        found = op.Transpose(sliced, perm=[1, 2, 0, 3, 4])
        flat = op.Reshape(found, op.Concat(front, op.Mul(slices, rows), [-1], axis=0))
        y = op.Slice(flat, [0], length, [2])
    return y


@script(_DOMAIN, default_opset=op)  # type: ignore[untyped-decorator]
def WindowAttention(q: FLOAT[...], k: FLOAT[...], v: FLOAT[...], bias: FLOAT[...], window: int) -> FLOAT[...]:  # noqa: N802
    shape = op.Shape(q)
    front = op.Slice(shape, [0], [2])
    length = op.Slice(shape, [2], [3])
    w = op.Reshape(op.Constant(value_int=window), [1])
    hidden = op.CastLike(HIDDEN, q)
    seen = op.CastLike(0.0, q)
    zero = op.Constant(value_int=0)
    one = op.Constant(value_int=1)
    if op.Squeeze(length) <= op.Squeeze(op.Mul(w, [4])):
        index = op.Range(zero, op.Squeeze(length), one)
        far = op.Greater(op.Abs(op.Sub(op.Unsqueeze(index, [1]), op.Unsqueeze(index, [0]))), w)
        mask = op.Add(op.Where(far, hidden, seen), op.Unsqueeze(bias, op.Constant(value_ints=[1, 2])))
        scores = op.Add(op.MatMul(q, op.Transpose(k, perm=[0, 1, 3, 2])), mask)
        y = op.MatMul(op.Softmax(scores, axis=-1), v)
    else:
        blocks = op.Div(op.Add(length, op.Constant(value_ints=[_BLOCK - 1])), op.Constant(value_ints=[_BLOCK]))
        surplus = op.Sub(op.Mul(blocks, op.Constant(value_ints=[_BLOCK])), length)
        padded = op.Pad(q, op.Concat([0, 0, 0, 0, 0, 0], surplus, [0], axis=0))
        queries = op.Reshape(padded, op.Concat(front, blocks, op.Constant(value_ints=[_BLOCK, -1]), axis=0))
        begins = op.Mul(op.Range(zero, op.Squeeze(blocks), one), op.Constant(value_ints=[_BLOCK]))
        width = op.Squeeze(op.Add(op.Mul(w, [2]), op.Constant(value_ints=[_BLOCK])))
        offsets = op.Sub(op.Range(zero, width, one), w)
        at = op.Add(op.Unsqueeze(begins, [1]), op.Unsqueeze(offsets, [0]))  # (blocks, keys)
        rows = op.Max(op.Min(at, op.Sub(length, [1])), [0])
        outside = op.Not(op.Equal(at, rows))
        place = op.Range(zero, op.Constant(value_int=_BLOCK), one)
        far = op.Greater(op.Abs(op.Sub(op.Unsqueeze(place, [1]), op.Unsqueeze(offsets, [0]))), w)  # (block, keys)
        hides = op.Or(op.Unsqueeze(far, [0]), op.Unsqueeze(outside, [1]))  # (blocks, block, keys)
        padding = op.Unsqueeze(op.Gather(bias, rows, axis=1), op.Constant(value_ints=[1, 3]))
        mask = op.Add(op.Where(hides, hidden, seen), padding)
        keys = op.Transpose(op.Gather(k, rows, axis=2), perm=[0, 1, 2, 4, 3])
        scores = op.Add(op.MatMul(queries, keys), mask)
        found = op.MatMul(op.Softmax(scores, axis=-1), op.Gather(v, rows, axis=2))
        flat = op.Reshape(found, op.Concat(front, op.Mul(blocks, op.Constant(value_ints=[_BLOCK])), [-1], axis=0))
        y = op.Slice(flat, [0], length, [2])
    return y
