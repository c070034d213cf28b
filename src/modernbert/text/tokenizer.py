"""Tokenizers of model folders: loading, their special tokens and their vocabulary."""

import contextlib
import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, normalizers

from modernbert.errors import DataError
from modernbert.files import complete_pending_write

logger = logging.getLogger(__name__)

_ATTRIBUTE = "special_tokens_of_folder"  # set on a Tokenizer, which allows attributes but no subclass
# For each role of a special token: its keys in special_tokens_map.json and tokenizer_config.json, then default names.
_ROLES = {
    "cls": (("cls_token", "bos_token"), ("[CLS]", "<cls>", "<s>")),
    "sep": (("sep_token", "eos_token"), ("[SEP]", "<sep>", "</s>")),
    "pad": (("pad_token",), ("[PAD]", "<pad>")),
    "mask": (("mask_token",), ("[MASK]", "<mask>")),
    "unk": (("unk_token",), ("[UNK]", "<unk>")),
}
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_UNUSED = re.compile(r"\[unused\d+\]")


@dataclass(frozen=True)
class SpecialTokens:
    """The special tokens of a tokenizer by their role, whatever their names."""

    cls: str  # begins every sequence
    sep: str  # ends every sequence, and separates the texts of a pair
    pad: str
    mask: str
    unk: str | None  # byte-level tokenizers need none

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "SpecialTokens":
        """Those that `load_tokenizer` found in the folder, or those of the tokenizer itself."""
        tokens = getattr(tokenizer, _ATTRIBUTE, None)
        return tokens if isinstance(tokens, cls) else _special_tokens(tokenizer, [])


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """What data and model need to know about a tokenizer."""

    size: int
    cls_id: int
    sep_id: int
    pad_id: int
    mask_id: int
    special: npt.NDArray[np.bool_]  # (size,) special and unused tokens, ids without a token: never masked or sampled
    byte_lengths: npt.NDArray[np.int32]  # (size,) UTF-8 bytes of a token's text, 0 for special ones

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Vocabulary":
        """The vocabulary of a tokenizer, its size rounded up to a multiple of 64."""
        tokens = tokenizer.get_vocab(with_added_tokens=True)
        size = -(-(max(tokens.values()) + 1) // 64) * 64
        added = tokenizer.get_added_tokens_decoder()
        parts = json.loads(tokenizer.to_str())
        shown = json.dumps([parts["pre_tokenizer"], parts["decoder"]], ensure_ascii=False)
        byte_level, metaspace = '"ByteLevel"' in shown, "\u2581" in shown
        names = SpecialTokens.of(tokenizer)
        cls_id, sep_id, pad_id, mask_id = (tokens[name] for name in (names.cls, names.sep, names.pad, names.mask))
        special, lengths = np.ones(size, dtype=np.bool_), np.zeros(size, dtype=np.int32)
        for token, index in tokens.items():
            if index in added and (added[index].special or _UNUSED.fullmatch(token)):
                continue
            if index in (cls_id, sep_id, pad_id, mask_id):
                continue
            special[index] = False
            if byte_level and index not in added:
                lengths[index] = len(token)  # one character is one byte
            elif _BYTE.fullmatch(token):
                lengths[index] = 1
            else:
                lengths[index] = len((token.replace("\u2581", " ") if metaspace else token).encode())
        return cls(size, cls_id, sep_id, pad_id, mask_id, special, lengths)

    @cached_property
    def ordinary(self) -> npt.NDArray[np.int64]:
        """The ids of text: random replacements are sampled from them."""
        return np.flatnonzero(~self.special)


def load_tokenizer(source: str | Path, *, revision: str | None = None, token: str | None = None) -> Tokenizer:
    """A tokenizer from a folder, a tokenizer.json, or the hub (through its cache).

    Its special tokens are those that it adds to a text, and those named in special_tokens_map.json,
    tokenizer_config.json or config.json beside it (`SpecialTokens.of`).

    Raises:
        DataError: it cannot be found or read, or has no CLS, SEP, PAD or MASK token.
    """
    path = tokenizer_file(source, revision=revision, token=token)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise DataError(f"{path} cannot be read as a tokenizer: {error}.") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    files = [path.with_name(name) for name in ("special_tokens_map.json", "tokenizer_config.json", "config.json")]
    configs = [read_object(file) for file in files if file.is_file()]
    try:
        setattr(tokenizer, _ATTRIBUTE, _special_tokens(tokenizer, configs))
    except LookupError as error:
        keys, names = _ROLES[str(error.args[0])]
        raise DataError(
            f"{path} has no {names[0]}, and no file beside it names another token for it: set {keys[0]} in "
            "tokenizer_config.json. `modernbert tokenizer train` writes a tokenizer with all special tokens."
        ) from None
    return tokenizer


def num_ids(tokenizer: Tokenizer) -> int:
    """One more than the highest id: the number of embeddings that a model needs. Ids may have gaps."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1


def check_fits(tokenizer: Tokenizer, vocab_size: int, model: str | Path) -> None:
    """Check that a model has an embedding for every token.

    Raises:
        DataError: an id has no embedding.
    """
    if (ids := num_ids(tokenizer)) > vocab_size:
        raise DataError(
            f"The tokenizer of {model} has ids up to {ids - 1}, but the model embeds {vocab_size}: use the tokenizer "
            "that it was trained with, or pretrain it further with this one (`modernbert pretrain --from`)."
        )


def _special_tokens(tokenizer: Tokenizer, configs: Sequence[Mapping[str, Any]]) -> SpecialTokens:
    """Tokens that the tokenizer adds come first, since the model was trained with them; then those of the configs.

    Raises:
        LookupError: no token has a role; the argument is the role.
    """
    framed = tokenizer.encode("a")
    tokens: dict[str, str] = {}
    if tokenizer.num_special_tokens_to_add(False) == 2 and [
        *framed.special_tokens_mask[:1],
        *framed.special_tokens_mask[-1:],
    ] == [1, 1]:
        tokens = {"cls": framed.tokens[0], "sep": framed.tokens[-1]}
    for role, (keys, names) in _ROLES.items():
        candidates = [values.get(key) for key in keys for values in configs]
        candidates += [_token_of(tokenizer, values.get(f"{key}_id")) for key in keys for values in configs]
        for candidate in [*candidates, *names]:
            name = candidate.get("content") if isinstance(candidate, dict) else candidate
            if role not in tokens and isinstance(name, str) and tokenizer.token_to_id(name) is not None:
                tokens[role] = name
        if role not in tokens and role != "unk":
            raise LookupError(role)
    return SpecialTokens(tokens["cls"], tokens["sep"], tokens["pad"], tokens["mask"], tokens.get("unk"))


def _token_of(tokenizer: Tokenizer, index: object) -> str | None:
    known = isinstance(index, int) and 0 <= index < 1 << 32
    return tokenizer.id_to_token(index) if known else None  # type: ignore[arg-type]  # bool is harmless


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file beside a tokenizer.

    Raises:
        DataError: it cannot be read, or is something else.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from None
    if not isinstance(values, dict):
        raise DataError(f"{path} holds a {type(values).__name__} and not an object with keys.")
    return values


def tokenizer_file(source: str | Path, *, revision: str | None = None, token: str | None = None) -> Path:
    """The path of tokenizer.json in a folder, a file or a hub repository.

    Raises:
        DataError: there is no tokenizer.
    """
    path = Path(source)
    if path.is_file():
        return path
    complete_pending_write(path)
    if (path / "tokenizer.json").is_file():
        return path / "tokenizer.json"
    if path.is_dir():
        raise DataError(f"{path} has no tokenizer.json.")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    try:
        downloaded = hf_hub_download(str(source), "tokenizer.json", revision=revision, token=token)
        for name in ("tokenizer_config.json", "special_tokens_map.json", "config.json"):  # not every repository has all
            with contextlib.suppress(EntryNotFoundError):
                hf_hub_download(str(source), name, revision=revision, token=token)
    except (HFValidationError, HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise DataError(
            f"There is no tokenizer {str(source)!r}, neither as a local folder nor on the hub ({reason}); "
            "give the path of a tokenizer folder, or check the name and the network."
        ) from None
    return Path(downloaded)


def sha256(source: str | Path) -> str:
    """The hash of a tokenizer.json, which the manifest of shards records."""
    return hashlib.sha256(tokenizer_file(source).read_bytes()).hexdigest()


def with_prompt_special_tokens(tokenizer: Tokenizer, prompt: str, *, lower_case: bool = False) -> Tokenizer:
    """A copy that recognizes the special tokens of `prompt` in any text, and reads other special tokens as text.

    With `lower_case`, it lower-cases texts first.
    """
    values = json.loads(tokenizer.to_str())
    for token in values["added_tokens"]:
        if token["content"] in prompt:
            token["special"] = False  # tokens that are not special are recognized although special tokens are text
    copy = Tokenizer.from_str(json.dumps(values))
    if lower_case:
        rest = [] if copy.normalizer is None else [copy.normalizer]
        copy.normalizer = normalizers.Sequence([normalizers.Lowercase(), *rest])
    copy.encode_special_tokens = True
    setattr(copy, _ATTRIBUTE, SpecialTokens.of(tokenizer))
    return copy
