"""`accelerate` and `restore`: models of transformers, sentence-transformers or PyLate compute on packed tokens."""

import logging
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from modernbert.errors import BackendError, ConfigError
from modernbert.integrations.backbone import Backbone, Precision
from modernbert.integrations.forwards import FORWARDS
from modernbert.integrations.patches import Patch, patches_of, remove_patches
from modernbert.integrations.probe import Probe
from modernbert.integrations.texts import Encode, TextForward, pools_texts, reads_first_slot

logger = logging.getLogger(__name__)

M = TypeVar("M")

# The methods that iterate over batches, newer versions first.
_TEXT_METHODS = {
    "SentenceTransformer": ("_inference", "encode"),
    "SparseEncoder": ("_inference", "encode"),
    "MultiVectorEncoder": ("_inference",),
    "CrossEncoder": ("_inference", "predict"),
    "ColBERT": ("encode",),
}
_LARGER_BATCHES = ("SentenceTransformer", "SparseEncoder", "CrossEncoder")
_TOLERANCES = {"float32": 1e-4, "bfloat16": 3e-2, "int8": 1e-1}


@dataclass(frozen=True)
class Acceleration:
    """The precision, the engine and the relative error of an accelerated model."""

    precision: Precision
    engine: str
    error: float


def accelerate(model: M, *, precision: Precision = "auto", tolerance: float | None = None) -> M:
    """Let a model compute on packed tokens with the kernels of this package, and return it. `restore` undoes this.

    `model` is one of transformers' ModernBERT classes, a SentenceTransformer, CrossEncoder, SparseEncoder or
    MultiVectorEncoder of sentence-transformers, or a ColBERT of PyLate. Its weights, `state_dict` and
    `save_pretrained` do not change. The original code runs in training mode, with gradients, and for outputs that only
    the original has; a warning reports this once. Changed weights are packed again.

    `precision`: "float32", "bfloat16", "int8" (linear layers, CPU), or "auto", the faster one of the float dtypes.
    A small batch is compared with the original model. If the relative error is above `tolerance`, the model is not
    changed. The default is 1e-4 in float32, 3e-2 in bfloat16 and 1e-1 in int8, and five times that for logits.

    Raises:
        ConfigError: the class of the model, or an option in its configuration, is not supported.
        BackendError: the kernels cannot run the model here, or the error is above the tolerance.
    """
    module = _module(model)
    previous = remove_patches(module)
    try:
        _accelerate(module, precision, tolerance)
    except BaseException:
        remove_patches(module)
        for patch in previous:
            patch.install()
        raise
    return model


def restore(model: M) -> M:
    """Undo `accelerate`, and return the model. A model that is not accelerated stays unchanged."""
    module = _module(model)
    remove_patches(module)
    vars(module).pop(_REPORT, None)
    return model


def acceleration_of(model: Any) -> Acceleration | None:
    """The acceleration of a model, or None if it is not accelerated."""
    module = _module(model)
    return vars(module).get(_REPORT) if any(True for _ in patches_of(module)) else None


_REPORT = "_modernbert_acceleration"


def _accelerate(model: nn.Module, precision: Precision, tolerance: float | None) -> None:
    kind = _kind(model)
    inner = _inner(model)
    backbone_model = inner.model if type(inner).__name__ != "ModernBertModel" else inner
    if _base(inner) not in FORWARDS or _base(backbone_model) != "ModernBertModel":
        raise ConfigError(_unsupported(model))
    probe = Probe(model, inner, pooled=pools_texts(model) if kind else False)
    first_slot = any(reads_first_slot(module) for module in model.modules()) if kind else False
    backbone = Backbone(backbone_model, precision, first_slot_is_read=first_slot)
    patches: list[Patch] = [FORWARDS["ModernBertModel"](backbone_model, backbone)]
    if inner is not backbone_model:
        patches.append(FORWARDS[_base(inner)](inner, backbone))
    if kind:
        method = next((name for name in _TEXT_METHODS[kind] if hasattr(type(model), name)), None)
        if method is None:
            raise ConfigError(f"This version of {kind} has no supported method for encoding; update the library.")
        if probe.pooled:
            patches.append(TextForward(model, backbone, inner))
        larger = kind in _LARGER_BATCHES and (probe.pooled or kind == "CrossEncoder")
        patches.append(Encode(model, method, larger_batches=larger, first_slot_is_read=first_slot))
    for patch in patches:
        patch.install()
    error = probe.error()
    allowed = _TOLERANCES[backbone.precision] if tolerance is None else tolerance
    if not error <= allowed:
        raise BackendError(
            f"The accelerated model differs from the original by {error:.1e} (relative, {backbone.precision}), and the "
            f"tolerance is {allowed:.1e}; nothing was changed. Choose another precision, or give a tolerance."
        )
    vars(model)[_REPORT] = Acceleration(backbone.precision, backbone.engine, error)
    logger.info("Accelerated: %s in %s, relative error %.1e.", backbone.engine, backbone.precision, error)


def _module(model: object) -> nn.Module:
    if isinstance(model, nn.Module):
        return model
    if isinstance(inner := getattr(model, "model", None), nn.Module):  # a pipeline of transformers
        return inner
    raise ConfigError(_unsupported(model))


def _kind(model: nn.Module) -> str | None:
    """The supported class of sentence-transformers or PyLate that a model belongs to, or None."""
    for base in type(model).__mro__:
        if base.__module__.partition(".")[0] in ("sentence_transformers", "pylate") and base.__name__ in _TEXT_METHODS:
            return base.__name__
    return None


def _inner(model: nn.Module) -> Any:
    """The outermost ModernBERT model of transformers inside `model`."""
    candidates = [module for module in model.modules() if _base(module) in FORWARDS]
    outer = [
        module
        for module in candidates
        if not any(module is not other and module in other.modules() for other in candidates)
    ]
    if len(outer) != 1:
        raise ConfigError(
            _unsupported(model)
            if not outer
            else f"This {type(model).__name__} holds {len(outer)} ModernBERT models; accelerate each of them."
        )
    if outer[0] is not model and _kind(model) is None:
        raise ConfigError(_unsupported(model))
    return outer[0]


def _base(module: nn.Module) -> str:
    """The ModernBERT class of transformers whose `forward` a module runs, or an empty string."""
    for base in type(module).__mro__:
        if "forward" in vars(base):
            return base.__name__ if base.__module__ == "transformers.models.modernbert.modeling_modernbert" else ""
    return ""


def _unsupported(model: object) -> str:
    names = ", ".join(sorted(FORWARDS))
    return (
        f"A {type(model).__name__} cannot be accelerated. Supported are transformers' {names}; sentence-transformers' "
        "SentenceTransformer, CrossEncoder, SparseEncoder, MultiVectorEncoder; and PyLate's ColBERT; with a ModernBERT "
        "in PyTorch (not ONNX or OpenVINO) and without adapters."
    )
