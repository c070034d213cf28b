"""A masked-LM training step beside transformers: same weights, documents and masks, optimizer included."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from modernbert.bench.works import Timing, Work, alternate, machine, peak_memory, ragged
from modernbert.errors import ConfigError
from modernbert.kernels.cross_entropy import linear_cross_entropy
from modernbert.model import EncoderConfig, MaskedLM
from modernbert.model.heads import IGNORED
from modernbert.packed import pack
from modernbert.runtime import Precision, autocast
from modernbert.train.optimizer import StableAdamW, parameter_groups

WORKS = (
    Work("16 documents, mean 256, padded to 512", ragged(16, 256, 512)),
    Work("16 documents, mean 400, padded to 1024", ragged(16, 400, 1024)),
    Work("8 x 512", (512,) * 8),
    Work("4 x 1024", (1024,) * 4),
)
MODELS = {
    "mini": EncoderConfig(
        vocab_size=16_384, hidden_size=256, intermediate_size=384, num_hidden_layers=6, num_attention_heads=4
    ),
    "base": EncoderConfig.base(),
}
OURS, THEIRS = "modernbert", "transformers SDPA"


@dataclass(frozen=True)
class Result:
    """One work: both speeds, their ratio, and the first loss of each."""

    work: str
    tokens: int
    timings: tuple[Timing, ...]
    ratio: float
    losses: dict[str, float]


@dataclass(frozen=True)
class Report:
    """All works on one machine."""

    model: str
    dtype: str
    machine: dict[str, str]
    results: tuple[Result, ...]


def bench_training(model: str, precision: Precision, threads: int, rounds: int, works: Sequence[str] = ()) -> Report:
    """Measure steps of a model: base, or mini of 6 layers, 256 wide, vocabulary 16,384. Losses are compared first.

    transformers trains on the padded batch under the same autocast, with torch's fused AdamW, the faster choice there.

    Raises:
        ConfigError: transformers is missing, the losses disagree, or there is no such model or work.
    """
    if model not in MODELS:
        raise ConfigError(f"There is no model {model!r} in this benchmark; choose {' or '.join(MODELS)}.")
    chosen = [work for work in WORKS if not works or work.name in works]
    if not chosen:
        raise ConfigError(f"There is no work {works[0]!r}; choose among: {'; '.join(work.name for work in WORKS)}.")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    config = MODELS[model]
    ours = MaskedLM(config).train()
    theirs = _transformers(config, ours)
    results = tuple(_measure(ours, theirs, work, precision, rounds) for work in chosen)
    shape = f"{config.num_hidden_layers} layers, {config.hidden_size} wide, vocabulary {config.vocab_size:,}"
    return Report(f"{model}: {shape}, random weights", precision, machine(), results)


def bench_logits(rows: int = 8192, hidden: int = 768, vocab: int = 50_368) -> dict[str, int]:
    """Peak bytes of decoder and cross-entropy, forward and backward in bf16 autocast: in chunks, and the plain way."""
    x, weight = torch.randn(rows, hidden), torch.randn(vocab, hidden)
    labels = torch.randint(vocab, (rows,))

    def run(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], None]:
        def step() -> None:
            with autocast(torch.device("cpu"), "bf16"):
                found = loss(x.requires_grad_(), weight.requires_grad_())
            found.backward()

        return step

    return {
        OURS: peak_memory(run(lambda x, weight: linear_cross_entropy(x, weight, None, labels))),
        "plain": peak_memory(run(lambda x, weight: F.cross_entropy(F.linear(x, weight).float(), labels))),
    }


def _measure(ours: MaskedLM, theirs: Any, work: Work, precision: Precision, rounds: int) -> Result:
    cpu = torch.device("cpu")
    ids, mask = work.padded(ours.config.vocab_size)
    generator = torch.Generator().manual_seed(0)
    chosen = (torch.rand(ids.shape, generator=generator) < 0.3) & mask.bool()
    labels = ids.masked_fill(~chosen, IGNORED)
    tokens, sequences = pack(ids, mask)
    packed_labels, _ = pack(labels, mask)
    our_optimizer = StableAdamW(parameter_groups(ours, 1e-5), lr=1e-5, peak_lr=1e-5)
    their_optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-5, fused=True)

    def step_ours() -> float:
        with autocast(cpu, precision):
            loss = ours.loss(tokens, sequences, packed_labels)
        loss.backward()
        our_optimizer.step()
        our_optimizer.zero_grad()
        return float(loss.detach())

    def step_theirs() -> float:
        with autocast(cpu, precision):
            loss = theirs(ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        their_optimizer.step()
        their_optimizer.zero_grad()
        return float(loss.detach())

    theirs.load_state_dict(ours.state_dict(), strict=False)
    losses = {OURS: step_ours(), THEIRS: step_theirs()}
    if abs(losses[OURS] - losses[THEIRS]) > 0.02 * losses[THEIRS]:
        raise ConfigError(f"The losses disagree on {work.name}: {losses}; nothing is timed.")
    timings = alternate({OURS: step_ours, THEIRS: step_theirs}, work.tokens, rounds)
    ratio = timings[0].tokens_per_second / timings[1].tokens_per_second
    return Result(work.name, work.tokens, tuple(timings), ratio, losses)


def _transformers(config: EncoderConfig, model: MaskedLM) -> Any:
    try:
        from transformers import ModernBertConfig, ModernBertForMaskedLM
    except ImportError:
        raise ConfigError("The benchmark needs transformers: pip install 'modernbert[bench]'.") from None
    values = {key: value for key, value in config.to_hf().items() if key not in ("architectures", "model_type")}
    return ModernBertForMaskedLM(ModernBertConfig(**values, attn_implementation="sdpa")).train()
