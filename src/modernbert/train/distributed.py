"""Several processes as one run, started by `torchrun`; a single process is the case of size 1.

Every process iterates over the same stream of packed sequences and reads its own part of each batch. So the state of a
run is the same in all of them, and a checkpoint does not depend on their number.
"""

import functools
import gc
import hashlib
import logging
import math
import os
import time
import traceback
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from modernbert.errors import ConfigError, ModernBertError, ProcessError
from modernbert.runtime import Precision, select_device
from modernbert.train.peers import Peers

Parallel = Literal["ddp", "fsdp"]
Item = TypeVar("Item")
START_TIMEOUT = 600.0  # seconds between the starts of the first and the last process


@dataclass(frozen=True)
class Processes:
    """The rank of this process, the number of processes, and its device."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and logs."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process's part: contiguous; the sizes of all parts differ by at most 1."""
        begin, end = (len(items) * rank // self.size for rank in (self.rank, self.rank + 1))
        return items[begin:end]

    def largest_share(self, count: int) -> int:
        """The size of the largest part of `count` items."""
        return math.ceil(count / self.size)

    def sum(self, *values: float) -> list[float]:
        """The sum of each value over all processes, in fp64."""
        if self.size == 1:
            return list(values)
        dtype = torch.float64 if self.device.type != "mps" else torch.float32
        tensor = torch.tensor(values, dtype=dtype, device=self.device)
        distributed.all_reduce(tensor)
        sums: list[float] = tensor.tolist()
        return sums

    def add_up(self, values: Tensor) -> None:
        """Replace each value by its sum over all processes, in place, without waiting for the device."""
        if self.size > 1:
            distributed.all_reduce(values)

    def gather(self, items: Sequence[Item]) -> list[Item]:
        """The items of all processes, in the order of their ranks, in every process."""
        if self.size == 1:
            return list(items)
        gathered: list[Sequence[Item]] = [()] * self.size
        distributed.all_gather_object(gathered, items)
        return [item for part in gathered for item in part]

    def wait(self) -> None:
        """Wait until all processes have reached this point."""
        if self.size > 1:
            distributed.barrier()


@contextmanager
def processes(device: str) -> Iterator[Processes]:
    """The processes that `torchrun` started, or only this one.

    Build the objects of a run in a function, so that they are deleted before the block ends: a DDP module that outlives
    the process group destroys it while holding the GIL, for which a thread of the group may be waiting.

    Raises:
        ConfigError: the device does not exist.
        ProcessError: another process failed (with its message), or ended while this one was waiting for it.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes(0, 1, select_device(device))
        return
    chosen = select_device(device)
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(chosen)
    elif chosen.type != "cpu":
        raise ConfigError(f"Several processes train on cuda or cpu, not on {chosen.type}; start one process.")
    store, rank, size = next(rendezvous("env://"))
    store = PrefixStore(attempt_name(store, rank, size), store)
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo", store=store, rank=rank, world_size=size)
    package = logging.getLogger("modernbert")
    level = package.level
    if rank > 0:  # only one process logs
        package.setLevel(logging.ERROR)
    try:
        with Peers(store, rank, size).reporting():
            yield Processes(rank, size, chosen)
    except ModernBertError as error:
        traceback.clear_frames(error.__traceback__)
        raise
    finally:
        package.setLevel(level)
        gc.collect()
    distributed.destroy_process_group()


def attempt_name(store: Store, rank: int, size: int) -> str:
    """A name that is common to these processes and different from that of earlier ones.

    The agent of torchrun keeps one store when it restarts processes, so that a new process may read the address of a
    dead one and wait for it for half an hour (pytorch/pytorch#135712). A count of restarts does not help, since each
    agent counts its own. Here every process writes a random mark, and accepts a set of marks when all processes have
    confirmed the same set. Each process confirms only sets that contain its own mark.

    Raises:
        ProcessError: the others did not start in time.
    """
    marks = [f"mark/{number}" for number in range(size)]
    store.set(marks[rank], uuid.uuid4().hex)
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if store.check(marks):
            name = hashlib.sha256(b"".join(store.multi_get(marks))).hexdigest()
            store.set(f"{name}/{rank}", "seen")
            if store.check([f"{name}/{number}" for number in range(size)]):
                return name
        time.sleep(0.05)
    raise ProcessError(
        f"Process {rank} of {size} waited {START_TIMEOUT / 60:.0f} minutes for the others to start; read their output, "
        "then start all of them again."
    )


class Parallelism:
    """A model prepared for several processes: activation checkpointing, compile, then DDP or FSDP2.

    `objective` is a module around the model whose forward pass gives the loss, `layers` are those of its encoder.
    Without `parallel`, only `sum_gradients` exchanges gradients.
    FSDP converts the parameters to DTensors in place: create the optimizer afterwards, and call the attribute
    `objective`. `evaluated` is the same module without the exchange of gradients.
    """

    def __init__(
        self,
        objective: nn.Module,
        layers: Sequence[nn.Module],
        processes: Processes,
        *,
        parallel: Parallel | None,
        activation_checkpointing: bool,
        compile: bool,
        precision: Precision,
    ) -> None:
        if activation_checkpointing:
            for layer in layers:
                layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)
        if compile:
            for layer in layers:
                layer.compile(dynamic=True)
        self.evaluated = objective
        self.objective = objective
        self._processes = processes
        if processes.size == 1 or parallel is None:
            return
        if parallel == "ddp":
            self.objective = DistributedDataParallel(self.objective, gradient_as_bucket_view=True)
            return
        mesh = init_device_mesh(processes.device.type, (processes.size,))
        half = precision == "bf16" and processes.device.type == "cuda"
        policy = MixedPrecisionPolicy(torch.bfloat16 if half else None, reduce_dtype=torch.float32 if half else None)
        for layer in layers:
            fully_shard(layer, mesh=mesh, mp_policy=policy)
        fully_shard(
            self.objective, mesh=mesh, mp_policy=policy
        )  # embedding and decoder share a tensor, so they must be in one unit
        register_fsdp_forward_method(self.objective, "logits_at")

    @property
    def sharded(self) -> bool:
        """Whether each process holds a part of every tensor, so that all must take part in reading them."""
        return isinstance(self.objective, FSDPModule)

    def local_gradients(self) -> AbstractContextManager[None]:
        """In the block, backward passes accumulate gradients in each process; the next one outside exchanges them."""
        if isinstance(self.objective, DistributedDataParallel):
            return self.objective.no_sync()
        if isinstance(self.objective, FSDPModule):
            return _without_exchange(self.objective)
        return nullcontext()

    def sum_gradients(self) -> None:
        """Sum the gradients over all processes, if they were computed without `objective`.

        A parameter without a gradient here counts as zero.
        """
        if self._processes.size == 1:
            return
        assert not self.sharded
        trained = [parameter for parameter in self.evaluated.parameters() if parameter.requires_grad]
        for parameter in trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        pending = [distributed.all_reduce(parameter.grad, async_op=True) for parameter in trained]
        for one in pending:
            one.wait()

    def reshard(self) -> None:
        """Free the full parameters that remain after a forward pass without a backward pass."""
        for module in self.objective.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


@contextmanager
def _without_exchange(module: FSDPModule) -> Iterator[None]:
    module.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        module.set_requires_gradient_sync(True)


def gather_to_cpu(x: Tensor) -> Tensor:
    """A copy of the full tensor on the CPU, gathered from its shards. All processes must call this."""
    full = x.detach()
    if isinstance(full, DTensor):
        full = full.full_tensor()
    return full.to("cpu", copy=True).contiguous()


def distribute_like(parameter: Tensor, value: Tensor) -> Tensor:
    """Place and shard a full tensor, which every process holds, like a parameter."""
    value = value.to(parameter.device)
    if isinstance(parameter, DTensor):
        return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
    return value
