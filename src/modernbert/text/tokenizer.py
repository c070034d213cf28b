"""Tokenizers with ModernBERT's special tokens: load the published one, or train one for a language or a domain."""

import contextlib
import hashlib
import json
import logging
import re
import time
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from modernbert.errors import DataError
from modernbert.files import atomic_directory, settle

logger = logging.getLogger(__name__)

Kind = Literal["bpe", "unigram"]

SPECIAL_TOKENS = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")
_SPACES = [" " * n for n in range(24, 1, -1)]  # one token for each run of spaces, so that code has few tokens
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
# A word with the space before it, digits, punctuation, line breaks, other white space. For Unigram, whose tokens stay
# inside one match; byte-level BPE has its own pattern.
_WORDS = Regex(r" ?[\p{L}\p{M}]+| ?\p{N}+| ?[^\s\p{L}\p{M}\p{N}]+|[\r\n]+|[^\S\r\n]+(?=\S)|\s+")


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
    settle(path)
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


def train_tokenizer(texts: Iterable[str], output: str | Path, *, vocab_size: int, kind: Kind = "bpe") -> Tokenizer:
    """Train a tokenizer and write its folder, which `transformers` loads too.

    `bpe` is byte-level BPE as published (arXiv 2412.13663, section 2.1.3); the same texts give the same file. `unigram`
    (Kudo 2018, arXiv 1804.10959) works on characters, with bytes for unknown ones, for languages without spaces; the
    library visits words in random order, so two runs may differ in rare tokens. Both decode every text exactly, up to
    NFC. `vocab_size` includes all tokens and is rounded up to a multiple of 64; entries that the texts cannot fill are
    [unusedN].

    In an existing folder, the tokenizer is replaced, and other files stay.

    Raises:
        DataError: there is no text, the vocabulary is too small, or `output` holds a model, which needs its own
            tokenizer, or a tokenizer.json that is not one.
    """
    _check_output(Path(output))
    size = -(-vocab_size // 64) * 64
    if size != vocab_size:
        logger.info("The vocabulary is rounded up from %d to %d, a multiple of 64.", vocab_size, size)
    learned = size - len(SPECIAL_TOKENS) - len(_SPACES)
    if learned < 257:
        raise DataError(f"A vocabulary of {vocab_size} is too small: 256 bytes and the special tokens need 320.")
    tokenizer = (_train_bpe if kind == "bpe" else _train_unigram)(_counted(texts), learned)
    tokenizer.add_tokens([AddedToken(run, normalized=True) for run in _SPACES])
    tokenizer.add_special_tokens([AddedToken(name, special=True, lstrip=name == "[MASK]") for name in SPECIAL_TOKENS])
    unused = size - tokenizer.get_vocab_size(with_added_tokens=True)
    tokenizer.add_tokens([AddedToken(f"[unused{i}]", normalized=True) for i in range(unused)])
    cls_id, sep_id = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:0 [SEP]:0",
        special_tokens=[("[CLS]", cls_id), ("[SEP]", sep_id)],
    )
    with atomic_directory(Path(output)) as partial:
        tokenizer.save(str(partial / "tokenizer.json"))
        for name, value in _companions().items():
            (partial / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    return tokenizer


def _check_output(output: Path) -> None:
    """Check that writing a tokenizer would not replace a file that is needed."""
    for path in (*output.glob("*.safetensors"), *output.glob("*.safetensors.index.json")):
        raise DataError(f"{output} holds a model ({path.name}), which needs its own tokenizer; choose another folder.")
    path = output / "tokenizer.json"
    if path.is_file() and "model" not in read_object(path):
        raise DataError(f"{path} is not a tokenizer and would be lost; choose another folder.")


def _counted(texts: Iterable[str]) -> Iterator[str]:
    from modernbert.progress import Progress

    with Progress(unit="B", unit_scale=True, desc="reading text") as progress:
        for text in texts:
            progress.update(len(text.encode("utf-8", "ignore")))
            yield text


def _train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _train_unigram(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(_WORDS, "isolated")
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size - len(bytes_), special_tokens=["[UNK]"], unk_token="[UNK]", show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    entries = [(token, score) for token, score in json.loads(tokenizer.to_str())["model"]["vocab"] if token != "[UNK]"]
    lowest = min((score for _, score in entries), default=0.0)
    entries.sort(key=lambda token: (-token[1], token[0]))
    vocabulary = [("[UNK]", 0.0), *((byte, lowest - 100.0) for byte in bytes_), *entries]
    tokenizer.model = models.Unigram(vocabulary, unk_id=0, byte_fallback=True)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def _companions() -> dict[str, dict[str, Any]]:
    """The files that `AutoTokenizer` reads beside tokenizer.json."""
    named = {f"{name[1:-1].lower()}_token": name for name in SPECIAL_TOKENS}
    mask = {"content": "[MASK]", "lstrip": True, "normalized": False, "rstrip": False, "single_word": False}
    return {
        "special_tokens_map.json": named | {"mask_token": mask},
        "tokenizer_config.json": named
        | {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": 8192,
            "model_input_names": ["input_ids", "attention_mask"],
            "clean_up_tokenization_spaces": False,
        },
    }


@dataclass(frozen=True)
class TokenizerReport:
    """How well a tokenizer fits some texts."""

    documents: int
    bytes: int
    tokens: int
    bytes_per_token: float
    tokens_per_word: float
    tokens_per_character: float
    round_trip_failures: int
    first_failure: str | None
    unknown_tokens: int
    unused_entries: int
    vocab_size: int
    seconds: float
    megabytes_per_second: float


def evaluate_tokenizer(tokenizer: Tokenizer, texts: Iterable[str]) -> TokenizerReport:
    """Measure a tokenizer on texts. A round trip fails when decoding does not give the text back, up to NFC.

    Words are runs between white space; in languages without spaces look at tokens per character instead.
    """
    vocabulary = Vocabulary.of(tokenizer)
    tokenizer.encode_special_tokens = True  # "[MASK]" written in a text is text
    used = np.zeros(vocabulary.size, dtype=np.bool_)
    unknown = SpecialTokens.of(tokenizer).unk
    unknown_id = tokenizer.get_vocab(with_added_tokens=True).get(unknown or "", -1)
    documents = num_bytes = tokens = words = characters = failures = num_unknown = 0
    first: str | None = None
    seconds = 0.0
    for text in texts:
        began = time.perf_counter()
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        seconds += time.perf_counter() - began
        used[ids] = True
        documents, tokens = documents + 1, tokens + len(ids)
        num_unknown += ids.count(unknown_id)
        num_bytes += len(text.encode("utf-8", "ignore"))
        words, characters = words + len(text.split()), characters + len(text)
        if tokenizer.decode(ids, skip_special_tokens=False) != unicodedata.normalize("NFC", text):
            failures += 1
            first = first or text[:200]
    if not tokens:
        raise DataError("There is no text to evaluate the tokenizer on.")
    return TokenizerReport(
        documents=documents,
        bytes=num_bytes,
        tokens=tokens,
        bytes_per_token=num_bytes / tokens,
        tokens_per_word=tokens / max(1, words),
        tokens_per_character=tokens / characters,
        round_trip_failures=failures,
        first_failure=first,
        unknown_tokens=num_unknown,
        unused_entries=int((~used & ~vocabulary.special).sum()),
        vocab_size=vocabulary.size,
        seconds=seconds,
        megabytes_per_second=num_bytes / 1e6 / max(seconds, 1e-9),
    )


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
