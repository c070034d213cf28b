"""The contestants of the inference benchmark: this project's encoder, and others with the same weights."""

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
from modernbert.bench.works import PaddedBatch
from modernbert.errors import ConfigError
from modernbert.installation import install_command
from modernbert.model import Encoder, EncoderConfig, MaskedLM
from modernbert.model.optimized import InferenceEncoder, refusal
from modernbert.packed import Sequences, pack, unpack
from modernbert.runtime import Precision


@dataclass(frozen=True)
class Contestant:
    """A name, and what makes a batch ready: the call that it gives back is what is timed.

    That call returns hidden states, (documents, longest, hidden), or with `means` their mean over each document.
    """

    name: str
    computes: Literal["bf16", "fp32", "int8"]
    prepare: Callable[[PaddedBatch], Callable[[], Tensor]]
    means: bool = False
    keeps_memory: bool = False  # between calls, so that the memory of one call cannot be told
    release_memory: Callable[[], None] = lambda: None  # gives back what is kept, where that can be asked for


@dataclass(frozen=True)
class Setting:
    """What a contestant is made of: the encoder in fp32, and how it is to be run."""

    encoder: Encoder
    dtype: Precision
    threads: int
    scratch: Path  # an empty folder for files

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


def our_contestants(setting: Setting) -> list[Contestant]:
    """The encoder made ready for inference, beside bf16 in int8 too; or as it is, if the kernels do not take it."""
    encoder = in_dtype(setting.encoder, setting.dtype)
    if refusal(encoder):
        return [packed(OURS, encoder, setting.dtype)]
    ready = InferenceEncoder(encoder)
    contestants = [packed(OURS, ready, setting.dtype, ready.release_memory)]
    if setting.dtype == "bf16":
        int8 = InferenceEncoder(encoder, int8=True)
        contestants.append(packed(OURS_INT8, int8, "int8", int8.release_memory))
    return contestants


def packed(
    name: str,
    encode: Callable[[Tensor, Sequences], Tensor],
    computes: Literal["bf16", "fp32", "int8"],
    release_memory: Callable[[], None] = lambda: None,
) -> Contestant:
    """An encoder of packed tokens. It is given padded batches like the others: packing and unpacking are timed too."""

    def prepare(batch: PaddedBatch) -> Callable[[], Tensor]:
        ids, mask = batch.ids, batch.mask

        def run() -> Tensor:
            tokens, sequences = pack(ids, mask)
            return unpack(encode(tokens, sequences), sequences)

        return run

    return Contestant(name, computes, prepare, release_memory=release_memory)


def in_dtype(encoder: Encoder, dtype: Precision) -> Encoder:
    return copy.deepcopy(encoder).bfloat16() if dtype == "bf16" else encoder


def baseline(setting: Setting, dtype: Precision) -> Contestant:
    """transformers, not compiled. In fp32 it is the judge of all others, too."""
    model = transformers_model(setting.encoder)
    model = model.bfloat16() if dtype == "bf16" else model
    return Contestant(BASELINE, dtype, lambda batch: _padded(model, batch))


def transformers_model(model: Encoder | MaskedLM, device: torch.device | None = None) -> Any:
    """The same weights in the same model of transformers, with SDPA, on a device (the CPU unless one is given).

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


def _compiled(setting: Setting) -> Contestant:
    model = transformers_model(setting.encoder)
    model = model.bfloat16() if setting.dtype == "bf16" else model
    one_shape, any_shape = torch.compile(model, dynamic=False), torch.compile(model, dynamic=True)
    return Contestant(
        "transformers compiled",
        setting.dtype,
        lambda batch: _padded(one_shape if batch.alone else any_shape, batch),
    )


def _sentence_transformers(setting: Setting) -> Contestant:
    """`encode` of texts, each of which is the numbers of its ids: tokenising is part of the call, as for its users."""
    from sentence_transformers import SentenceTransformer

    folder = setting.scratch / "sentence-transformers"
    _write_number_tokenizer(setting.config.vocab_size, setting.scratch / "tokenizer")
    setting.encoder.save_pretrained(folder, tokenizer=setting.scratch / "tokenizer")
    log = logging.getLogger("sentence_transformers")
    level = log.level
    log.setLevel(logging.ERROR)  # it would say that it pools by the mean, which is what is asked of it
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

    return Contestant("sentence-transformers", setting.dtype, prepare, means=True)


def _write_number_tokenizer(vocab_size: int, folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    numbers = {"[PAD]": 0} | {str(number): number for number in range(1, vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    values = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(values), encoding="utf-8")


def _onnx_runtime(setting: Setting) -> Contestant:
    """fp32 whatever is asked: its CPU kernels know no bf16."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = setting.threads
    session = onnxruntime.InferenceSession(str(setting.onnx), options, providers=["CPUExecutionProvider"])

    def prepare(batch: PaddedBatch) -> Callable[[], Tensor]:
        inputs = {"input_ids": batch.ids.numpy(), "attention_mask": batch.mask.numpy()}
        return lambda: torch.from_numpy(session.run(None, inputs)[0])

    return Contestant("ONNX Runtime", "fp32", prepare, keeps_memory=True)


def _openvino(setting: Setting) -> Contestant:
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

    return Contestant("OpenVINO", setting.dtype, prepare, keeps_memory=True)


class _HiddenStates(nn.Module):
    """Two tensors in, one out, as an exported graph wants it."""

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
    log.setLevel(logging.ERROR)  # it names operators of torchvision that nobody asked for
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's exporter calls what torch itself has deprecated
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
    """One that can be asked for by name, the modules it needs (its own the last) and how it is made."""

    name: str
    modules: tuple[str, ...]
    make: Callable[[Setting], Contestant]

    @property
    def package(self) -> str:
        return self.modules[-1]

    @property
    def lacks(self) -> str | None:
        """What to install, if anything is missing."""
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
    """Those of these names beside transformers, which is always measured; `all` is all.

    Raises:
        ConfigError: there is no such peer.
    """
    known = {peer.name: peer for peer in PEERS}
    for name in names:
        if name not in (*known, TRANSFORMERS, "all"):
            raise ConfigError(f"There is no peer {name!r}; choose all, or any of: {TRANSFORMERS}, {', '.join(known)}.")
    return PEERS if "all" in names else tuple(peer for peer in PEERS if peer.name in names)
