"""The engines of the inference benchmark on the CPU: this package, and other packages with the same weights."""

import copy
import json
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from modernbert.bench.report import BASELINE, OURS, OURS_INT8
from modernbert.bench.workloads import PaddedBatch
from modernbert.errors import ConfigError
from modernbert.installation import install_command
from modernbert.model import Encoder, EncoderConfig, MaskedLM
from modernbert.model.optimized import InferenceEncoder, unsupported_reason
from modernbert.packed import Sequences, pack, unpack
from modernbert.runtime import Precision


@dataclass(frozen=True)
class Engine:
    """One way to encode documents. `prepare` returns the function to time for a batch.

    That function returns hidden states, (documents, longest, hidden), or with `means` their mean over each document.
    """

    name: str
    computes: Literal["bf16", "fp32", "int8"]
    prepare: Callable[[PaddedBatch], Callable[[], Tensor]]
    means: bool = False
    keeps_memory: bool = False  # between calls; then the memory of one call cannot be measured
    release_memory: Callable[[], None] = lambda: None  # frees memory kept between calls, if the engine can


@dataclass(frozen=True)
class Setting:
    """The inputs of an engine: the encoder in fp32, and how to run it."""

    encoder: Encoder
    dtype: Precision
    threads: int
    scratch: Path  # an empty folder for temporary files

    @property
    def config(self) -> EncoderConfig:
        return self.encoder.config

    @property
    def onnx(self) -> Path:
        """The model as an ONNX file, exported on first use."""
        path = self.scratch / "model.onnx"
        if not path.exists():
            _export(transformers_model(self.encoder), path)
        return path


def our_engines(setting: Setting) -> list[Engine]:
    """The encoder optimized for inference (with bf16, also in int8), or unchanged if the kernels do not support it."""
    encoder = in_dtype(setting.encoder, setting.dtype)
    if unsupported_reason(encoder):
        return [packed_engine(OURS, encoder, setting.dtype)]
    optimized = InferenceEncoder(encoder)
    engines = [packed_engine(OURS, optimized, setting.dtype, optimized.release_memory)]
    if setting.dtype == "bf16":
        int8 = InferenceEncoder(encoder, int8=True)
        engines.append(packed_engine(OURS_INT8, int8, "int8", int8.release_memory))
    return engines


def packed_engine(
    name: str,
    encode: Callable[[Tensor, Sequences], Tensor],
    computes: Literal["bf16", "fp32", "int8"],
    release_memory: Callable[[], None] = lambda: None,
) -> Engine:
    """An encoder of packed tokens. Its input is a padded batch, and its time includes packing and unpacking."""

    def prepare(batch: PaddedBatch) -> Callable[[], Tensor]:
        ids, mask = batch.ids, batch.mask

        def run() -> Tensor:
            tokens, sequences = pack(ids, mask)
            return unpack(encode(tokens, sequences), sequences)

        return run

    return Engine(name, computes, prepare, release_memory=release_memory)


def in_dtype(encoder: Encoder, dtype: Precision) -> Encoder:
    return copy.deepcopy(encoder).bfloat16() if dtype == "bf16" else encoder


def baseline(setting: Setting, dtype: Precision) -> Engine:
    """transformers, not compiled. In fp32 it is also the reference for all outputs."""
    model = transformers_model(setting.encoder)
    model = model.bfloat16() if dtype == "bf16" else model
    return Engine(BASELINE, dtype, lambda batch: _padded(model, batch))


def transformers_model(model: Encoder | MaskedLM, device: torch.device | None = None) -> Any:
    """The same model with the same weights in transformers, with SDPA, on a device (default: the CPU).

    Raises:
        ConfigError: transformers is missing.
    """
    if find_spec("transformers") is None:
        raise ConfigError(f"The benchmark needs transformers: {install_command('bench')}.")
    from transformers import ModernBertConfig, ModernBertForMaskedLM, ModernBertModel

    values = {key: value for key, value in model.config.to_hf().items() if key not in ("architectures", "model_type")}
    kind = ModernBertModel if isinstance(model, Encoder) else ModernBertForMaskedLM
    with device or torch.device("cpu"):
        theirs = kind(ModernBertConfig(**values, attn_implementation="sdpa")).eval()
    theirs.load_state_dict(model.state_dict())
    return theirs


def _padded(model: Callable[..., Any], batch: PaddedBatch) -> Callable[[], Tensor]:
    ids, mask = batch.ids, None if batch.full else batch.mask
    return lambda: model(ids, attention_mask=mask).last_hidden_state


def _compiled(setting: Setting) -> Engine:
    model = transformers_model(setting.encoder)
    model = model.bfloat16() if setting.dtype == "bf16" else model
    one_shape, any_shape = torch.compile(model, dynamic=False), torch.compile(model, dynamic=True)
    return Engine(
        "transformers compiled",
        setting.dtype,
        lambda batch: _padded(one_shape if batch.only_batch else any_shape, batch),
    )


def _sentence_transformers(setting: Setting) -> Engine:
    """`encode` of texts that consist of the ids as numbers. Its time includes tokenization, as in normal use."""
    from sentence_transformers import SentenceTransformer

    folder = setting.scratch / "sentence-transformers"
    _write_number_tokenizer(setting.config.vocab_size, setting.scratch / "tokenizer")
    setting.encoder.save_pretrained(folder, tokenizer=setting.scratch / "tokenizer")
    log = logging.getLogger("sentence_transformers")
    level = log.level
    log.setLevel(logging.ERROR)  # no warning about mean pooling, which is intended
    try:
        dtype = torch.bfloat16 if setting.dtype == "bf16" else torch.float32
        model = SentenceTransformer(
            str(folder), device="cpu", model_kwargs={"dtype": dtype, "attn_implementation": "sdpa"}
        )
    finally:
        log.setLevel(level)
    model.max_seq_length = 1 << 20

    def prepare(batch: PaddedBatch) -> Callable[[], Tensor]:
        texts = [" ".join(map(str, ids[:n].tolist())) for ids, n in zip(batch.ids, batch.lengths, strict=True)]
        return lambda: model.encode(texts, convert_to_tensor=True, show_progress_bar=False)

    return Engine("sentence-transformers", setting.dtype, prepare, means=True)


def _write_number_tokenizer(vocab_size: int, folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    numbers = {"[PAD]": 0} | {str(number): number for number in range(1, vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    values = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(values), encoding="utf-8")


def _onnx_runtime(setting: Setting) -> Engine:
    """Always fp32: the CPU kernels of ONNX Runtime do not support bf16."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = setting.threads
    session = onnxruntime.InferenceSession(str(setting.onnx), options, providers=["CPUExecutionProvider"])

    def prepare(batch: PaddedBatch) -> Callable[[], Tensor]:
        inputs = {"input_ids": batch.ids.numpy(), "attention_mask": batch.mask.numpy()}
        return lambda: torch.from_numpy(session.run(None, inputs)[0])

    return Engine("ONNX Runtime", "fp32", prepare, keeps_memory=True)


def _openvino(setting: Setting) -> Engine:
    import openvino

    hints = {
        "INFERENCE_PRECISION_HINT": "bf16" if setting.dtype == "bf16" else "f32",
        "INFERENCE_NUM_THREADS": setting.threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    core = openvino.Core()
    model = core.compile_model(core.read_model(setting.onnx), "CPU", hints)
    request = model.create_infer_request()

    def prepare(batch: PaddedBatch) -> Callable[[], Tensor]:
        inputs = {"input_ids": batch.ids.numpy(), "attention_mask": batch.mask.numpy()}
        return lambda: torch.from_numpy(request.infer(inputs)[0])

    return Engine("OpenVINO", setting.dtype, prepare, keeps_memory=True)


class _HiddenStates(nn.Module):
    """A model with two input tensors and one output tensor, as the exporter needs it."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden: Tensor = self.model(input_ids, attention_mask=attention_mask).last_hidden_state
        return hidden


def _export(model: Any, path: Path) -> None:
    ids = torch.full((2, 160), 100)
    any_size = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)  # no warnings about operators of torchvision, which are not used
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's exporter itself uses deprecated functions of torch
            program = torch.onnx.export(
                _HiddenStates(model).eval(),
                (ids, torch.ones_like(ids)),
                dynamo=True,
                dynamic_shapes=(any_size, any_size),
                input_names=["input_ids", "attention_mask"],
                output_names=["hidden"],
                verbose=False,
            )
            assert program is not None
            program.save(path, external_data=True)
    finally:
        log.setLevel(level)


@dataclass(frozen=True)
class Peer:
    """An engine for --peer, the modules that it needs (its own one is last), and its constructor."""

    name: str
    modules: tuple[str, ...]
    make: Callable[[Setting], Engine]

    @property
    def package(self) -> str:
        return self.modules[-1]

    @property
    def unsupported_reason(self) -> str | None:
        """What is missing and how to install it; None if nothing is missing."""
        absent = [module for module in self.modules if find_spec(module) is None]
        return f"{' and '.join(absent)} missing: {install_command('peers')}" if absent else None


TRANSFORMERS = "transformers"
PEERS = (
    Peer("transformers-compiled", ("transformers",), _compiled),
    Peer("sentence-transformers", ("sentence_transformers",), _sentence_transformers),
    Peer("onnxruntime", ("onnx", "onnxscript", "onnxruntime"), _onnx_runtime),
    Peer("openvino", ("onnx", "onnxscript", "openvino"), _openvino),
)


def choose_peers(names: Sequence[str]) -> tuple[Peer, ...]:
    """The peers with these names; `all` selects all of them. transformers is always measured.

    Raises:
        ConfigError: a name is unknown.
    """
    known = {peer.name: peer for peer in PEERS}
    for name in names:
        if name not in (*known, TRANSFORMERS, "all"):
            raise ConfigError(f"There is no peer {name!r}; choose all, or any of: {TRANSFORMERS}, {', '.join(known)}.")
    return PEERS if "all" in names else tuple(peer for peer in PEERS if peer.name in names)
