"""Forward and backward of a microbatch as a CUDA graph: some hundred kernels that the host starts with one call."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from modernbert.data.staging import Inputs, Shape, Staged

logger = logging.getLogger(__name__)

_EAGER_PASSES = 3  # of a shape before it is recorded: kernels are compiled and tuned in them
_MOST_GRAPHS = 4  # each keeps its memory


class Recorder(Protocol):
    """Records the work of a call on the device, without doing it, so that it can be done again and again."""

    def __call__(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """A function that does the work and gives its result, always in the same memory.

        Raises:
            RuntimeError: the work cannot be recorded. Nothing has been done, and the device is as it was.
        """
        ...


class Graphs:
    """A pass over microbatches that records each of the first few shapes and replays it from then on.

    `run` does a pass: it adds to gradients whose memory must stay the same (see `Gradients`), and returns the loss,
    which is valid until the next pass. If a shape cannot be recorded, this one and all later passes are run as they
    are, and the log says so once.
    """

    def __init__(self, run: Callable[[Inputs], Tensor], recorder: Recorder, device: torch.device) -> None:
        self._run = run
        self._recorder = recorder
        self._device = device
        self._passes: Counter[Shape] = Counter()
        self._recorded: dict[Shape, _Recorded] = {}
        self._failed = False

    def __call__(self, staged: Staged) -> Tensor:
        if self._is_due(staged.shape):
            self._record(staged.shape)
        if staged.shape in self._recorded:
            return self._recorded[staged.shape](staged)
        self._passes[staged.shape] += 1
        return self._run(staged.on(self._device))

    def _is_due(self, shape: Shape) -> bool:
        return (
            not self._failed
            and shape not in self._recorded
            and len(self._recorded) < _MOST_GRAPHS
            and self._passes[shape] >= _EAGER_PASSES
        )

    def _record(self, shape: Shape) -> None:
        buffer = torch.zeros(shape.words, dtype=torch.int64, device=self._device)
        # Sequences that no kernel has seen, so that what kernels derive from them is recorded too; and without lengths
        # on the host, as a kernel that needs those would do the same for every batch: it fails here instead.
        inputs = shape.inputs(buffer)
        try:
            replay = self._recorder(lambda: self._run(inputs))
        except RuntimeError as error:
            self._failed = True
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            logger.warning("Training goes on without CUDA graphs, which this machine or model refuses: %s", reason)
            return
        self._recorded[shape] = _Recorded(buffer, inputs, replay)


@dataclass(frozen=True)
class _Recorded:
    """A recorded pass, the buffer that it reads, and the views of it that must live as long."""

    buffer: Tensor
    inputs: Inputs
    replay: Callable[[], Tensor]

    def __call__(self, staged: Staged) -> Tensor:
        self.buffer.copy_(staged.buffer, non_blocking=True)
        return self.replay()


class CudaRecorder:
    """`torch.cuda.graph`. The graphs of one recorder share their memory, so they must never run at the same time.

    Dropout is replayed with the seed and the offset that the device's generator has at that moment, and moves it on as
    the recorded call would.
    """

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        stream, graph = torch.cuda.current_stream(), torch.cuda.CUDAGraph()
        try:
            # Other threads may use the device meanwhile, as the one that writes checkpoints does.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                output = work()
        except RuntimeError:
            # A capture that fails leaves its stream and a generator that still counts for it.
            torch.cuda.set_stream(stream)
            generator = torch.cuda.default_generators[torch.cuda.current_device()]
            generator.graphsafe_set_state(generator.clone_state())
            raise
        self._pool = graph.pool()

        def replay() -> Tensor:
            graph.replay()
            return output

        return replay


class Gradients:
    """Gradients of all parameters as parts of one tensor: they keep their places, and one kernel clears them."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        found = [parameter for parameter in parameters if parameter.requires_grad]
        assert len({(parameter.device, parameter.dtype) for parameter in found}) == 1
        sizes = [-(-parameter.numel() // 64) * 64 for parameter in found]  # places at multiples of 128 bytes or more
        self._all = torch.zeros(sum(sizes), dtype=found[0].dtype, device=found[0].device)
        for parameter, part in zip(found, self._all.split(sizes), strict=True):
            parameter.grad = part[: parameter.numel()].view_as(parameter)

    def clear(self) -> None:
        self._all.zero_()
