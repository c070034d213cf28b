"""Encoder inference beside transformers: same weights, same documents, one process, alternating."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modernbert.bench.works import Timing, Work, alternate, machine, peak_memory, ragged, relative_error
from modernbert.errors import ConfigError
from modernbert.model import Encoder, EncoderConfig
from modernbert.packed import pack, unpack

WORKS = (
    Work("8 x 512", (512,) * 8),
    Work("16 documents, mean 256, longest 512", ragged(16, 256, 512)),
    Work("1 x 8192", (8192,)),
    Work("1 x 128", (128,)),
    Work("1 x 16", (16,)),
)
OURS, THEIRS = "modernbert", "transformers SDPA"


@dataclass(frozen=True)
class Result:
    """One work: both speeds, their ratio, each one's error against fp32, and peak memory where it was measured."""

    work: str
    tokens: int
    timings: tuple[Timing, ...]
    ratio: float
    errors: dict[str, float]
    peak_bytes: dict[str, int] | None


@dataclass(frozen=True)
class Report:
    """All works on one machine."""

    model: str
    dtype: str
    machine: dict[str, str]
    results: tuple[Result, ...]


def bench_inference(preset: str, dtype: str, threads: int, rounds: int, works: tuple[str, ...] = ()) -> Report:
    """Measure random weights of a preset in bf16 or fp32. Outputs are compared before anything is timed.

    Raises:
        ConfigError: an option has no such value, transformers is missing, or the outputs disagree.
    """
    if preset not in ("base", "large") or dtype not in ("bf16", "fp32"):
        raise ConfigError(f"Choose base or large and bf16 or fp32, not {preset!r} and {dtype!r}.")
    chosen = [work for work in WORKS if not works or work.name in works]
    if len(chosen) < len(works) or not chosen:
        raise ConfigError(f"The works are: {', '.join(repr(work.name) for work in WORKS)}.")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    config = EncoderConfig.large() if preset == "large" else EncoderConfig.base()
    ours, theirs = Encoder(config).eval(), None
    theirs = _transformers(config, ours)
    expected = {work.name: _real(_run_ours(ours, work), work) for work in chosen if work.tokens < 8192}
    if dtype == "bf16":
        ours, theirs = ours.bfloat16(), theirs.bfloat16()
    results = tuple(_measure(ours, theirs, work, expected.get(work.name), rounds) for work in chosen)
    return Report(f"ModernBERT-{preset}, random weights", dtype, machine(), results)


@torch.inference_mode()
def _run_ours(model: Encoder, work: Work) -> Tensor:
    ids, mask = work.padded(model.config.vocab_size)
    tokens, sequences = pack(ids, mask)
    return unpack(model(tokens, sequences), sequences)


@torch.inference_mode()
def _run_theirs(model: Any, work: Work) -> Tensor:
    ids, mask = work.padded(model.config.vocab_size)
    all_real = len(set(work.lengths)) == 1
    hidden: Tensor = model(ids, attention_mask=None if all_real else mask).last_hidden_state
    return hidden


def _real(output: Tensor, work: Work) -> Tensor:
    """Only the rows of real tokens: what a padded model computes on padding is no result."""
    mask = torch.arange(max(work.lengths))[None, :] < torch.tensor(work.lengths)[:, None]
    return output[mask]


def _measure(ours: Encoder, theirs: Any, work: Work, expected: Tensor | None, rounds: int) -> Result:
    outputs = {OURS: _real(_run_ours(ours, work), work), THEIRS: _real(_run_theirs(theirs, work), work)}
    errors = {}
    if expected is not None:
        errors = {name: relative_error(output, expected) for name, output in outputs.items()}
    if relative_error(outputs[OURS], outputs[THEIRS]) > 0.05:
        raise ConfigError(f"The outputs disagree on {work.name}; nothing is timed.")
    runs = {OURS: lambda: _run_ours(ours, work), THEIRS: lambda: _run_theirs(theirs, work)}
    peaks = {name: peak_memory(run) for name, run in runs.items()} if work.tokens >= 8192 else None
    timings = alternate(runs, work.tokens, rounds)
    ratio = timings[0].tokens_per_second / timings[1].tokens_per_second
    return Result(work.name, work.tokens, tuple(timings), ratio, errors, peaks)


def _transformers(config: EncoderConfig, encoder: Encoder) -> Any:
    try:
        from transformers import ModernBertConfig, ModernBertModel
    except ImportError:
        raise ConfigError("The benchmark needs transformers: pip install 'modernbert[bench]'.") from None
    values = {key: value for key, value in config.to_hf().items() if key not in ("architectures", "model_type")}
    model = ModernBertModel(ModernBertConfig(**values, attn_implementation="sdpa")).eval()
    model.load_state_dict(encoder.state_dict(), strict=False)
    return model
