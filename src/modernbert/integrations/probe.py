"""A small batch through the model as it was and as it is, and how far the two are apart."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# Longer than a window on both sides of a token, about one, short, and one token alone.
_LENGTHS = {"right": (150, 97, 64, 17, 3, 1), "left": (70, 9, 1)}


class Probe:
    """Batches of random ids of several lengths, padded right and left, and the answers of the model as it is now.

    With `pooled`, which a model of texts may have, embeddings of a few texts too. Only real tokens are compared. The
    state of the random generators and the mode (training or not) stay as they are.
    """

    def __init__(self, model: nn.Module, inner: Any, *, pooled: bool) -> None:
        self.model, self.inner, self.pooled = model, inner, pooled
        generator = torch.Generator().manual_seed(0)
        config = inner.config
        longest = int(getattr(config, "max_position_embeddings", 512))
        self._batches = []
        for side, lengths in _LENGTHS.items():
            sizes = torch.tensor([min(length, longest) for length in lengths])
            places = torch.arange(int(sizes.max()))
            mask = places < sizes[:, None] if side == "right" else places >= sizes.max() - sizes[:, None]
            ids = torch.randint(0, config.vocab_size, mask.shape, generator=generator)
            self._batches.append((ids.where(mask, config.pad_token_id or 0), mask.long()))
        self._expected = self._answers()

    def error(self) -> float:
        """The largest relative error of an answer: norm of the difference over norm of what was expected.

        That of logits counts a fifth: a head looks at few directions of the hidden states, whose error is relative to
        all of them.
        """
        found = self._answers()
        return max(
            _relative(now, before) / (5 if of_head else 1)
            for (now, of_head), (before, _) in zip(found, self._expected, strict=True)
        )

    def _answers(self) -> list[tuple[Tensor, bool]]:
        """Numbers, and whether a head gives them."""
        backbone = self.inner.base_model  # itself, where there is no head
        with _evaluating(self.model), torch.inference_mode():
            answers = [(answer, False) for batch in self._batches for answer in self._numbers(backbone, *batch)]
            if backbone is not self.inner:
                answers += [(answer, True) for batch in self._batches for answer in self._numbers(self.inner, *batch)]
            if self.pooled:
                answers += [(answer, False) for answer in self._texts()]
        return answers

    def _numbers(self, model: Any, ids: Tensor, mask: Tensor) -> Iterator[Tensor]:
        device = model.get_input_embeddings().weight.device
        ids, mask = ids.to(device), mask.to(device)
        choices = type(model).__name__ == "ModernBertForMultipleChoice"
        given = {"input_ids": ids[None] if choices else ids, "attention_mask": mask[None] if choices else mask}
        output = model(**given, return_dict=True)
        real = mask.bool()
        for value in output.values():
            if isinstance(value, Tensor):
                per_token = value.shape[:2] == ids.shape
                answer = value[real] if per_token else value
                yield answer.float().cpu()

    def _texts(self) -> list[Tensor]:
        """Embeddings of texts that the tokenizer makes of ids, of different lengths."""
        model: Any = self.model
        ids, mask = self._batches[0]
        lengths = mask.sum(1).tolist()
        texts = [
            model.tokenizer.decode(row[:length].tolist()) or "text" for row, length in zip(ids, lengths, strict=True)
        ]
        with _same_tokenizer(model.tokenizer):
            vectors = model.encode(texts, convert_to_tensor=True, show_progress_bar=False)
        return [vectors.to_dense().float().cpu() if vectors.is_sparse else vectors.float().cpu()]


@contextmanager
def _same_tokenizer(tokenizer: Any) -> Iterator[None]:
    """A fast tokenizer keeps how it padded last, and writes that into its file."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    padding, truncation = getattr(backend, "padding", None), getattr(backend, "truncation", None)
    try:
        yield
    finally:
        if backend is not None:
            backend.no_padding() if padding is None else backend.enable_padding(**padding)
            backend.no_truncation() if truncation is None else backend.enable_truncation(**truncation)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _relative(actual: Tensor, expected: Tensor) -> float:
    if actual.shape != expected.shape:
        return float("inf")
    scale = float(expected.norm())
    return float((actual - expected).norm()) / scale if scale else float(actual.norm())
