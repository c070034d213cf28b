"""Model folders, exactly as `transformers` reads and writes them: config.json, safetensors, tokenizer files."""

import json
import logging
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from modernbert.config import parse
from modernbert.errors import CheckpointError
from modernbert.files import written_aside
from modernbert.model.config import EncoderConfig
from modernbert.model.quantized_folder import METHOD, WEIGHTS, dequantized, is_method, quantized

logger = logging.getLogger(__name__)

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_PATTERNS = ["config.json", "*.safetensors", "model.safetensors.index.json", *TOKENIZER_FILES]


class Pretrained(nn.Module):
    """A module with `from_pretrained` and `save_pretrained`; it is made from a configuration alone."""

    architecture: ClassVar[str]
    config: EncoderConfig
    tokenizer_source: Path | None = None  # the folder that it was loaded from

    @property
    def drawn(self) -> tuple[str, ...]:
        """Modules that a folder of another model need not have: then they are drawn afresh, and that is said.

        The last one is of no use to another task, or under other labels, and is drawn then too.
        """
        return ()

    def draw(self, names: Iterable[str]) -> None:
        """Give these modules fresh weights."""

    @property
    def tied(self) -> frozenset[str]:
        """Parameters that are another one under a second name: never read from a file, never written."""
        return frozenset()

    def tie_weights(self) -> None:
        """Make the tied parameters the other ones again, after weights were assigned."""

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
        """Load a local folder, or a repository of the hub through its cache. The model comes in eval mode.

        Weights keep the dtype of the file unless `dtype` is given; those stored in int8 come in fp32. `changes` are
        fields of the configuration that are to be other than in the folder, such as the labels of a new task. A head
        that the file has and this class has not is left out for the bare encoder, a decoder of masked words for the
        head of a task. The head of a task is drawn afresh where the file has none, its classifier where the file's is
        of another task or of other labels. Every other difference is an error.

        Raises:
            CheckpointError: there is no such folder or repository, it has no safetensors, or tensors are missing,
                unexpected or of another shape (all are listed).
            ConfigError: its config.json asks for something that is not implemented.
        """
        folder = find_folder(source, revision, token, cache_dir, local_files_only)
        found = config = read_config(folder)
        if changes:
            config = parse(type(config), {**config.model_dump(), **changes}, where=str(folder))
        same_task = read_architecture(folder) in (None, cls.architecture) and config.labels == found.labels
        with torch.device("meta"):
            model = cls(config)
        tensors, fresh = _fit(model, _read_tensors(folder), folder, same_task)
        model.load_state_dict({name: x.to(device, dtype) for name, x in tensors.items()}, strict=False, assign=True)
        model.tie_weights()
        for name in fresh:
            model.get_submodule(name).to_empty(device=device).to(dtype or next(iter(tensors.values())).dtype)
        if fresh:
            model.draw(fresh)
            logger.info("%s has no %s for this task: drawn afresh, to be trained.", folder, " and ".join(fresh))
        model.tokenizer_source = folder
        return model.eval()

    def save_pretrained(self, folder: str | Path, tokenizer: str | Path | None = None, *, int8: bool = False) -> None:
        """Write a folder that `transformers` and this package load. A model folder that is there is replaced.

        The tokenizer files come from the folder `tokenizer`, or from where the model was loaded. The tied decoder is
        left out, as everywhere. With `int8` matrices are stored in int8, in a quarter of the size: such a folder loads
        in this package alone (see `quantized_folder`).

        Raises:
            DataError: `folder` exists and is not a model folder.
            CheckpointError: a weight that is to be int8 is not finite.
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
    """A model folder of named tensors, with the tokenizer files of another folder. One that is there is replaced.

    Raises:
        DataError: `folder` exists and is not a model folder.
        CheckpointError: a weight that is to be int8 is not finite.
    """
    dtype = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    values = config.to_hf() | {"architectures": [architecture], "dtype": dtype}
    if int8:
        tensors = quantized(tensors)
        values |= {"quantization_config": METHOD, "dtype": "float32"}
    with written_aside(folder, "config.json") as partial:
        (partial / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        contiguous = {name: x.detach().contiguous() for name, x in tensors.items()}
        save_file(contiguous, partial / (WEIGHTS if int8 else "model.safetensors"), metadata={"format": "pt"})
        for name in TOKENIZER_FILES:
            if tokenizer is not None and (Path(tokenizer) / name).is_file():
                shutil.copyfile(Path(tokenizer) / name, partial / name)


def find_folder(
    source: str | Path,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """The local folder of a model: itself, or the hub's snapshot in the cache.

    Raises:
        CheckpointError: neither exists.
    """
    if (Path(source) / "config.json").is_file():
        return Path(source)
    if Path(source).exists():
        raise CheckpointError(f"{source} is not a model folder: it has no config.json.")
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
            f"There is no model {str(source)!r}: no such folder here, and the hub gives none ({reason}); "
            "give the path of a model folder, or check the name and the network."
        ) from None


def read_config(folder: Path) -> EncoderConfig:
    """The configuration of a model folder."""
    values = _config_values(folder)
    if is_method(values.get("quantization_config")):  # how weights are stored says nothing of what is computed
        del values["quantization_config"]
    return EncoderConfig.from_hf(values, where=str(folder / "config.json"))


def read_architecture(folder: Path) -> str | None:
    """The name that `transformers` gives to what a folder holds, or None where its config.json does not tell."""
    names = _config_values(folder).get("architectures") or [None]
    return str(names[0]) if names[0] else None


def _config_values(folder: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / 'config.json'} cannot be read: {error}.") from None
    return values


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    index = folder / "model.safetensors.index.json"
    int8 = is_method(_config_values(folder).get("quantization_config"))
    try:
        if int8:
            if not (folder / WEIGHTS).is_file():
                raise CheckpointError(f"{folder} has no {WEIGHTS}, which its config.json names; copy it again.")
            names = [WEIGHTS]
        elif index.is_file():
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        elif (folder / "model.safetensors").is_file():
            names = ["model.safetensors"]
        else:
            pickled = sorted(path.name for path in folder.glob("*.bin"))
            hint = (
                f"; {pickled[0]} is pickled and is not read: convert it with transformers' save_pretrained"
                if pickled
                else ""
            )
            if (folder / WEIGHTS).is_file():
                hint = f"; {WEIGHTS} is read only where config.json has its quantization_config: copy both again"
            raise CheckpointError(f"{folder} has no model.safetensors{hint}.")
        tensors: dict[str, Tensor] = {}
        for name in names:
            with safe_open(folder / name, framework="pt") as file:
                tensors |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"The weights in {folder} cannot be read: {error}.") from None
    return dequantized(tensors, str(folder / WEIGHTS)) if int8 else tensors


def _fit(
    model: nn.Module, tensors: dict[str, Tensor], folder: Path, same_task: bool
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors under the names of this model: with or without `model.`, the tied decoder left out.

    And which of the modules in `drawn` are to be drawn.
    """
    wanted = model.state_dict()
    bare = "embeddings.tok_embeddings.weight" in tensors
    if "embeddings.tok_embeddings.weight" in wanted and not bare:  # the bare encoder from a model with a head
        prefix = "model."
        tensors = {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
    elif "model.embeddings.tok_embeddings.weight" in wanted and bare:
        tensors = {f"model.{name}": x for name, x in tensors.items()}
    assert isinstance(model, Pretrained)
    tensors = {name: x for name, x in tensors.items() if name not in model.tied}
    wanted = {name: x for name, x in wanted.items() if name not in model.tied}
    fresh = []
    for module in model.drawn:
        theirs, ours = ({n: x.shape for n, x in of.items() if n.startswith(f"{module}.")} for of in (tensors, wanted))
        if not theirs or (module == model.drawn[-1] and not same_task):
            fresh.append(module)
            tensors = {name: x for name, x in tensors.items() if name not in theirs}
            wanted = {name: x for name, x in wanted.items() if name not in ours}
    if model.drawn:
        tensors = {name: x for name, x in tensors.items() if not name.startswith("decoder.")}
    problems = [f"missing {name}" for name in wanted if name not in tensors]
    problems += [f"unexpected {name}" for name in tensors if name not in wanted]
    problems += [
        f"{name} is {tuple(x.shape)} and should be {tuple(wanted[name].shape)}"
        for name, x in tensors.items()
        if name in wanted and x.shape != wanted[name].shape
    ]
    if problems:
        shown = "; ".join(problems[:10]) + (f"; and {len(problems) - 10} more" if len(problems) > 10 else "")
        raise CheckpointError(f"{folder} does not hold a {type(model).__name__}: {shown}.")
    return tensors, fresh
