"""Train a tokenizer for a language or a domain with the special tokens of ModernBERT, and measure how well one fits."""

import json
import logging
import time
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from modernbert.errors import DataError
from modernbert.files import atomic_directory
from modernbert.text.tokenizer import SpecialTokens, Vocabulary, read_object

logger = logging.getLogger(__name__)

Kind = Literal["bpe", "unigram"]

SPECIAL_TOKENS = ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]")
_SPACES = [" " * n for n in range(24, 1, -1)]  # one token for each run of spaces, so that code has few tokens
# A word with the space before it, digits, punctuation, line breaks, other white space. For Unigram, whose tokens stay
# inside one match; byte-level BPE has its own pattern.
_WORDS = Regex(r" ?[\p{L}\p{M}]+| ?\p{N}+| ?[^\s\p{L}\p{M}\p{N}]+|[\r\n]+|[^\S\r\n]+(?=\S)|\s+")


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
