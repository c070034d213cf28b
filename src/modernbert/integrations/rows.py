"""The packed tokens of a padded batch, or the reason why it has to stay padded."""

from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

# Whether the library uses the outputs of padding slots: known while it encodes texts, otherwise None.
padding_is_read: ContextVar[bool | None] = ContextVar("modernbert_padding_is_read", default=None)


@dataclass(frozen=True)
class Rows:
    """The real tokens of a padded batch, row after row."""

    tokens: Tensor  # (tokens,) ids
    lengths: list[int]  # of each row
    slots: Tensor | None  # (tokens,) positions in the flattened batch; None without padding
    shape: tuple[int, int]
    left_padded: bool  # some row begins with padding

    def padded(self, values: Tensor, fill: float = 0.0) -> Tensor:
        """(tokens, ...) -> (rows, length, ...), with `fill` on padding."""
        if self.slots is None:
            return values.unflatten(0, self.shape)
        out = values.new_full((self.shape[0] * self.shape[1], *values.shape[1:]), fill)
        return out.index_copy_(0, self.slots, values).unflatten(0, self.shape)


def split(ids: object, mask: object, pad_id: int | None) -> Rows | str:
    """The tokens of a batch, or the reason why the original code has to compute it.

    transformers counts positions by slots and returns values for padding too. So it has to compute masks with holes,
    rows without a token, and padding whose outputs are used (ColBERT's query expansion). `padding_is_read` shows
    whether they are used; if it is None, they are used if masked ids differ from `pad_id`.
    """
    if not isinstance(ids, Tensor) or ids.dim() != 2 or ids.is_floating_point() or not ids.numel():
        return "input_ids are not (rows, length)"
    shape = (ids.shape[0], ids.shape[1])
    if mask is None:
        return Rows(ids.flatten(), [shape[1]] * shape[0], None, shape, left_padded=False)
    if not isinstance(mask, Tensor) or mask.shape != ids.shape or mask.device != ids.device:
        return "the attention mask is not (rows, length)"
    used = padding_is_read.get()
    if used:
        return "padding is used as query expansion"
    real = mask.to(torch.bool)
    counts = real.sum(1)
    places = torch.arange(shape[1], device=ids.device)
    first = torch.where(real, places, shape[1]).amin(1)
    last = torch.where(real, places, -1).amax(1)
    expansion = (~real & (ids != pad_id)).any() if used is None and pad_id is not None else False
    flags = [
        (real.to(mask.dtype) != mask).any(),
        (counts == 0).any(),
        (last - first + 1 != counts).any(),
        torch.as_tensor(expansion, device=ids.device),
        (first > 0).any(),
    ]
    invalid, empty, holes, expanded, left = torch.stack(flags).tolist()
    if invalid:
        return "the attention mask holds other values than 0 and 1"
    if empty:
        return "a row has no token"
    if holes:
        return "the attention mask has holes"
    if expanded:
        return "some masked ids are not padding, as in query expansion"
    lengths = counts.tolist()
    if sum(lengths) == ids.numel():
        return Rows(ids.flatten(), lengths, None, shape, left_padded=False)
    slots = real.flatten().nonzero().squeeze(1)
    return Rows(ids.flatten()[slots], lengths, slots, shape, bool(left))
