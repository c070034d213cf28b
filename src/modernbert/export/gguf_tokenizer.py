"""A byte-level BPE tokenizer in the form of llama.cpp, or the reason why llama.cpp would tokenize text differently.

A GGUF file names one of the pre-tokenizers that are built into llama.cpp. llama.cpp's converter recognizes published
tokenizers only, by a hash of their output for one text. Here the name is derived from the pattern of the tokenizer.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from modernbert.errors import DataError
from modernbert.text.tokenizer import SpecialTokens, load_tokenizer

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # token types of GGUF
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class GGUFTokenizer:
    """Tokens by id with their types, merges, the name of the pre-tokenizer, and the ids of special tokens."""

    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    special: dict[str, int]  # bos, eos, sep, pad, mask, unk


def convert_tokenizer(folder: Path, vocab_size: int) -> GGUFTokenizer:
    """The tokenizer of a model folder for a model that embeds `vocab_size` ids.

    Raises:
        DataError: llama.cpp would tokenize text differently; the message names the reason.
    """
    tokenizer = load_tokenizer(folder)
    parts = json.loads(tokenizer.to_str())
    if reason := tokenizer_difference(parts):
        raise DataError(
            f"llama.cpp would tokenize text differently from the tokenizer of {folder} ({reason}), so no GGUF is "
            "written; choose another target, such as onnx."
        )
    added = tokenizer.get_added_tokens_decoder()
    tokens_by_id = {index: token for token, index in tokenizer.get_vocab(with_added_tokens=True).items()}
    tokens, types = [], []
    for index in range(vocab_size):
        tokens.append(tokens_by_id.get(index, f"[PAD{index}]"))
        kind = UNUSED if index not in tokens_by_id else NORMAL
        if index in added:
            kind = CONTROL if added[index].special else USER_DEFINED
        types.append(kind)
    merges = [one if isinstance(one, str) else " ".join(one) for one in parts["model"]["merges"]]
    return GGUFTokenizer(pre_tokenizer(parts) or "", tokens, types, merges, _special(tokenizer))


def pre_tokenizer(parts: Mapping[str, Any]) -> str | None:
    """The name of llama.cpp's pre-tokenizer with the pattern of this tokenizer, or None."""
    steps = _steps(parts.get("pre_tokenizer"))
    if not steps or steps[-1].get("type") != "ByteLevel" or steps[-1].get("add_prefix_space"):
        return None
    gpt2 = steps[-1].get("use_regex", True)
    if gpt2 and len(steps) == 1:
        return "modern-bert"  # the pattern of GPT-2
    if gpt2 and len(steps) == 2 and steps[0] == {"type": "Digits", "individual_digits": True}:
        return "smollm"  # digits one by one, then the pattern of GPT-2
    if not gpt2 and len(steps) == 2 and steps[0].get("type") == "Split":
        pattern, behavior = steps[0].get("pattern", {}).get("Regex"), steps[0].get("behavior")
        if pattern == _QWEN2 and behavior == "Isolated" and not steps[0].get("invert"):
            return "qwen2"
    return None


def tokenizer_difference(parts: Mapping[str, Any]) -> str | None:
    """Why llama.cpp would not give the same ids, or None if it would."""
    model = parts["model"]
    if model.get("type") != "BPE":
        return f"its model is {model.get('type')}, not byte-level BPE"
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges"):
        if model.get(key):
            return f"it does not support {key} = {model[key]!r}"
    normalizers = [one.get("type") for one in _steps(parts.get("normalizer"))]
    if others := [name for name in normalizers if name != "NFC"]:
        return f"it has no normalizer {others[0]}"
    if pre_tokenizer(parts) is None:
        return "it has no pre-tokenizer with this pattern"
    for token in parts["added_tokens"]:
        if token["rstrip"] or token["single_word"] or (token["lstrip"] and token["content"] != "[MASK]"):
            return f"it does not strip spaces around the token {token['content']!r} in the same way"
    return None


def _steps(part: Any) -> list[dict[str, Any]]:
    """The steps of a Sequence, or the single step."""
    if part is None:
        return []
    if part.get("type") == "Sequence":
        inner = part.get("pretokenizers", part.get("normalizers", []))
        return [step for one in inner for step in _steps(one)]
    return [part]


def _special(tokenizer: Tokenizer) -> dict[str, int]:
    names = SpecialTokens.of(tokenizer)
    parts = {
        "bos": names.cls, "eos": names.sep, "sep": names.sep, "pad": names.pad, "mask": names.mask, "unk": names.unk,
    }  # fmt: skip
    ids = {part: tokenizer.token_to_id(name) for part, name in parts.items() if name is not None}
    return {part: index for part, index in ids.items() if index is not None}
