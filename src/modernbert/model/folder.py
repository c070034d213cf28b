"""Model folders in the format of `transformers`: config.json, safetensors, tokenizer files."""

import functools
import json
import logging
import math
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from modernbert.config import parse
from modernbert.errors import CheckpointError, ConfigError, DataError
from modernbert.files import atomic_directory, complete_pending_write
from modernbert.model.config import EncoderConfig
from modernbert.model.quantized_folder import INT8_WEIGHTS, METHOD, dequantized, is_method, quantized

logger = logging.getLogger(__name__)

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_ROUTER = "router_config.json"  # of a retrieval model whose encoder may be in a subfolder
RETRIEVAL_FILES = ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json", _ROUTER)
_PATTERNS = [
    *("config.json", "*.safetensors", _INDEX, *TOKENIZER_FILES, *RETRIEVAL_FILES, "*/config.json"),
    *(f"*/{name}" for name in (*TOKENIZER_FILES, "sentence_bert_config.json")),
]
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


class Pretrained(nn.Module):
    """A module with `from_pretrained` and `save_pretrained`, constructed from a configuration."""

    architecture: ClassVar[str]
    config: EncoderConfig
    tokenizer_source: Path | None = None  # the folder from which the model was loaded

    @property
    def optional_modules(self) -> tuple[str, ...]:
        """Modules that a folder of another model may lack; they are then initialized randomly, and this is logged.

        The last one is also initialized randomly for another task or other labels.
        """
        return ()

    def reinitialize(self, names: Iterable[str]) -> None:
        """Give these modules new random weights."""

    @property
    def tied(self) -> frozenset[str]:
        """Parameters that share the tensor of another one. They are neither read from a file nor written."""
        return frozenset()

    def tie_weights(self) -> None:
        """Tie the parameters again, after weights were assigned."""

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        changes: Mapping[str, Any] | None = None,
    ) -> Self:
        """Load a local folder, or a repository of the hub through its cache. The model is in eval mode.

        Weights keep the dtype of the file unless `dtype` is given (with several dtypes, the one that can represent all
        values; int8 becomes fp32). `changes` are fields of the configuration that differ from the folder, such as the
        labels of a new task. A plain encoder ignores a head in the file, and a task head ignores a masked-LM decoder.
        The head of a task is initialized randomly if the file has none. The classifier is also initialized randomly if
        that of the file has another task or other labels. Any other difference is an error.

        Raises:
            CheckpointError: the folder or repository does not exist or has no safetensors, tensors are missing,
                unexpected or of another shape (all are listed), or they are not finite floating-point numbers.
            ConfigError: its config.json uses an option that is not implemented, or weights cannot have this `dtype`.
        """
        folder = find_folder(source, revision, token, cache_dir, local_files_only)
        found = config = read_config(folder)
        if changes:
            config = parse(type(config), {**config.model_dump(), **changes}, where=str(folder))
        same_task = read_architecture(folder) in (None, cls.architecture) and config.labels == found.labels
        with torch.device("meta"):
            model = cls(config)
        tensors, untrained = _match_tensors(model, read_tensors(folder), folder, same_task)
        file_dtype = common_dtype(tensors, folder)
        dtype = dtype or file_dtype
        if dtype not in _DTYPES:
            raise ConfigError(f"Weights cannot have dtype {dtype!r}; choose torch.float32, bfloat16 or float16.")
        check_numbers(tensors, dtype, folder)
        model.load_state_dict({name: x.to(device, dtype) for name, x in tensors.items()}, strict=False, assign=True)
        model.tie_weights()
        for name in untrained:
            model.get_submodule(name).to_empty(device=device).to(dtype)
        if untrained:
            model.reinitialize(untrained)
            logger.info("%s has no %s for this task: initialized randomly.", folder, " and ".join(untrained))
        model.tokenizer_source = folder
        return model.eval()

    def save_pretrained(self, folder: str | Path, tokenizer: str | Path | None = None, *, int8: bool = False) -> None:
        """Write a folder that `transformers` and this package load. In an existing folder, the files of a model are
        replaced, and other files stay.

        The tokenizer files come from the folder `tokenizer`, or from the folder of the model. The tied decoder is not
        written. With `int8`, matrices are stored in int8, a quarter of the size; only this package can load such a
        folder (see `quantized_folder`).

        Raises:
            DataError: `folder` is a file, or its config.json does not describe a model.
            CheckpointError: the folder cannot be written (earlier files are unchanged), or a weight that becomes
                int8 is not finite.
        """
        tensors = {name: x for name, x in self.state_dict().items() if name not in self.tied}
        write_folder(Path(folder), self.architecture, self.config, tensors, tokenizer or self.tokenizer_source, int8)


def write_folder(
    folder: Path,
    architecture: str,
    config: EncoderConfig,
    tensors: Mapping[str, Tensor],
    tokenizer: str | Path | None,
    int8: bool = False,
) -> None:
    """Write a model folder of named tensors, with the tokenizer files of the folder `tokenizer`.

    The files of a model in an existing folder are replaced, and other files stay.

    Raises:
        DataError: `folder` is a file, or its config.json does not describe a model.
        CheckpointError: the folder cannot be written (earlier files are unchanged), or a weight that becomes int8
            is not finite.
    """
    if (folder / "config.json").exists() and not describes_model(folder / "config.json"):
        raise DataError(f"{folder / 'config.json'} does not describe a model; choose another folder.")
    try:
        with atomic_directory(folder, owned_names=weights_in(folder)) as partial:
            write_files(partial, architecture, config, tensors, tokenizer, int8)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"The model folder {folder} cannot be written ({error}); free disk space, or choose another folder."
        ) from None


def write_files(
    folder: Path,
    architecture: str,
    config: EncoderConfig,
    tensors: Mapping[str, Tensor],
    tokenizer: str | Path | None,
    int8: bool = False,
) -> None:
    """Write the files of `write_folder` into an empty folder."""
    dtype = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    values = config.to_hf() | {"architectures": [architecture], "dtype": dtype}
    if int8:
        tensors = quantized(tensors)
        values |= {"quantization_config": METHOD, "dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    contiguous = {name: x.detach().contiguous() for name, x in tensors.items()}
    save_file(contiguous, folder / (INT8_WEIGHTS if int8 else _WEIGHTS), metadata={"format": "pt"})
    for name in TOKENIZER_FILES:
        if tokenizer is not None and (Path(tokenizer) / name).is_file():
            shutil.copyfile(Path(tokenizer) / name, folder / name)
    _limit_length(
        folder / "tokenizer_config.json",
        (config.modernbert_task or {}).get("max_length") or config.max_position_embeddings,
    )


def _limit_length(path: Path, max_length: int) -> None:
    """Write the maximum length into the tokenizer's configuration, from which other libraries read it."""
    if path.is_file():
        values = read_json(path) | {"model_max_length": max_length}
        path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def describes_model(path: Path) -> bool:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and ("model_type" in values or "architectures" in values)


def weights_in(folder: Path) -> list[str]:
    """All weight files of a folder, in any format, which the next model must replace."""
    try:
        shard_names = _shard_names(folder / _INDEX) if (folder / _INDEX).is_file() else []
    except CheckpointError:
        shard_names = []
    return [_WEIGHTS, INT8_WEIGHTS, _INDEX, *shard_names]


def find_folder(
    source: str | Path,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """The local folder of a model: the folder itself, or the snapshot of the hub in the cache.

    Raises:
        CheckpointError: neither exists.
    """
    if not isinstance(source, str | os.PathLike):
        raise CheckpointError(f"{source!r} should be the path of a model folder, or the name of a model on the hub.")
    if max(map(len, str(source).split("/"))) > 255:
        raise CheckpointError(f"The name of this model folder is too long: {str(source)[:60]!r}...")
    if str(source).strip() and Path(source).is_dir():
        complete_pending_write(Path(source))
    if any((Path(source) / name).is_file() for name in ("config.json", _ROUTER)):
        return Path(source)
    if not str(source).strip() or Path(source).exists():
        raise CheckpointError(f"{str(source)!r} is not a model folder: it has no config.json.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(
            snapshot_download(
                str(source),
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                allow_patterns=_PATTERNS,
            )
        )
    except (HFValidationError, HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"There is no model {str(source)!r}: no such folder, and no such model on the hub ({reason}); "
            "give the path of a model folder, or check the name and the network."
        ) from None


def read_config(folder: Path) -> EncoderConfig:
    """The configuration of a model folder."""
    values = _config_values(folder)
    if is_method(values.get("quantization_config")):  # the storage format of weights does not change the model
        del values["quantization_config"]
    return EncoderConfig.from_hf(values, where=str(folder / "config.json"))


def read_architecture(folder: Path) -> str | None:
    """The class name of `transformers` in config.json, or None."""
    names = _config_values(folder).get("architectures")
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) and names[0] else None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a model folder.

    Raises:
        CheckpointError: it cannot be read, or is not an object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from None
    except RecursionError:
        raise CheckpointError(f"{path} cannot be read: it is nested too deeply.") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds a {type(values).__name__}, not an object with keys.")
    return values


def common_dtype(tensors: Mapping[str, Tensor], source: str | Path) -> torch.dtype:
    """The dtype of all tensors; with several, the one that can represent all values, which is logged.

    Raises:
        CheckpointError: a tensor does not have a floating-point dtype of at least 16 bits.
    """
    for name, x in tensors.items():
        if x.dtype not in _DTYPES:
            kind = str(x.dtype).removeprefix("torch.")
            raise CheckpointError(
                f"{source} holds {name} in {kind}; only float32, bfloat16 and float16 are supported: convert it with "
                "the program that wrote it."
            )
    found = list(dict.fromkeys(x.dtype for x in tensors.values()))
    dtype = functools.reduce(torch.promote_types, found)
    if len(found) > 1:
        names = " and ".join(sorted(str(one).removeprefix("torch.") for one in found))
        logger.info("%s has weights in %s; all are loaded in %s.", source, names, str(dtype).removeprefix("torch."))
    return dtype


def check_numbers(tensors: Mapping[str, Tensor], dtype: torch.dtype, source: str | Path) -> None:
    """Check that weights have no NaN or infinity, and no number too large for `dtype`.

    Raises:
        CheckpointError: a tensor has such a value.
    """
    for name, x in tensors.items():
        if not x.numel():
            continue
        low, high = (float(value) for value in x.detach().aminmax())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise CheckpointError(
                f"{source} is damaged: {name} holds NaN or infinity. If a training run wrote it, that run diverged; "
                "use an earlier checkpoint."
            )
        if dtype.is_floating_point and max(-low, high) > torch.finfo(dtype).max:
            kind = str(dtype).removeprefix("torch.")
            raise CheckpointError(f"{source}: {name} holds {max(-low, high):g}, too large for {kind}; choose bfloat16.")


def _config_values(folder: Path) -> dict[str, Any]:
    return read_json(folder / "config.json")


def _shard_names(index: Path) -> list[str]:
    """The files in an index, all in the folder of the index.

    Raises:
        CheckpointError: it is not an index, or names a file elsewhere.
    """
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict) or not named or not all(isinstance(name, str) for name in named.values()):
        raise CheckpointError(f"{index} has no weight_map that names a file for each tensor.")
    for name in named.values():
        path = Path(name)
        if path.is_absolute() or ".." in path.parts or not path.name or "\0" in name:
            raise CheckpointError(
                f"{index} names {name!r}, which is not in its folder; weights must be in the same folder."
            )
    return sorted(set(named.values()))


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder by their names in the file, int8 ones converted to fp32.

    Raises:
        CheckpointError: it has no safetensors, or they are damaged.
    """
    index = folder / _INDEX
    has_config = (folder / "config.json").is_file()
    int8 = has_config and is_method(_config_values(folder).get("quantization_config"))
    if int8:
        if not (folder / INT8_WEIGHTS).is_file():
            raise CheckpointError(f"{folder} has no {INT8_WEIGHTS}, which its config.json names; copy it again.")
        names = [INT8_WEIGHTS]
    elif index.is_file():
        names = _shard_names(index)
    elif (folder / _WEIGHTS).is_file():
        names = [_WEIGHTS]
    else:
        pickled = sorted(path.name for path in folder.glob("*.bin"))
        hint = (
            f"; {pickled[0]} is pickled, which is not supported: convert it with transformers' save_pretrained"
            if pickled
            else ""
        )
        if (folder / INT8_WEIGHTS).is_file():
            hint = f"; {INT8_WEIGHTS} is read only if config.json has its quantization_config: copy both again"
        raise CheckpointError(f"{folder} has no {_WEIGHTS}{hint}.")
    tensors: dict[str, Tensor] = {}
    try:
        for name in names:
            with safe_open(folder / name, framework="pt") as file:
                tensors |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError, SafetensorError) as error:
        raise CheckpointError(f"The weights in {folder} cannot be read: {error}.") from None
    return dequantized(tensors, str(folder / INT8_WEIGHTS)) if int8 else tensors


def _match_tensors(
    model: nn.Module, tensors: dict[str, Tensor], folder: Path, same_task: bool
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors with the names of this model (with or without `model.`), without the tied decoder.

    Also returns the names of `optional_modules` that have to be initialized randomly.
    """
    required = model.state_dict()
    bare = "embeddings.tok_embeddings.weight" in tensors
    if "embeddings.tok_embeddings.weight" in required and not bare:  # the bare encoder from a model with a head
        prefix = "model."
        tensors = {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
    elif "model.embeddings.tok_embeddings.weight" in required and bare:
        tensors = {f"model.{name}": x for name, x in tensors.items()}
    assert isinstance(model, Pretrained)
    tensors = {name: x for name, x in tensors.items() if name not in model.tied}
    required = {name: x for name, x in required.items() if name not in model.tied}
    untrained = []
    for module in model.optional_modules:
        given, expected = (
            {n: x.shape for n, x in of.items() if n.startswith(f"{module}.")} for of in (tensors, required)
        )
        if not given or (module == model.optional_modules[-1] and not same_task):
            untrained.append(module)
            tensors = {name: x for name, x in tensors.items() if name not in given}
            required = {name: x for name, x in required.items() if name not in expected}
    if model.optional_modules:
        tensors = {name: x for name, x in tensors.items() if not name.startswith("decoder.")}
    problems = [f"missing {name}" for name in required if name not in tensors]
    problems += [f"unexpected {name}" for name in tensors if name not in required]
    problems += [
        f"{name} is {tuple(x.shape)} but should be {tuple(required[name].shape)}"
        for name, x in tensors.items()
        if name in required and x.shape != required[name].shape
    ]
    if problems:
        shown = "; ".join(problems[:10]) + (f"; and {len(problems) - 10} more" if len(problems) > 10 else "")
        raise CheckpointError(f"{folder} does not hold a {type(model).__name__}: {shown}.")
    return tensors, untrained
