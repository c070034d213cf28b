"""The speed of sentence-transformers before and after `accelerate`, on the user's own model and texts."""

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from modernbert.bench.remaining import log_remaining
from modernbert.bench.roofline import MATRICES, MATRIX_FLOPS, encoder_flops, matrix_products
from modernbert.bench.timing import alternate, check_rounds, machine, use_threads
from modernbert.errors import ConfigError, DataError
from modernbert.integrations.acceleration import accelerate, acceleration_of
from modernbert.integrations.backbone import Precision, encoder_config
from modernbert.model.folder import find_folder, read_architecture
from modernbert.text.documents import read_texts

logger = logging.getLogger(__name__)

Kind = Literal["embed", "rerank", "sparse"]
BASELINE, OURS = "sentence-transformers", "modernbert"
_CLASSES = {"embed": "SentenceTransformer", "rerank": "CrossEncoder", "sparse": "SparseEncoder"}
_QUERY_WORDS = 8  # the first words of a text are the query for the next text


@dataclass(frozen=True)
class Run:
    """One way to compute the outputs. `ratio` is the median over the rounds of the ratio to the baseline.

    `agreement` is the lowest cosine between an output and the baseline's. For scores it is 1 minus the largest
    difference divided by the range of the baseline's scores.
    """

    name: str
    engine: str
    texts_per_second: float
    tokens_per_second: float
    ratio: float
    slowest_ratio: float
    fastest_ratio: float
    agreement: float
    of_roofline: float


@dataclass(frozen=True)
class Accelerated:
    """The report. All runs take turns, so that the ratios of a round have the same load of the machine."""

    model: str
    kind: Kind
    texts: int
    tokens: int
    longest: int
    batch_size: int
    threads: int
    rounds: int
    processor_time: bool
    gflops: float  # of plain fp32 matrix products, in the same rounds
    runs: tuple[Run, ...]
    machine: dict[str, str]


def bench_accelerate(
    model: str,
    texts: Path,
    *,
    limit: int = 500,
    batch_size: int = 32,
    precisions: Sequence[Precision] = ("auto", "int8"),
    rounds: int = 3,
    threads: int | None = None,
    tolerance: float | None = None,
    processor_time: bool = False,
) -> Accelerated:
    """Encode texts with sentence-transformers, and in each precision with the accelerated model and this package.

    A reranker gets pairs of the first words of one text and the next text. `processor_time` measures the CPU time of
    this process instead of wall-clock time: use it with one thread if other programs run on the machine.

    Raises:
        ConfigError: sentence-transformers is missing, or the model cannot be accelerated.
        DataError: there are no texts.
        BackendError: an accelerated model differs by more than the tolerance.
    """
    check_rounds(rounds)
    if batch_size < 1 or limit < 2:
        raise ConfigError("A batch needs at least one text, and the benchmark at least two texts.")
    if find_spec("sentence_transformers") is None:
        raise ConfigError("The benchmark needs sentence-transformers: pip install 'modernbert[peers]'.")
    used = use_threads(threads)
    folder = find_folder(model)
    kind = _kind(folder)
    selected = list(islice((text for text in _read(texts) if text.strip()), limit))
    if len(selected) < 2:
        raise DataError(f"{texts} holds {len(selected)} texts; give a file with at least two.")
    inputs: list[Any] = selected
    if kind == "rerank":
        inputs = [
            [" ".join(first.split()[:_QUERY_WORDS]), second]
            for first, second in zip(selected, [*selected[1:], selected[0]], strict=True)
        ]
    original = _load(kind, folder)
    calls = {BASELINE: _call(kind, original, inputs, batch_size)}
    engines = {BASELINE: "transformers"}
    for precision in dict.fromkeys(precisions):
        faster = accelerate(_load(kind, folder), precision=precision, tolerance=tolerance)
        acceleration = acceleration_of(faster)
        assert acceleration is not None
        name = f"accelerated, {acceleration.precision}"
        calls[name], engines[name] = _call(kind, faster, inputs, batch_size), acceleration.engine
        if kind != "sparse":
            name = f"{OURS} {'Embedder' if kind == 'embed' else 'Reranker'}, {acceleration.precision}"
            calls[name], engines[name] = _own_engine(kind, folder, inputs, acceleration.precision), acceleration.engine
    lengths = _lengths(original, inputs)
    logger.info("%s %s, %s tokens", f"{len(inputs):,}", "pairs" if kind == "rerank" else "texts", f"{sum(lengths):,}")
    began = time.perf_counter()
    outputs = {name: call() for name, call in calls.items()}  # the warm-up round
    log_remaining(rounds * (time.perf_counter() - began))
    products = matrix_products(torch.float32)
    products()
    seconds = alternate(
        calls | {MATRICES: products},
        rounds,
        folder.name,
        clock=time.process_time if processor_time else time.perf_counter,
    )
    flops = encoder_flops(encoder_config(_inner(original)), lengths)
    gflops = MATRIX_FLOPS / median(seconds[MATRICES]) / 1e9
    runs = []
    for name in calls:
        ratios = [base / own for base, own in zip(seconds[BASELINE], seconds[name], strict=True)]
        middle = median(seconds[name])
        runs.append(
            Run(
                name, engines[name], len(inputs) / middle, sum(lengths) / middle, median(ratios), min(ratios),
                max(ratios), _agreement(kind, outputs[name], outputs[BASELINE]), flops / middle / 1e9 / gflops,
            )
        )  # fmt: skip
    packages = ("transformers", "sentence-transformers")
    return Accelerated(
        folder.resolve().name, kind, len(inputs), sum(lengths), max(lengths), batch_size, used, rounds,
        processor_time, gflops, tuple(runs), machine(packages),
    )  # fmt: skip


def _kind(folder: Path) -> Kind:
    if (folder / "modules.json").is_file():
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        if any("SpladePooling" in str(module.get("type")) for module in modules):
            return "sparse"
    return "rerank" if read_architecture(folder) == "ModernBertForSequenceClassification" else "embed"


def _read(path: Path) -> Sequence[str]:
    """The lines of a .txt file, or the texts that `read_texts` reads from other files."""
    if path.suffix == ".txt":
        try:
            return path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path} cannot be read as text: {error}.") from None
    return list(read_texts([str(path)]))


def _load(kind: Kind, folder: Path) -> Any:
    import sentence_transformers

    loggers = [logging.getLogger(name) for name in ("sentence_transformers", "transformers")]
    levels = [log.level for log in loggers]
    for log in loggers:
        log.setLevel(logging.ERROR)  # no warnings about mean pooling and the unused head, which are intended
    try:
        model = getattr(sentence_transformers, _CLASSES[kind])(
            str(folder), device="cpu", model_kwargs={"dtype": torch.float32}
        )
    finally:
        for log, level in zip(loggers, levels, strict=True):
            log.setLevel(level)
    max_length = _inner(model).config.max_position_embeddings
    name = "max_seq_length" if hasattr(type(model), "max_seq_length") else "max_length"  # CrossEncoder before 6
    setattr(model, name, min(getattr(model, name) or max_length, max_length))
    return model


def _inner(model: Any) -> Any:
    inner = next(module for module in model.modules() if hasattr(module, "get_input_embeddings"))
    return getattr(inner, "model", inner)


def _call(kind: Kind, model: Any, inputs: Sequence[Any], batch_size: int) -> Callable[[], npt.NDArray[np.float32]]:
    options = {"batch_size": batch_size, "show_progress_bar": False}
    if kind == "rerank":
        return lambda: model.predict(inputs, **options)
    if kind == "sparse":
        return lambda: model.encode(inputs, **options).to_dense().numpy()
    return lambda: model.encode(inputs, **options)


def _own_engine(
    kind: Kind, folder: Path, inputs: Sequence[Any], precision: Precision
) -> Callable[[], npt.NDArray[np.float32]]:
    from modernbert.tasks.embed import Embedder
    from modernbert.tasks.rerank import Reranker

    options: dict[str, Any] = {
        "device": "cpu", "int8": precision == "int8",
        "dtype": torch.bfloat16 if precision == "bfloat16" else torch.float32,
    }  # fmt: skip
    if kind == "rerank":
        reranker = Reranker.from_pretrained(folder, **options)
        pairs = [(first, second) for first, second in inputs]
        return lambda: np.asarray(reranker.predict(pairs))
    embedder = Embedder.from_pretrained(folder, **options)
    return lambda: np.asarray(embedder.encode(list(inputs)))


def _lengths(model: Any, inputs: Sequence[Any]) -> list[int]:
    """The number of tokens of each input, after truncation."""
    limit = getattr(model, "max_seq_length", None) or model.max_length
    selected = model.tokenizer(list(inputs), truncation=True, max_length=limit)["input_ids"]
    return [len(ids) for ids in selected]


def _agreement(kind: Kind, selected: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float:
    if kind == "rerank":
        span = float(np.ptp(expected)) or 1.0
        return 1 - float(np.abs(selected - expected).max()) / span
    norms = np.linalg.norm(selected, axis=1) * np.linalg.norm(expected, axis=1)
    return float(((selected * expected).sum(1) / norms).min())
