"""The relative error between an original and an accelerated model on small batches."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# Rows longer than an attention window, about as long, short, and of one token.
_LENGTHS = {"right": (150, 97, 64, 17, 3, 1), "left": (70, 9, 1)}


class Probe:
    """Batches of random ids of several lengths, padded right and left, and the outputs of the model before a change.

    With `pooled`, embeddings of a few texts are compared too. Only real tokens are compared. The state of random
    generators and the training mode do not change.
    """

    def __init__(self, model: nn.Module, inner: Any, *, pooled: bool) -> None:
        self.model, self.inner, self.pooled = model, inner, pooled
        generator = torch.Generator().manual_seed(0)
        config = inner.config
        max_length = int(getattr(config, "max_position_embeddings", 512))
        self._batches = []
        for side, lengths in _LENGTHS.items():
            sizes = torch.tensor([min(length, max_length) for length in lengths])
            places = torch.arange(int(sizes.max()))
            mask = places < sizes[:, None] if side == "right" else places >= sizes.max() - sizes[:, None]
            ids = torch.randint(0, config.vocab_size, mask.shape, generator=generator)
            self._batches.append((ids.where(mask, config.pad_token_id or 0), mask.long()))
        self._expected = self._outputs()

    def error(self) -> float:
        """The largest relative error of an output: the norm of the difference over the norm of the expected output.

        The error of logits counts a fifth: a head depends on few directions of the hidden states, while the error of
        the hidden states is relative to all directions.
        """
        actual = self._outputs()
        return max(
            _relative(now, before) / (5 if from_head else 1)
            for (now, from_head), (before, _) in zip(actual, self._expected, strict=True)
        )

    def _outputs(self) -> list[tuple[Tensor, bool]]:
        """Outputs, and whether each comes from a head."""
        backbone = self.inner.base_model  # `inner` itself if it has no head
        with _eval_mode(self.model), torch.inference_mode():
            outputs = [(output, False) for batch in self._batches for output in self._tensors(backbone, *batch)]
            if backbone is not self.inner:
                outputs += [(output, True) for batch in self._batches for output in self._tensors(self.inner, *batch)]
            if self.pooled:
                outputs += [(output, False) for output in self._texts()]
        return outputs

    def _tensors(self, model: Any, ids: Tensor, mask: Tensor) -> Iterator[Tensor]:
        device = model.get_input_embeddings().weight.device
        ids, mask = ids.to(device), mask.to(device)
        choices = type(model).__name__ == "ModernBertForMultipleChoice"
        inputs = {"input_ids": ids[None] if choices else ids, "attention_mask": mask[None] if choices else mask}
        output = model(**inputs, return_dict=True)
        real = mask.bool()
        for value in output.values():
            if isinstance(value, Tensor):
                per_token = value.shape[:2] == ids.shape
                output = value[real] if per_token else value
                yield output.float().cpu()

    def _texts(self) -> list[Tensor]:
        """Embeddings of texts of different lengths, decoded from the random ids."""
        model: Any = self.model
        ids, mask = self._batches[0]
        lengths = mask.sum(1).tolist()
        texts = [
            model.tokenizer.decode(row[:length].tolist()) or "text" for row, length in zip(ids, lengths, strict=True)
        ]
        with _preserved_tokenizer_state(model.tokenizer):
            vectors = model.encode(texts, convert_to_tensor=True, show_progress_bar=False)
        return [vectors.to_dense().float().cpu() if vectors.is_sparse else vectors.float().cpu()]


@contextmanager
def _preserved_tokenizer_state(tokenizer: Any) -> Iterator[None]:
    """Restore padding and truncation, which a fast tokenizer keeps from its last call and writes into its file."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    padding, truncation = getattr(backend, "padding", None), getattr(backend, "truncation", None)
    try:
        yield
    finally:
        if backend is not None:
            backend.no_padding() if padding is None else backend.enable_padding(**padding)
            backend.no_truncation() if truncation is None else backend.enable_truncation(**truncation)


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
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
