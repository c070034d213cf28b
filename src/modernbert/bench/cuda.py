"""Shared by the benchmarks on a CUDA device: the device, timing, peak memory, its peak speeds, the report."""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modernbert.bench.models import describe, model_config
from modernbert.bench.profiling import Profile
from modernbert.bench.report import Report
from modernbert.bench.timing import machine
from modernbert.errors import ConfigError
from modernbert.model import EncoderConfig
from modernbert.runtime import select_device

SQUARE = 8192  # rows, inner and columns of the product that measures the GPU's peak
_COPIED_BYTES = 1 << 30
SHORT_TOKENS = 2048  # with fewer rows, products are repeated within a round


@dataclass(frozen=True)
class Target:
    """The device to measure. `dry` runs the same code on the CPU in tiny sizes, to test it."""

    device: torch.device
    dry: bool = False

    def wait(self) -> None:
        """Wait until the device has finished all work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @property
    def name(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU, dry run"

    @property
    def memory_bytes(self) -> int | None:
        if self.device.type != "cuda":
            return None
        return int(torch.cuda.get_device_properties(self.device).total_memory)


def select_target(name: str) -> Target | None:
    """The CUDA device to measure, or None for the CPU.

    Names are `cpu`, `cuda` (or `cuda:1`), `auto` (CUDA if there is a device) and `dry` (see `Target`).

    Raises:
        ConfigError: the device does not exist, or no benchmark supports it.
    """
    if name == "dry":
        return Target(torch.device("cpu"), dry=True)
    if name == "cpu":
        return None
    if name != "auto" and not name.startswith("cuda"):
        raise ConfigError(f"There is no benchmark for the device {name!r}; choose cpu, cuda or auto.")
    device = select_device(name)
    if device.type != "cuda":
        return None
    if device.index is not None:
        torch.cuda.set_device(device)  # Triton launches on the current device
    return Target(device)


def required_target(name: str) -> Target:
    """`select_target` for a benchmark that needs a CUDA device.

    Raises:
        ConfigError: the device does not exist, or is the CPU.
    """
    target = select_target(name)
    if target is None:
        raise ConfigError(
            "This benchmark needs a CUDA device, but this machine has none or --device is cpu; run it on a GPU with "
            "--device cuda."
        )
    return target


@dataclass(frozen=True)
class Product:
    """The speed of a matrix product, (rows x inner) times (inner x columns), in bf16."""

    rows: int
    inner: int
    columns: int
    flops_per_second: float


@dataclass(frozen=True)
class Ceilings:
    """The peak speeds of the GPU: bf16 matrix products, and copies (bytes read and written). Medians."""

    square: Product
    shapes: tuple[Product, ...]  # those of the model's linear layers on a batch
    copy_bytes_per_second: float


@dataclass(frozen=True)
class CudaReport(Report):
    """A report of `bench inference` or `bench training` on a CUDA device.

    `matrix_flops_per_second` of a result is the speed of the model's linear layers alone on the tokens of the workload,
    and `roofline_fraction` the time at that speed divided by the measured time.
    """

    device: str
    device_bytes: int | None
    ceilings: Ceilings | None
    profiles: dict[str, Profile]  # by workload; empty without --profile


@dataclass(frozen=True)
class CeilingsReport:
    """The report of `bench ceilings`."""

    model: str
    tokens: int
    machine: dict[str, str]
    device: str
    device_bytes: int | None
    ceilings: Ceilings
    benchmark: str = "ceilings"


def cuda_machine(target: Target, packages: Sequence[str] = ()) -> dict[str, str]:
    """The machine, its GPU, and the versions of the software."""
    found = machine(packages) | {"device": target.name}
    if target.device.type == "cuda":
        properties = torch.cuda.get_device_properties(target.device)
        found["device memory"] = f"{properties.total_memory / 2**30:.0f} GiB"
        found["CUDA"] = str(torch.version.cuda)
        found["compute capability"] = f"{properties.major}.{properties.minor}"
    return found


def seconds_of(run: Callable[[], object], target: Target, repeats: int = 10, warm_up: int = 3) -> list[float]:
    """Seconds of each of `repeats` calls after warm-up calls, measured by CUDA events.

    Use it for calls that keep the device busy: time in which the device waits for the host is not included.
    """
    for _ in range(warm_up):
        run()
    target.wait()
    if target.device.type != "cuda":
        found = []
        for _ in range(repeats):
            began = time.perf_counter()
            run()
            found.append(time.perf_counter() - began)
        return found
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    for begin, end in events:
        begin.record()
        run()
        end.record()
    target.wait()
    return [begin.elapsed_time(end) / 1e3 for begin, end in events]


def device_peak(run: Callable[[], object], target: Target) -> int | None:
    """The most bytes that a call adds to the memory that torch has allocated on the device; None on a CPU."""
    if target.device.type != "cuda":
        run()
        return None
    gc.collect()
    target.wait()
    torch.cuda.reset_peak_memory_stats(target.device)
    before = torch.cuda.memory_allocated(target.device)
    run()
    target.wait()
    return torch.cuda.max_memory_allocated(target.device) - before


def free_memory(target: Target) -> None:
    """Return unused memory to the device, so that it is available for the next engine."""
    gc.collect()
    if target.device.type == "cuda":
        torch.cuda.empty_cache()


def linear_shapes(config: EncoderConfig) -> tuple[tuple[int, int], ...]:
    """(inner, columns) of the four linear layers of an encoder layer."""
    hidden, inner = config.hidden_size, config.intermediate_size
    return ((hidden, 3 * hidden), (hidden, hidden), (hidden, 2 * inner), (inner, hidden))


def model_products(
    config: EncoderConfig, tokens: int, dtype: torch.dtype, target: Target
) -> tuple[Callable[[], None], float]:
    """A function that computes the products of an encoder's linear layers alone, and its operations per call.

    Each layer has its own weights, as in the model: with few tokens, reading them takes time. On CUDA it is one graph.
    """
    passes = max(1, SHORT_TOKENS // tokens)
    device = target.device

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device, dtype=dtype)

    shapes = linear_shapes(config)
    inputs = {inner: random(tokens, inner) for inner, _ in shapes}
    outputs = {columns: torch.empty(tokens, columns, device=device, dtype=dtype) for _, columns in shapes}
    weights = [[random(columns, inner) for inner, columns in shapes] for _ in range(config.num_hidden_layers)]

    def products() -> None:
        for _ in range(passes):
            for layer in weights:
                for weight in layer:
                    columns, inner = weight.shape
                    torch.mm(inputs[inner], weight.T, out=outputs[columns])

    flops = 2.0 * passes * tokens * sum(weight.numel() for layer in weights for weight in layer)
    with torch.inference_mode():
        products()
        target.wait()
        if device.type != "cuda":
            return products, flops
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            products()
    return _Replay(graph, (inputs, outputs, weights)), flops


class _Replay:
    """A CUDA graph that keeps the tensors that it uses alive."""

    def __init__(self, graph: torch.cuda.CUDAGraph, tensors: object) -> None:
        self._graph = graph
        self._tensors = tensors

    def __call__(self) -> None:
        self._graph.replay()


def measure_ceilings(config: EncoderConfig, tokens: int, target: Target) -> Ceilings:
    """The speed of bf16 products (square, and in the shapes of the model for `tokens` tokens) and of copies.

    The product of the decoder has a quarter of the tokens, about the number of masked tokens.
    """
    size = 256 if target.dry else SQUARE
    decoded = (max(1, tokens // 4), config.hidden_size, config.vocab_size)
    shapes = [*((tokens, *shape) for shape in linear_shapes(config)), decoded]
    square = _product(size, size, size, target)
    products = tuple(_product(*shape, target) for shape in shapes)
    count = (1 << 20 if target.dry else _COPIED_BYTES) // 2
    source = torch.zeros(count, dtype=torch.bfloat16, device=target.device)
    copy = torch.empty_like(source)
    seconds = statistics.median(seconds_of(lambda: copy.copy_(source), target))
    return Ceilings(square, products, 2 * source.nbytes / seconds)


def _product(rows: int, inner: int, columns: int, target: Target) -> Product:
    left = torch.randn(rows, inner, device=target.device, dtype=torch.bfloat16)
    right = torch.randn(columns, inner, device=target.device, dtype=torch.bfloat16)
    out = torch.empty(rows, columns, device=target.device, dtype=torch.bfloat16)
    with torch.no_grad():
        seconds = statistics.median(seconds_of(lambda: torch.mm(left, right.T, out=out), target))
    return Product(rows, inner, columns, 2.0 * rows * inner * columns / seconds)


def bench_ceilings(model: str, tokens: int, target: Target) -> CeilingsReport:
    """The peak speeds of a device in the shapes of a preset or of a model folder.

    Raises:
        ConfigError: the model does not exist, or `tokens` is below 1.
    """
    if tokens < 1:
        raise ConfigError("A batch needs at least one token; give --tokens of 1 or more.")
    config = model_config(model)
    found = measure_ceilings(config, tokens, target)
    return CeilingsReport(
        describe(model, config), tokens, cuda_machine(target), target.name, target.memory_bytes, found
    )
