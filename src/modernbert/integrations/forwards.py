"""The forward passes of transformers' ModernBERT classes on packed tokens.

Each has the arguments and the output type of its class. The original code handles what is not supported here: labels,
hidden states of all layers, embeddings as inputs, and training.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from modernbert.integrations.backbone import Backbone, original_computes
from modernbert.integrations.patches import Patch
from modernbert.integrations.rows import Rows, split
from modernbert.model.pooling import Pooling

# Arguments without effect on the result.
_WITHOUT_EFFECT = {"return_dict", "token_type_ids"}
_READ = {"input_ids", "attention_mask"}


class Forward(Patch, ABC):
    """Replaces `forward` of one of the classes."""

    def __init__(self, module: Any, backbone: Backbone) -> None:
        super().__init__(module, "forward")
        self.backbone = backbone

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        bound = self.bind(args, kwargs)
        if bound is None:
            return self.original(*args, **kwargs)
        arguments = dict(bound.arguments)
        arguments |= arguments.pop("kwargs", {})
        reason = self.backbone.reason(training=self.module.training)
        reason = _unsupported_argument(arguments) if reason is None else reason
        rows: Rows | str = reason if reason is not None else self.rows(arguments)
        if isinstance(rows, str):
            self.backbone.log_once(rows)
            with original_computes():
                return self.original(*args, **kwargs)
        with torch.no_grad():
            output = self.compute(rows, arguments)
        config = self.module.config
        as_dict = arguments.get("return_dict")
        as_dict = getattr(config, "return_dict", True) if as_dict is None else as_dict
        return output if as_dict else output.to_tuple()

    def rows(self, arguments: dict[str, Any]) -> Rows | str:
        rows = split(arguments.get("input_ids"), arguments.get("attention_mask"), self.module.config.pad_token_id)
        if isinstance(rows, Rows) and rows.left_padded and self.backbone.first_slot_is_read:
            return "the batch is padded on the left, and this version of Pooling reads the first slot"
        return rows

    @abstractmethod
    def compute(self, rows: Rows, arguments: dict[str, Any]) -> Any:
        """The output object for packed rows."""

    def per_token(self, rows: Rows, head: Callable[[Tensor], Tensor]) -> Tensor:
        """The output of a head for each token, (tokens, ...)."""
        outputs = [head(hidden) for hidden, _ in self.backbone.encode(rows)]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


class ModelForward(Forward):
    """ModernBertModel: hidden states, zeros on padding."""

    def compute(self, rows: Rows, arguments: dict[str, Any]) -> Any:
        from transformers.modeling_outputs import BaseModelOutput

        return BaseModelOutput(last_hidden_state=rows.padded(self.per_token(rows, nn.Identity())))


class MaskedLMForward(Forward):
    """ModernBertForMaskedLM: logits, zeros on padding."""

    def compute(self, rows: Rows, arguments: dict[str, Any]) -> Any:
        from transformers.modeling_outputs import MaskedLMOutput

        model = self.module
        return MaskedLMOutput(logits=rows.padded(self.per_token(rows, lambda x: model.decoder(model.head(x)))))


class TokenClassificationForward(Forward):
    """ModernBertForTokenClassification: logits, zeros on padding."""

    def compute(self, rows: Rows, arguments: dict[str, Any]) -> Any:
        from transformers.modeling_outputs import TokenClassifierOutput

        return TokenClassifierOutput(logits=rows.padded(self.per_token(rows, _classifier(self.module))))


class QuestionAnsweringForward(Forward):
    """ModernBertForQuestionAnswering: start and end logits, with the lowest number on padding."""

    def compute(self, rows: Rows, arguments: dict[str, Any]) -> Any:
        from transformers.modeling_outputs import QuestionAnsweringModelOutput

        logits = self.per_token(rows, _classifier(self.module))
        begins, ends = rows.padded(logits, fill=torch.finfo(logits.dtype).min).unbind(-1)
        return QuestionAnsweringModelOutput(start_logits=begins.contiguous(), end_logits=ends.contiguous())


class _PooledForward(Forward):
    """A head on one pooled vector of each row, computed without padding the tokens."""

    def pooled(self, rows: Rows) -> Tensor:
        """(rows, outputs)"""
        pool = Pooling((self.module.config.classifier_pooling,))
        vectors = [pool(hidden, sequences) for hidden, sequences in self.backbone.encode(rows)]
        logits: Tensor = _classifier(self.module)(torch.cat(vectors).to(self.backbone.dtype))
        return logits

    def other_pooling(self) -> str | None:
        mode = self.module.config.classifier_pooling
        return None if mode in ("cls", "mean") else f"classifier_pooling is {mode!r}"


class SequenceClassificationForward(_PooledForward):
    """ModernBertForSequenceClassification."""

    def rows(self, arguments: dict[str, Any]) -> Rows | str:
        rows = self.other_pooling() or super().rows(arguments)
        if isinstance(rows, Rows) and rows.left_padded and self.module.config.classifier_pooling == "cls":
            return "classifier_pooling is 'cls' and the batch is padded on the left, so transformers reads padding"
        return rows

    def compute(self, rows: Rows, arguments: dict[str, Any]) -> Any:
        from transformers.modeling_outputs import SequenceClassifierOutput

        return SequenceClassifierOutput(logits=self.pooled(rows))


class MultipleChoiceForward(_PooledForward):
    """ModernBertForMultipleChoice: inputs are (questions, choices, length)."""

    def rows(self, arguments: dict[str, Any]) -> Rows | str:
        ids, mask = arguments.get("input_ids"), arguments.get("attention_mask")
        if not isinstance(ids, Tensor) or ids.dim() != 3:
            return "input_ids are not (questions, choices, length)"
        if mask is None and self.module.config.classifier_pooling == "mean":
            return "there is no attention mask"
        if isinstance(mask, Tensor):
            mask = mask.view(-1, mask.shape[-1])
        flat = {"input_ids": ids.view(-1, ids.shape[-1]), "attention_mask": mask}
        return self.other_pooling() or super().rows(flat)

    def compute(self, rows: Rows, arguments: dict[str, Any]) -> Any:
        from transformers.modeling_outputs import MultipleChoiceModelOutput

        return MultipleChoiceModelOutput(logits=self.pooled(rows).view(-1, arguments["input_ids"].shape[1]))


def _classifier(model: Any) -> Callable[[Tensor], Tensor]:
    return lambda x: model.classifier(model.drop(model.head(x)))


def _unsupported_argument(arguments: dict[str, Any]) -> str | None:
    """A reason if an argument is supported by the original code only."""
    for name, value in arguments.items():
        if name in _READ or name in _WITHOUT_EFFECT or value is None or value is False:
            continue
        return f"it was called with {name}"
    return None


FORWARDS: dict[str, type[Forward]] = {
    "ModernBertModel": ModelForward,
    "ModernBertForMaskedLM": MaskedLMForward,
    "ModernBertForSequenceClassification": SequenceClassificationForward,
    "ModernBertForTokenClassification": TokenClassificationForward,
    "ModernBertForQuestionAnswering": QuestionAnsweringForward,
    "ModernBertForMultipleChoice": MultipleChoiceForward,
}
