"""The encoder inside a model of transformers, computed on packed tokens by the kernels of this package."""

import logging
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from modernbert.errors import BackendError, ConfigError, ModernBertError
from modernbert.integrations.rows import Rows
from modernbert.integrations.weights import WeightWatch
from modernbert.model import Encoder, EncoderConfig, optimized_cuda
from modernbert.model.optimized import InferenceEncoder, unsupported_reason
from modernbert.packed import Sequences
from modernbert.runtime import fast_bf16
from modernbert.stream.batching import batches_within
from modernbert.tasks.outputs import default_tokens_at_once

logger = logging.getLogger(__name__)

Precision = Literal["auto", "float32", "bfloat16", "int8"]

# Set while the original code runs, so that accelerated modules inside it run their original code too.
_original: ContextVar[bool] = ContextVar("modernbert_original", default=False)


class Backbone:
    """A ModernBertModel of transformers, and the packed encoder that replaces it.

    Weights are packed on first use, and again after a change. Copies and pickles contain the settings only, and pack
    the weights again. It is thread-safe.
    """

    def __init__(self, model: Any, precision: Precision, *, first_slot_is_read: bool = False) -> None:
        """`precision` "auto" is the faster one of the float dtypes: bf16 on CUDA and on processors with fast bf16.

        With `first_slot_is_read`, batches that are padded on the left run the original code.

        Raises:
            ConfigError: the precision is unknown, or an option in the configuration of the model is not supported.
            BackendError: the kernels cannot run the model in this precision.
        """
        if precision not in get_args(Precision):
            raise ConfigError(f"There is no precision {precision!r}; choose one of {', '.join(get_args(Precision))}.")
        self.model = model
        self.first_slot_is_read = first_slot_is_read
        self.precision: Precision = _fastest_float(model) if precision == "auto" else precision
        self._logged: set[str] = set()
        self._reset()
        self._refresh()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._packed: tuple[WeightWatch, nn.Module] | None = None
        self._failure: tuple[WeightWatch, str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        kept = ("model", "precision", "first_slot_is_read", "_logged")
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    @property
    def device(self) -> torch.device:
        return _embeddings(self.model).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the original weights and of the outputs."""
        return _embeddings(self.model).dtype

    @property
    def engine(self) -> str:
        """The name of the engine, for reports."""
        kind = type(self._encoder()).__name__
        return {"InferenceEncoder": "native kernels", "CudaEncoder": "Triton kernels"}.get(kind, "PyTorch, packed")

    def reason(self, *, training: bool) -> str | None:
        """Why the original code has to run for every batch now, or None if the packed encoder can run.

        `training` is the mode of the called module.
        """
        model = self.model
        if _original.get() or torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]
            return ""
        if training or model.training:
            return "it is in training mode"
        if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in model.parameters()):
            return "gradients are enabled: call it under torch.inference_mode() or torch.no_grad()"
        if getattr(model.config, "output_hidden_states", False) or getattr(model.config, "output_attentions", False):
            return "the hidden states or attentions of all layers are requested"
        if reason := self._refresh(quietly=True):
            return reason
        packed = self._packed
        return "there are hooks on its modules" if packed is not None and packed[0].hooked() else None

    def encode(self, rows: Rows) -> Iterator[tuple[Tensor, Sequences]]:
        """Hidden states (tokens, hidden) after the final norm, in batches of rows, in order."""
        encoder, dtype = self._encoder(), self.dtype
        lengths = rows.lengths
        begin = 0
        for batch in batches_within(range(len(lengths)), lengths, default_tokens_at_once(self.device)):
            sequences = Sequences.from_lengths([lengths[index] for index in batch], self.device)
            tokens = rows.tokens[begin : begin + sequences.num_tokens]
            begin += sequences.num_tokens
            yield encoder(tokens, sequences).to(dtype), sequences

    def log_once(self, reason: str) -> None:
        """Log once why the original code runs."""
        if reason and reason not in self._logged:
            self._logged.add(reason)
            logger.warning("The accelerated %s runs its original code: %s.", type(self.model).__name__, reason)

    def _encoder(self) -> nn.Module:
        packed = self._packed
        if packed is None:
            if reason := self._refresh(quietly=True):
                raise BackendError(f"The model can no longer be accelerated: {reason}.")
            packed = self._packed
            assert packed is not None
        return packed[1]

    def _refresh(self, quietly: bool = False) -> str | None:
        """Pack the weights if they are not packed yet or have changed. Returns the reason if they cannot be packed.

        Raises:
            ModernBertError: they cannot be packed, and `quietly` is false.
        """
        packed = self._packed
        if packed is not None and not packed[0].changed():
            return None
        with self._lock:
            if self._packed is not None and not self._packed[0].changed():
                return None
            if self._failure is not None and not self._failure[0].changed():
                return self._failure[1]
            watch = WeightWatch(self.model)
            try:
                if self._packed is not None:
                    logger.info("The weights have changed and are packed again.")
                self._packed = None
                self._packed = watch, _pack(self.model, self.precision)
                self._failure = None
            except ModernBertError as error:
                if not quietly:
                    raise
                self._failure = watch, str(error).rstrip(".")
                return self._failure[1]
        return None


class original_computes:  # noqa: N801
    """In this context, accelerated models of this thread run their original code."""

    def __enter__(self) -> None:
        self._token = _original.set(True)

    def __exit__(self, *_: object) -> None:
        _original.reset(self._token)


def encoder_config(model: Any) -> EncoderConfig:
    """The EncoderConfig of a model of transformers. Options of training and of heads are ignored.

    Raises:
        ConfigError: an option is not supported.
    """
    values = dict(model.config.to_dict())
    values |= {"attention_dropout": 0.0, "classifier_activation": "gelu"}
    kept = {name for name in EncoderConfig.model_fields if not name.endswith("_token_id")}
    kept |= {"hidden_activation", "attention_dropout", "is_decoder", "add_cross_attention", "rope_scaling"}
    kept |= {"rope_parameters", "sliding_window", "head_dim", "num_key_value_heads", "quantization_config"}
    kept -= {"id2label", "problem_type", "classifier_pooling", "classifier_dropout"}
    return EncoderConfig.from_hf(
        {name: value for name, value in values.items() if name in kept},
        where=f"The configuration of this {_name(model)}",
    )


def _pack(model: nn.Module, precision: Precision) -> nn.Module:
    """An encoder with the current weights of the model."""
    device = _embeddings(model).device
    parameters = dict(model.named_parameters())
    _check(model, parameters, device)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    if precision == "bfloat16" and device.type == "cuda" and _embeddings(model).dtype == torch.float16:
        dtype = torch.float16
    with torch.inference_mode(False), torch.no_grad():
        with torch.device("meta"):
            encoder = Encoder(encoder_config(model))
        expected = encoder.state_dict()
        if different := sorted(expected.keys() ^ parameters.keys()):
            raise ConfigError(
                f"The weights of this {_name(model)} are not those of its class: {different[0]} and "
                f"{len(different) - 1} more; remove or merge adapters first."
            )
        for name, parameter in parameters.items():
            if parameter.shape != expected[name].shape:
                raise ConfigError(
                    f"{name} is {tuple(parameter.shape)}, but the configuration requires {tuple(expected[name].shape)}."
                )
        weights = {name: parameter.detach().to(dtype) for name, parameter in parameters.items()}
        encoder.load_state_dict(weights, assign=True)
        encoder.eval().requires_grad_(False)
        if device.type == "cuda":
            if precision == "int8":
                raise BackendError("int8 runs on the CPU only; choose precision='bfloat16' on CUDA.")
            supported = optimized_cuda.unsupported_reason(encoder) is None
            return optimized_cuda.CudaEncoder(encoder) if supported else encoder
        reason = unsupported_reason(encoder)
        if reason is None:
            return InferenceEncoder(encoder, int8=precision == "int8")
        if precision == "int8":
            raise BackendError(f"int8 needs the native kernels, but {reason}; choose precision='float32'.")
        return encoder


def _check(model: nn.Module, parameters: dict[str, nn.Parameter], device: torch.device) -> None:
    if device.type not in ("cpu", "cuda"):
        raise BackendError(f"The model is on {device.type}; only models on the CPU or on CUDA can be accelerated.")
    if elsewhere := next((name for name, x in parameters.items() if x.device != device), None):
        raise BackendError(f"{elsewhere} is on another device than the embedding; move the model to one device.")
    if "_hf_hook" in vars(model):
        raise BackendError("The model is placed by device_map or by hooks; load it without them.")
    dtypes = {x.dtype for x in parameters.values()}
    if len(dtypes) != 1 or not dtypes <= {torch.float32, torch.bfloat16, torch.float16}:
        raise ConfigError(f"The weights are {', '.join(sorted(map(str, dtypes)))}; load them in one float dtype.")
    if inferred := next((name for name, x in parameters.items() if x.is_inference()), None):
        raise ConfigError(
            f"{inferred} was created under torch.inference_mode, so its changes cannot be detected; "
            "load the model outside of it."
        )
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding | nn.LayerNorm) and type(module) not in (
            nn.Linear,
            nn.Embedding,
            nn.LayerNorm,
        ):
            raise ConfigError(f"{name} is a {_name(module)}, not a plain layer of torch; merge adapters first.")


def _embeddings(model: Any) -> Tensor:
    """The token embeddings."""
    return model.get_input_embeddings().weight


def _fastest_float(model: nn.Module) -> Precision:
    bf16 = _embeddings(model).device.type == "cuda" or fast_bf16()
    return "bfloat16" if bf16 else "float32"


def _name(module: nn.Module) -> str:
    return type(module).__name__
