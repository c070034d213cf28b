"""encode and predict of sentence-transformers and PyLate: larger batches, and pooling on packed tokens.

Sorting, tokenization, device copies and ordering are still those of the library; only the pass of a batch is replaced.
"""

from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any, cast

import torch
from torch import Tensor, nn

from modernbert.integrations.backbone import Backbone
from modernbert.integrations.patches import Patch
from modernbert.integrations.rows import Rows, padding_is_read, split
from modernbert.model.pooling import Pooling, PoolingMode
from modernbert.model.sparse_pooling import highest_logits, summed_activations

# Whether only embeddings of texts are requested, and no outputs of tokens.
_only_vectors: ContextVar[bool] = ContextVar("modernbert_only_vectors", default=False)

_BATCH_TEXTS = 256  # tokenized together; the encoder splits them into batches by tokens
# The modes of Pooling in the order of their vectors, with their names before version 5.4.
_MODES = {
    "cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens", "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "weightedmean": "weightedmean_tokens", "lasttoken": "lasttoken",
}  # fmt: skip


class Encode(Patch):
    """Replaces the method that iterates over the batches of a list of texts."""

    def __init__(self, module: nn.Module, method: str, *, larger_batches: bool, first_slot_is_read: bool) -> None:
        super().__init__(module, method)
        self.larger_batches = larger_batches
        self.first_slot_is_read = first_slot_is_read

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        bound = self.bind(args, kwargs)
        if bound is None:
            return self.original(*args, **kwargs)
        bound.apply_defaults()
        arguments = bound.arguments
        only_vectors = arguments.get("output_value", "sentence_embedding") == "sentence_embedding"
        size = arguments.get("batch_size")
        if self._batches_may_grow() and only_vectors and isinstance(size, int) and size > 0:
            arguments["batch_size"] = max(size, _BATCH_TEXTS)
        vectors = _only_vectors.set(only_vectors)
        read = padding_is_read.set(self._reads_padding({**arguments, **arguments.get("kwargs", {})}))
        try:
            return self.original(*bound.args, **bound.kwargs)
        finally:
            _only_vectors.reset(vectors)
            padding_is_read.reset(read)

    def _batches_may_grow(self) -> bool:
        """False if the output of a text depends on the padding of its batch."""
        left = getattr(getattr(self.module, "tokenizer", None), "padding_side", "right") == "left"
        return self.larger_batches and not (left and self.first_slot_is_read)

    def _reads_padding(self, arguments: dict[str, Any]) -> bool:
        """True for ColBERT's queries with masked [MASK] tokens, whose vectors are used; false if they are attended."""
        model = self.module
        if "is_query" in arguments:  # PyLate
            expands = arguments["is_query"] and getattr(model, "do_query_expansion", False)
            return bool(expands and not getattr(model, "attend_to_expansion_tokens", False))
        expansion = getattr(next(iter(model.children()), None), "query_expansion", None)
        return bool(arguments.get("task") == "query" and expansion and not expansion["attend"])


class TextForward(Patch):
    """Replaces `forward` of a SentenceTransformer or SparseEncoder: pooled vectors without padding the tokens."""

    def __init__(self, module: nn.Module, backbone: Backbone, inner: Any) -> None:
        super().__init__(module, "forward")
        self.backbone = backbone
        self.inner = inner  # the model of transformers

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        features = args[0] if args else kwargs.get("input")
        vectors = None
        if (
            _only_vectors.get()
            and isinstance(features, MutableMapping)
            and len(args) + len(kwargs) - ("task" in kwargs) == 1
        ):
            with torch.no_grad():
                vectors = self._vectors(features)
        if vectors is None or not isinstance(features, MutableMapping):
            return self.original(*args, **kwargs)
        features["sentence_embedding"] = vectors
        for module in list(self.module.children())[2:]:
            features = module(features)
        return features

    def _vectors(self, features: MutableMapping[str, Any]) -> Tensor | None:
        """The output of the second module, or None if that module has to compute it."""
        pooling = list(self.module.children())[1]
        modes = pooling_modes(pooling)
        if features.get("modality", "text") != "text" or "cu_seq_lens_q" in features or not modes:
            return None
        if self.backbone.reason(training=self.module.training or self.inner.training) is not None:
            return None  # the forward pass of the inner model logs the reason
        rows = split(features.get("input_ids"), features.get("attention_mask"), None)
        if isinstance(rows, str):
            return None
        if modes == ("splade",):
            return self._weights(rows, pooling)
        prompt = features.get("prompt_length", 0) if not pooling.include_prompt else 0
        if not isinstance(prompt, int):
            return None
        if (rows.left_padded or prompt) and reads_first_slot(pooling):
            return None
        pool = Pooling(cast(tuple[PoolingMode, ...], modes), include_prompt=not prompt)
        vectors = torch.cat([pool(hidden, sequences, prompt) for hidden, sequences in self.backbone.encode(rows)])
        return vectors.to(self.backbone.dtype)

    def _weights(self, rows: Rows, pooling: Any) -> Tensor | None:
        """Weights of the vocabulary. log(1 + relu) is monotonic, so it is applied to the largest logit."""
        model = self.inner
        if type(model.decoder) is not nn.Linear:
            return None
        weight, bias = model.decoder.weight, model.decoder.bias
        twice_log1p = pooling.activation_function == "log1p_relu"
        weights = []
        for hidden, sequences in self.backbone.encode(rows):
            x = model.head(hidden)
            if pooling.pooling_strategy == "max":
                values = highest_logits(x, weight, bias, sequences).relu().log1p()
                weights.append(values.log1p() if twice_log1p else values)
            else:
                weights.append(summed_activations(x, weight, bias, sequences, twice_log1p))
        for name in ("embedding_dimension", "word_embedding_dimension"):
            if hasattr(pooling, name) and getattr(pooling, name) is None:
                setattr(pooling, name, len(weight))
        return torch.cat(weights)


def pooling_modes(pooling: Any) -> tuple[str, ...]:
    """The pooling modes of a module of old or new versions, or an empty tuple if they are not supported."""
    if type(pooling).__name__ == "SpladePooling":
        known = pooling.pooling_strategy in ("max", "sum") and pooling.activation_function in ("relu", "log1p_relu")
        return ("splade",) if known else ()
    if type(pooling).__name__ != "Pooling":
        return ()
    modes = getattr(pooling, "pooling_mode", None)
    if modes is None:  # before 5.4
        modes = [mode for mode, name in _MODES.items() if getattr(pooling, f"pooling_mode_{name}", False)]
    modes = (modes,) if isinstance(modes, str) else tuple(modes)
    return modes if all(mode in _MODES for mode in modes) else ()


def reads_first_slot(module: nn.Module) -> bool:
    """Whether a module is a Pooling before version 5.4, which uses the first slot even if it is padding."""
    return type(module).__name__ == "Pooling" and not hasattr(module, "pooling_mode")


def pools_texts(model: nn.Module) -> bool:
    """Whether a model consists of the encoder, a pooling, and modules that use the pooled vector only."""
    modules: list[Any] = list(model.children())
    names = [type(module).__name__ for module in modules]
    if len(modules) < 2 or names[0] not in ("Transformer", "MLMTransformer") or not pooling_modes(modules[1]):
        return False
    outputs = {"feature-extraction": "last_hidden_state", "fill-mask": "logits"}
    task = getattr(modules[0], "transformer_task", None)
    if task is not None:
        text = modules[0].modality_config.get("text", {})
        if (text.get("method"), text.get("method_output_name")) != ("forward", outputs.get(task)):
            return False
        if modules[0].module_output_name != "token_embeddings":
            return False
    return all(
        name in ("Dense", "Normalize", "LayerNorm", "Dropout")
        and getattr(module, "module_input_name", "sentence_embedding") == "sentence_embedding"
        for name, module in zip(names[2:], modules[2:], strict=True)
    )
