"""The forward and backward pass of a microbatch as a CUDA graph: the host starts hundreds of kernels with one call."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from modernbert.stream.staging import Inputs, Shape, StagedBatch

logger = logging.getLogger(__name__)

_EAGER_PASSES = 3  # of a shape before it is recorded: kernels are compiled and tuned in them
_MOST_GRAPHS = 4  # each keeps its memory


class Recorder(Protocol):
    """Records the device work of a call without executing it, to replay it many times."""

    def __call__(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """A function that executes the work and returns its result, always in the same memory.

        Raises:
            RuntimeError: the work cannot be recorded. Nothing was executed, and the state of the device is unchanged.
        """
        ...


class Graphs:
    """Runs a pass over microbatches: it records the pass for each of the first few shapes, and then replays it.

    `run` does a pass: it adds to gradients whose memory must stay the same (see `Gradients`), and returns the loss,
    which is valid until the next pass. If a shape cannot be recorded, this and all later passes of any shape run
    without graphs, and a warning is logged once. `make_recorder` is called again after each `forget`.
    """

    def __init__(
        self, run: Callable[[Inputs], Tensor], make_recorder: Callable[[], Recorder], device: torch.device
    ) -> None:
        self._run = run
        self._make_recorder = make_recorder
        self._device = device
        self._failed = False
        self.forget()

    def forget(self) -> None:
        """Discard all recordings, which are valid only for the constants of one phase."""
        self._passes: Counter[Shape] = Counter()
        self._recorded: dict[Shape, _Recorded] = {}
        self._recorder = self._make_recorder()

    def __call__(self, staged: StagedBatch) -> Tensor:
        if self._is_due(staged.shape):
            self._record(staged.shape)
        if staged.shape in self._recorded:
            return self._recorded[staged.shape](staged)
        self._passes[staged.shape] += 1
        return self._run(staged.to(self._device))

    def _is_due(self, shape: Shape) -> bool:
        return (
            not self._failed
            and shape not in self._recorded
            and len(self._recorded) < _MOST_GRAPHS
            and self._passes[shape] >= _EAGER_PASSES
        )

    def _record(self, shape: Shape) -> None:
        buffer = torch.zeros(shape.words, dtype=torch.int64, device=self._device)
        # New sequences, so that the values that kernels derive from them are recorded too. They have no lengths on the
        # host: a kernel that needs them would replay those of this batch, so it fails here instead.
        inputs = shape.inputs(buffer)
        try:
            replay = self._recorder(lambda: self._run(inputs))
        except RuntimeError as error:
            self._failed = True
            self._recorded.clear()  # their dropout would not follow the new generator
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            logger.warning(
                "Training continues without CUDA graphs, which do not work with this machine or model: %s", reason
            )
            return
        self._recorded[shape] = _Recorded(buffer, inputs, replay)


@dataclass(frozen=True)
class _Recorded:
    """A recorded pass with its input buffer, and views of the buffer that must live as long."""

    buffer: Tensor
    inputs: Inputs
    replay: Callable[[], Tensor]

    def __call__(self, staged: StagedBatch) -> Tensor:
        self.buffer.copy_(staged.buffer, non_blocking=True)
        return self.replay()


class CudaRecorder:
    """CUDA graphs. Those of one recorder share their memory, so they must never run at the same time.

    Dropout is replayed with the seed and the offset that the device's generator has at that moment, and moves it on as
    the recorded call would. After a call that cannot be recorded, the generator is replaced: graphs recorded before
    must not be replayed any more.
    """

    _broken: ClassVar[list[torch.cuda.CUDAGraph]] = []  # kept, as torch's allocator still refers to them

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # the memory of eager passes, which those recorded cannot use
        with torch.cuda.stream(self._stream):
            # Other threads may use the device meanwhile.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                output = work()
            except BaseException:
                self._give_up(graph)
                raise
            graph.capture_end()

        def replay() -> Tensor:
            graph.replay()
            return output

        return replay

    def _give_up(self, graph: torch.cuda.CUDAGraph) -> None:
        try:
            graph.capture_end()
        except RuntimeError:  # what cannot be recorded has ended the recording already
            self._broken.append(graph)
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        generator.graphsafe_set_state(generator.clone_state())  # the old one still counts for the graph


class Gradients:
    """Gradients of all parameters as views of one tensor, with fixed addresses; one kernel clears them."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        assert len({(parameter.device, parameter.dtype) for parameter in trained}) == 1
        sizes = [-(-parameter.numel() // 64) * 64 for parameter in trained]  # multiples of 128 bytes or more
        self._all = torch.zeros(sum(sizes), dtype=trained[0].dtype, device=trained[0].device)
        for parameter, part in zip(trained, self._all.split(sizes), strict=True):
            parameter.grad = part[: parameter.numel()].view_as(parameter)

    def clear(self) -> None:
        self._all.zero_()
