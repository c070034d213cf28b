"""A masked-LM training step beside transformers: same weights, documents and masks, optimizer included."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modernbert.bench.floor import MATRICES, matrix_products, training_flops
from modernbert.bench.models import check_dtype, describe, make_model
from modernbert.bench.peers import transformers_model
from modernbert.bench.report import BASELINE, OURS, Entry, Report, Result, agreeing, make_result
from modernbert.bench.timing import alternate, check_rounds, machine, peak_memory, relative_error, use_threads
from modernbert.bench.works import Work, choose, ragged
from modernbert.errors import ConfigError
from modernbert.kernels.cross_entropy import linear_cross_entropy
from modernbert.model import MaskedLM
from modernbert.packed import IGNORED, pack
from modernbert.runtime import Precision, autocast
from modernbert.train.optimizer import StableAdamW, parameter_groups

WORKS = (
    Work("16 documents, mean 256, padded to 512", ragged(16, 256, 512)),
    Work("16 documents, mean 400, padded to 1024", ragged(16, 400, 1024)),
    Work("8 x 512", (512,) * 8),
    Work("4 x 1024", (1024,) * 4),
)


def bench_training(model: str, dtype: str, threads: int | None, rounds: int, works: Sequence[str] = ()) -> Report:
    """Measure steps of a preset with random weights, or of a model folder. Gradients are compared first.

    transformers trains on the padded batch under the same autocast, with torch's fused AdamW, the faster choice there.

    Raises:
        ConfigError: transformers is missing, or there is no such model, dtype or work.
    """
    precision = check_dtype(dtype)
    check_rounds(rounds)
    chosen = choose(WORKS, works)
    threads = use_threads(threads)
    ours = make_model(MaskedLM, model).train()
    theirs = transformers_model(ours).train()
    results = tuple(_measure(ours, theirs, work, precision, rounds) for work in chosen)
    return Report(
        benchmark="training",
        model=describe(model, ours.config),
        dtype=precision,
        threads=threads,
        rounds=rounds,
        machine=machine(("transformers",)),
        missing={},
        results=results,
    )


def bench_logits(rows: int = 8192, hidden: int = 768, vocab: int = 50_368) -> dict[str, int]:
    """Peak bytes of decoder and cross-entropy, forward and backward in bf16 autocast: in chunks, and the plain way.

    Raises:
        ConfigError: this system does not tell how much memory a process has.
    """
    x, weight = torch.randn(rows, hidden), torch.randn(vocab, hidden)
    labels = torch.randint(vocab, (rows,))

    def peak(loss: Callable[[Tensor, Tensor], Tensor]) -> int:
        def step() -> None:
            with autocast(torch.device("cpu"), "bf16"):
                found = loss(x.requires_grad_(), weight.requires_grad_())
            found.backward()

        found = peak_memory(step)
        if found is None:
            raise ConfigError("This system does not tell how much memory a process has; measure on Linux.")
        return found

    return {
        OURS: peak(lambda x, weight: linear_cross_entropy(x, weight, None, labels)),
        "plain": peak(lambda x, weight: F.cross_entropy(F.linear(x, weight).float(), labels)),
    }


@dataclass(frozen=True)
class _Contestant:
    """A model, its loss on the work in some precision, and its optimizer."""

    model: nn.Module
    loss: Callable[[], Tensor]
    optimizer: torch.optim.Optimizer

    def backward(self, precision: Precision) -> None:
        with autocast(torch.device("cpu"), precision):
            loss = self.loss()
        loss.backward()

    def step(self, precision: Precision) -> None:
        self.backward(precision)
        self.optimizer.step()
        self.optimizer.zero_grad()


def _measure(ours: MaskedLM, theirs: Any, work: Work, precision: Precision, rounds: int) -> Result:
    [batch] = work.batches(ours.config.vocab_size)
    mask = batch.mask
    generator = torch.Generator().manual_seed(0)
    chosen = (torch.rand(batch.ids.shape, generator=generator) < 0.3) & batch.real
    labels = batch.ids.masked_fill(~chosen, IGNORED)
    tokens, sequences = pack(batch.ids, mask)
    packed_labels, _ = pack(labels, mask)
    theirs.load_state_dict(ours.state_dict())
    contestants = {
        OURS: _Contestant(
            ours,
            lambda: ours.loss(tokens, sequences, packed_labels),
            StableAdamW(parameter_groups(ours, 1e-5), lr=1e-5, peak_lr=1e-5),
        ),
        BASELINE: _Contestant(
            theirs,
            lambda: theirs(batch.ids, attention_mask=mask, labels=labels).loss,
            torch.optim.AdamW(theirs.parameters(), lr=1e-5, fused=True),
        ),
    }
    expected = _gradients(contestants[BASELINE], "fp32")
    errors = {name: _worst(_gradients(one, precision), expected) for name, one in contestants.items()}
    agreed = agreeing(errors)
    runs = {name: _round_of(one, precision, work.passes) for name, one in contestants.items() if name in agreed}
    peaks = {name: peak_memory(run) for name, run in runs.items()}  # of a round that does not count
    entries = tuple(Entry(name, precision, errors[name], peak_bytes=peaks.get(name)) for name in contestants)
    products = matrix_products(torch.bfloat16 if precision == "bf16" else torch.float32)
    products()
    seconds = alternate(runs | {MATRICES: products}, rounds, work.name)
    return make_result(work, training_flops(ours.config, work.lengths, int(chosen.sum())), entries, seconds)


def _gradients(contestant: _Contestant, precision: Precision) -> dict[str, Tensor]:
    """Those of the first loss, by parameter; the model is left without."""
    contestant.optimizer.zero_grad()
    contestant.backward(precision)
    found = {
        name: parameter.grad.clone()
        for name, parameter in contestant.model.named_parameters()
        if parameter.grad is not None
    }
    contestant.optimizer.zero_grad()
    return found


def _worst(gradients: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """The relative error of the parameter whose gradient is furthest off."""
    assert gradients.keys() == expected.keys()
    return max(relative_error(gradients[name], wanted) for name, wanted in expected.items())


def _round_of(contestant: _Contestant, precision: Precision, times: int) -> Callable[[], None]:
    def run() -> None:
        for _ in range(times):
            contestant.step(precision)

    return run
