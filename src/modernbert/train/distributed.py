"""Several processes as one run. `torchrun` starts them; one process alone is the case of size 1.

Every process walks the same stream of rows and reads its own part of each batch, so the state of a run is the same on
all of them and a checkpoint knows nothing of their number.
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
PATIENCE = 600.0  # seconds between the starts of the first and the last process


@dataclass(frozen=True)
class Processes:
    """Which process of how many this is, and its device."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process's part: contiguous, and as large as that of any other or one smaller."""
        begin, end = (len(items) * rank // self.size for rank in (self.rank, self.rank + 1))
        return items[begin:end]

    def largest_share(self, count: int) -> int:
        """The most that any process gets of so many items."""
        return math.ceil(count / self.size)

    def sum(self, *values: float) -> list[float]:
        """Each value added up over all processes, in fp64."""
        if self.size == 1:
            return list(values)
        dtype = torch.float64 if self.device.type != "mps" else torch.float32
        together = torch.tensor(values, dtype=dtype, device=self.device)
        distributed.all_reduce(together)
        found: list[float] = together.tolist()
        return found

    def add_up(self, values: Tensor) -> None:
        """Each value becomes its sum over all processes, in place and on its device, for which nobody waits."""
        if self.size > 1:
            distributed.all_reduce(values)

    def gather(self, items: Sequence[Item]) -> list[Item]:
        """The items of all processes, in the order of their ranks, in every process."""
        if self.size == 1:
            return list(items)
        found: list[Sequence[Item]] = [()] * self.size
        distributed.all_gather_object(found, items)
        return [item for part in found for item in part]

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            distributed.barrier()


@contextmanager
def processes(device: str) -> Iterator[Processes]:
    """The processes that `torchrun` started, or this one alone.

    What was built for them must be forgotten when the block ends, so build it in a function of its own: a DDP module
    that outlives the group destroys it while holding Python's lock, for which a thread of the group may be waiting.

    Raises:
        ConfigError: there is no such device.
        ProcessError: another process failed, with its sentence, or ended while this one was waiting for it.
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
    store = PrefixStore(name_of_attempt(store, rank, size), store)
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo", store=store, rank=rank, world_size=size)
    package = logging.getLogger("modernbert")
    level = package.level
    if rank > 0:  # one process speaks for all
        package.setLevel(logging.ERROR)
    try:
        with Peers(store, rank, size).told():
            yield Processes(rank, size, chosen)
    except ModernBertError as error:
        traceback.clear_frames(error.__traceback__)
        raise
    finally:
        package.setLevel(level)
        gc.collect()
    distributed.destroy_process_group()


def name_of_attempt(store: Store, rank: int, size: int) -> str:
    """A name that these processes, and no earlier ones, have in common.

    The agent of torchrun keeps one store while it starts processes again, so that a new process may read the address of
    one that is dead and wait for it for half an hour (pytorch/pytorch#135712); a count of restarts does not help, since
    each agent counts its own. Here every process leaves a mark of its own and believes a set of marks when all
    processes have confirmed that same set: each confirms only a set with its own mark in it.

    Raises:
        ProcessError: the others did not come in time.
    """
    marks = [f"mark/{number}" for number in range(size)]
    store.set(marks[rank], uuid.uuid4().hex)
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if store.check(marks):
            name = hashlib.sha256(b"".join(store.multi_get(marks))).hexdigest()
            store.set(f"{name}/{rank}", "seen")
            if store.check([f"{name}/{number}" for number in range(size)]):
                return name
        time.sleep(0.05)
    raise ProcessError(
        f"Process {rank} of {size} waited {PATIENCE / 60:.0f} minutes for the others to start; look into their output, "
        "then start all of them again."
    )


class Parallelism:
    """A model prepared for several processes, from outside: activation checkpointing, compile, then DDP or FSDP2.

    `objective` is a module around the model whose forward pass gives the loss, `layers` are those of its encoder.
    Without `parallel`, gradients are exchanged by `sum_gradients` alone.
    With FSDP the parameters become DTensors in place: make the optimizer afterwards. `objective` is then to be called
    by the attribute of that name; `evaluated` is the same module without the exchange of gradients.
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
        fully_shard(self.objective, mesh=mesh, mp_policy=policy)  # embedding and decoder are one tensor in one unit
        register_fsdp_forward_method(self.objective, "logits_at")

    @property
    def sharded(self) -> bool:
        """Whether each process holds a part of every tensor: then all must take part when one reads them."""
        return isinstance(self.objective, FSDPModule)

    def gradients_stay(self) -> AbstractContextManager[None]:
        """While entered, backward passes add up gradients in each process; the first one outside exchanges them."""
        if isinstance(self.objective, DistributedDataParallel):
            return self.objective.no_sync()
        if isinstance(self.objective, FSDPModule):
            return _without_exchange(self.objective)
        return nullcontext()

    def sum_gradients(self) -> None:
        """Add up the gradients of all processes, for those that were made without `objective`.

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
        """Give up whole parameters that a pass without a backward one has left behind."""
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


def whole(x: Tensor) -> Tensor:
    """A copy of a tensor on the CPU, put together from its shards. All processes must ask for it."""
    found = x.detach()
    if isinstance(found, DTensor):
        found = found.full_tensor()
    return found.to("cpu", copy=True).contiguous()


def like(parameter: Tensor, value: Tensor) -> Tensor:
    """A whole tensor that every process holds, placed and sharded as a parameter is."""
    value = value.to(parameter.device)
    if isinstance(parameter, DTensor):
        return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
    return value
