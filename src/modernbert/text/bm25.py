"""BM25: the package bm25s, and the words that BM25 counts in each language."""

import logging
from collections.abc import Sequence
from typing import Any, Literal

import regex

from modernbert.errors import ConfigError
from modernbert.installation import install_command

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
    """The words of each text: with "en", stems without stop words; with any other language, as `words_of`.

    Raises:
        ConfigError: a package is not installed.
    """
    if language != "en":
        return [words_of(text) for text in texts]
    try:
        import Stemmer
    except ImportError:
        raise ConfigError(f"BM25 of English needs PyStemmer: {install_command('retrieval')}.") from None
    words: list[list[str]] = load_bm25s().tokenize(
        list(texts), stopwords="en", stemmer=Stemmer.Stemmer("english"), return_ids=False, show_progress=False
    )
    return words


def language_of(texts: Sequence[str]) -> Literal["en", "any"]:
    """The language for `bm25_words`: "any" if a tenth of the sampled letters have no spaces, else "en"."""
    sample = "".join(text[:_SAMPLE_CHARACTERS] for text in texts[:: max(1, len(texts) // _SAMPLE_TEXTS)])
    unspaced = sum(len(part) for part in _UNSPACED.findall(sample))
    return "any" if 10 * unspaced > sum(len(word) for word in _WORD.findall(sample)) else "en"


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
