"""Attention in ONNX, without a dense length x length matrix for long texts.

Two functions of standard operators (opset 18), written in onnxscript, replace `modernbert_export::attention` in the
traced graph, and are inlined:

- window: one dense product for lengths up to four windows; above, blocks of queries with the keys from `window` before
  to `window` after each block;
- global: one dense product if the matrix of scores is small; otherwise a loop (Scan) over slices of queries.

An If node selects the form by the shape of the batch at run time, so one file serves short and long texts.
This module needs onnxscript: import it only where a graph is built.
"""

from onnxscript import FLOAT, graph, script
from onnxscript import opset18 as op
from onnxscript.values import Opset

from modernbert.export.padded import HIDDEN

_DOMAIN = Opset("modernbert.export", 1)
_SCORES = 1 << 24  # of one slice of a global layer over batch and heads: 64 MiB in fp32
_BLOCK = 64  # queries per block of a window layer


@script(_DOMAIN, default_opset=op)  # type: ignore[untyped-decorator]
def GlobalAttention(q: FLOAT[...], k: FLOAT[...], v: FLOAT[...], bias: FLOAT[...]) -> FLOAT[...]:  # noqa: N802 - the name of an ONNX function
    keys = op.Transpose(k, perm=[0, 1, 3, 2])
    hidden = op.Unsqueeze(bias, op.Constant(value_ints=[1, 2]))
    shape = op.Shape(q)
    leading = op.Slice(shape, [0], [2])
    length = op.Slice(shape, [2], [3])
    scores = op.Mul(op.Mul(op.ReduceProd(leading, keepdims=1), length), length)
    slices = op.Div(op.Add(scores, op.Constant(value_ints=[_SCORES - 1])), op.Constant(value_ints=[_SCORES]))
    if op.Squeeze(slices) <= 1:
        y = op.MatMul(op.Softmax(op.Add(op.MatMul(q, keys), hidden), axis=-1), v)
    else:
        rows = op.Div(op.Sub(op.Add(length, slices), [1]), slices)
        padding_rows = op.Sub(op.Mul(slices, rows), length)
        padded = op.Pad(q, op.Concat([0, 0, 0, 0, 0, 0], padding_rows, [0], axis=0))
        tiles = op.Transpose(op.Reshape(padded, op.Concat(leading, slices, rows, [-1], axis=0)), perm=[2, 0, 1, 3, 4])

        # values that every slice needs are state of the loop: OpenVINO does not support outer values in it
        @graph()
        def attend(all_keys, all_hidden, all_values, queries):  # type: ignore[no-untyped-def]
            weights = op.Softmax(op.Add(op.MatMul(queries, all_keys), all_hidden), axis=-1)
            attended = op.MatMul(weights, all_values)
            return op.Identity(all_keys), op.Identity(all_hidden), op.Identity(all_values), attended

        _, _, _, sliced = op.Scan(keys, hidden, v, tiles, body=attend, num_scan_inputs=1)
        outputs = op.Transpose(sliced, perm=[1, 2, 0, 3, 4])
        flat = op.Reshape(outputs, op.Concat(leading, op.Mul(slices, rows), [-1], axis=0))
        y = op.Slice(flat, [0], length, [2])
    return y


@script(_DOMAIN, default_opset=op)  # type: ignore[untyped-decorator]
def WindowAttention(q: FLOAT[...], k: FLOAT[...], v: FLOAT[...], bias: FLOAT[...], window: int) -> FLOAT[...]:  # noqa: N802
    shape = op.Shape(q)
    leading = op.Slice(shape, [0], [2])
    length = op.Slice(shape, [2], [3])
    w = op.Reshape(op.Constant(value_int=window), [1])
    hidden = op.CastLike(HIDDEN, q)
    visible = op.CastLike(0.0, q)
    zero = op.Constant(value_int=0)
    one = op.Constant(value_int=1)
    if op.Squeeze(length) <= op.Squeeze(op.Mul(w, [4])):
        index = op.Range(zero, op.Squeeze(length), one)
        far = op.Greater(op.Abs(op.Sub(op.Unsqueeze(index, [1]), op.Unsqueeze(index, [0]))), w)
        mask = op.Add(op.Where(far, hidden, visible), op.Unsqueeze(bias, op.Constant(value_ints=[1, 2])))
        scores = op.Add(op.MatMul(q, op.Transpose(k, perm=[0, 1, 3, 2])), mask)
        y = op.MatMul(op.Softmax(scores, axis=-1), v)
    else:
        blocks = op.Div(op.Add(length, op.Constant(value_ints=[_BLOCK - 1])), op.Constant(value_ints=[_BLOCK]))
        padding_rows = op.Sub(op.Mul(blocks, op.Constant(value_ints=[_BLOCK])), length)
        padded = op.Pad(q, op.Concat([0, 0, 0, 0, 0, 0], padding_rows, [0], axis=0))
        queries = op.Reshape(padded, op.Concat(leading, blocks, op.Constant(value_ints=[_BLOCK, -1]), axis=0))
        begins = op.Mul(op.Range(zero, op.Squeeze(blocks), one), op.Constant(value_ints=[_BLOCK]))
        width = op.Squeeze(op.Add(op.Mul(w, [2]), op.Constant(value_ints=[_BLOCK])))
        offsets = op.Sub(op.Range(zero, width, one), w)
        at = op.Add(op.Unsqueeze(begins, [1]), op.Unsqueeze(offsets, [0]))  # (blocks, keys)
        rows = op.Max(op.Min(at, op.Sub(length, [1])), [0])
        outside = op.Not(op.Equal(at, rows))
        offset_in_block = op.Range(zero, op.Constant(value_int=_BLOCK), one)
        distances = op.Abs(op.Sub(op.Unsqueeze(offset_in_block, [1]), op.Unsqueeze(offsets, [0])))
        far = op.Greater(distances, w)  # (block, keys)
        masked = op.Or(op.Unsqueeze(far, [0]), op.Unsqueeze(outside, [1]))  # (blocks, block, keys)
        padding = op.Unsqueeze(op.Gather(bias, rows, axis=1), op.Constant(value_ints=[1, 3]))
        mask = op.Add(op.Where(masked, hidden, visible), padding)
        keys = op.Transpose(op.Gather(k, rows, axis=2), perm=[0, 1, 2, 4, 3])
        scores = op.Add(op.MatMul(queries, keys), mask)
        outputs = op.MatMul(op.Softmax(scores, axis=-1), op.Gather(v, rows, axis=2))
        flat = op.Reshape(outputs, op.Concat(leading, op.Mul(blocks, op.Constant(value_ints=[_BLOCK])), [-1], axis=0))
        y = op.Slice(flat, [0], length, [2])
    return y
