"""BM25: the package bm25s, and the words that BM25 counts in each language."""

import logging
from collections.abc import Sequence
from typing import Any, Literal

import regex

from modernbert.errors import ConfigError
from modernbert.installation import install_command

ENGLISH_STOP_WORDS = frozenset({  # those of Lucene and bm25s
    "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it", "no", "not",
    "of", "on", "or", "such", "that", "the", "their", "then", "there", "these", "they", "this", "to", "was",
    "will", "with",
})  # fmt: skip
_ENGLISH = 0.15  # share of stop words from which a text is English
_WORD = regex.compile(r"[\p{L}\p{M}\p{N}_]+")
_SAMPLE_TEXTS, _SAMPLE_CHARACTERS = 1000, 1000
_UNSPACED = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}ー々]+")


def load_bm25s(alternative: str = "") -> Any:
    """The module bm25s. `alternative` completes the message, such as "or --no-bm25".

    Raises:
        ConfigError: the package is not installed.
    """
    try:
        import bm25s
    except ImportError:
        rest = f", {alternative}" if alternative else ""
        raise ConfigError(f"BM25 needs the package bm25s: {install_command('retrieval')}{rest}.") from None
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it logs every step of an index
    return bm25s


def bm25_words(texts: Sequence[str], language: str) -> list[list[str]]:
    """The words of each text as `words_of`; with "en", their stems without stop words and single characters.

    Raises:
        ConfigError: a package is not installed.
    """
    words = [words_of(text) for text in texts]
    return english_stems(words) if language == "en" else words


def english_stems(texts: Sequence[Sequence[str]]) -> list[list[str]]:
    """The stems (Snowball) of the words of each text, without English stop words and single characters.

    Raises:
        ConfigError: a package is not installed.
    """
    try:
        import Stemmer
    except ImportError:
        raise ConfigError(f"BM25 of English needs PyStemmer: {install_command('retrieval')}.") from None
    stemmer = Stemmer.Stemmer("english")
    return [
        stemmer.stemWords([word for word in words if len(word) > 1 and word not in ENGLISH_STOP_WORDS])
        for words in texts
    ]


def language_of(texts: Sequence[str]) -> Literal["en", "any"]:
    """The language for `bm25_words`: "en" if English stop words are at least 15 % of the words of a sample, else "any".

    The abstracts of Cranfield and CISI have 36 % of them, the Python functions of CoSQA 17 %. Texts of which a tenth of
    the letters belongs to scripts without spaces are "any" in any case.
    """
    sample = [text[:_SAMPLE_CHARACTERS] for text in texts[:: max(1, len(texts) // _SAMPLE_TEXTS)]]
    joined = "".join(sample)
    unspaced = sum(len(part) for part in _UNSPACED.findall(joined))
    if 10 * unspaced > sum(len(word) for word in _WORD.findall(joined)):
        return "any"
    words = [word for text in sample for word in words_of(text)]
    return "en" if sum(word in ENGLISH_STOP_WORDS for word in words) >= _ENGLISH * len(words) else "any"


def words_of(text: str) -> list[str]:
    """Lower-case words of any language. In scripts without spaces, every two neighbouring characters are a word.

    Bigrams are the usual replacement for words there (Nie et al. 2000, for Chinese). A single character is a word.
    """
    words: list[str] = []
    for match in _WORD.finditer(text.casefold()):
        begin = 0
        word = match.group()
        for part in _UNSPACED.finditer(word):
            if part.start() > begin:
                words.append(word[begin : part.start()])
            characters = part.group()
            words += [characters[n : n + 2] for n in range(max(1, len(characters) - 1))]
            begin = part.end()
        if begin < len(word):
            words.append(word[begin:])
    return words
