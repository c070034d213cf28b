"""The mapping from programs to tiles of sequences, computed on the device from the sequence boundaries."""

from weakref import WeakKeyDictionary

import torch
from jaxtyping import Int
from torch import Tensor

from modernbert.packed import Sequences

_known: WeakKeyDictionary[Sequences, dict[int, Tensor]] = WeakKeyDictionary()


def tiles(sequences: Sequences, block: int) -> Int[Tensor, "programs 3"]:
    """The first row of each program's tile, and the begin and end of its sequence (int32).

    A sequence of n tokens has ceil(n / block) tiles, so `tokens // block + sequences` rows are enough for any lengths,
    and the size of the table is known without waiting for the device. Unused rows are 0, 0, 0, an empty sequence.
    """
    if torch.compiler.is_compiling():
        return _tiles(sequences.cu_seqlens, sequences.num_tokens, block)
    known = _known.setdefault(sequences, {})
    if block not in known:
        known[block] = _tiles(sequences.cu_seqlens, sequences.num_tokens, block)
    return known[block]


def _tiles(cu_seqlens: Tensor, tokens: int, block: int) -> Tensor:
    begins, ends = cu_seqlens[:-1], cu_seqlens[1:]
    last = ((ends - begins + block - 1) // block).cumsum(0)  # the number of tiles up to each sequence
    number = torch.arange(tokens // block + len(begins), device=cu_seqlens.device)
    owner = torch.searchsorted(last, number, right=True)
    used = owner < len(begins)
    owner = owner.clamp(max=len(begins) - 1)
    begin, end = begins[owner], ends[owner]
    before = last[owner] - (end - begin + block - 1) // block
    first = begin + (number - before) * block
    return (torch.stack((first, begin, end), 1) * used[:, None]).to(torch.int32)
