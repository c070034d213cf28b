"""Training pairs from documents without relevance judgements: two parts of the same document."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Literal, Self

import numpy as np
import regex
from pydantic import model_validator

from modernbert.config import Config
from modernbert.tasks.ranking.examples import RankingExample
from modernbert.text.collection import Document
from modernbert.text.records import Origin

PairKind = Literal["title", "sentence", "crop", "keywords"]

_SENTENCE = re.compile(r".+?(?:[.!?。！？]+(?=\s|$)|\n|  +|(?<=[。！？])|$)", re.S)
# a word; in Japanese and Chinese a run of characters of the same script
_KEYWORD = regex.compile(
    r"\p{Han}[\p{Han}々]+|[\p{Katakana}ー]{2,}|(?:(?![\p{Han}\p{Hiragana}\p{Katakana}ー々])[\p{L}\p{M}\p{N}]){2,}"
)
_MIN_QUERY_WORDS = 4
_MIN_KEYWORDS = 2
_KEEP_PROBABILITY = 0.1  # of the query's sentence in its passage (Lee et al. 2019, arXiv 1906.00300)


class Unlabelled(Config):
    """Which pairs, and how many, are created from each document."""

    kinds: tuple[PairKind, ...] = ("title", "sentence", "crop")  # what the two texts of a pair are
    per_document: int = 4  # number of sentences, of pairs of crops, and of queries of keywords
    crop: tuple[float, float] = (0.1, 0.5)  # length of a crop as a fraction of the document: least and most
    keywords: tuple[int, int] = (4, 12)  # number of words of a query of keywords: least (2 or more) and most

    @model_validator(mode="after")
    def _check(self) -> Self:
        least, most = self.keywords
        if not _MIN_KEYWORDS <= least <= most:
            raise ValueError(
                f"keywords is [{least}, {most}]; give two numbers of at least {_MIN_KEYWORDS}, the lower one first"
            )
        return self


def unlabelled_pairs(
    documents: Iterable[Document], settings: Unlabelled, seed: int, name: str = "corpus"
) -> Iterator[RankingExample]:
    """Pairs from each document; they depend only on its index and the seed, those of keywords also on all documents.

    `title`: the title is the query, the text its document. `sentence`: a sentence is the query, the text around it the
    document (inverse cloze task). `crop`: two random parts of a text (Izacard et al. 2022, Contriever,
    arXiv 2112.09118). `keywords`: random words of a document are the query, rare ones more often, the document the
    other; they teach which words matter. A query has at most half of the words that are not in all documents.
    """
    documents = list(documents)
    frequencies = _document_frequencies(documents) if "keywords" in settings.kinds else Counter()
    for number, document in enumerate(documents):
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, number))))
        pairs: list[tuple[str, str]] = []
        if "title" in settings.kinds and document.title and document.text:
            pairs.append((document.title, document.text))
        for _ in range(settings.per_document):
            if "sentence" in settings.kinds:
                pairs += _sentence(document, generator)
            if "crop" in settings.kinds:
                pairs += _crops(document, settings.crop, generator)
            if "keywords" in settings.kinds:
                pairs += _keywords(document, settings.keywords, frequencies, len(documents), generator)
        for query, passage in pairs:
            yield RankingExample(query, (passage,), None, Origin(name, number + 1), (document.content,))


def sentences(text: str) -> list[str]:
    """The sentences of a text, split at punctuation, line ends and wide gaps."""
    return [" ".join(sentence.split()) for sentence in _SENTENCE.findall(text) if sentence.strip()]


def _words(text: str) -> list[str]:
    words = text.split()
    return words if len(words) > 1 else list(text)  # without spaces: characters


def _sentence(document: Document, generator: np.random.Generator) -> list[tuple[str, str]]:
    parts = sentences(document.text)
    long_enough = [number for number, part in enumerate(parts) if len(_words(part)) >= _MIN_QUERY_WORDS]
    if len(parts) < 2 or not long_enough:
        return []
    chosen = int(generator.choice(long_enough))
    passage = parts if generator.random() < _KEEP_PROBABILITY else parts[:chosen] + parts[chosen + 1 :]
    return [(parts[chosen], " ".join([document.title, *passage]).strip())]


def _crops(document: Document, bounds: tuple[float, float], generator: np.random.Generator) -> list[tuple[str, str]]:
    text = document.content
    spaced = " " in text.strip()
    words = text.split() if spaced else list(text)
    if len(words) < 3 * _MIN_QUERY_WORDS:
        return []
    parts = []
    for _ in range(2):
        length = max(_MIN_QUERY_WORDS, int(len(words) * generator.uniform(*bounds)))
        begin = int(generator.integers(0, len(words) - length + 1))
        parts.append((" " if spaced else "").join(words[begin : begin + length]))
    return [(parts[0], parts[1])]


def _document_frequencies(documents: Iterable[Document]) -> Counter[str]:
    """The number of documents that have each word."""
    return Counter(word for document in documents for word in _words_by_key(document.content))


def _words_by_key(text: str) -> dict[str, str]:
    """The different words of a text, by their lower-case forms."""
    return {word.casefold(): word for word in _KEYWORD.findall(text)}


def _keywords(
    document: Document,
    bounds: tuple[int, int],
    frequencies: Counter[str],
    documents: int,
    generator: np.random.Generator,
) -> list[tuple[str, str]]:
    """A query of words, drawn with probabilities proportional to their inverse document frequencies."""
    words = _words_by_key(document.content)
    weights = np.array([math.log(documents / frequencies[key]) for key in words])
    count = min(int(generator.integers(bounds[0], bounds[1] + 1)), int((weights > 0).sum()) // 2)
    if count < _MIN_KEYWORDS:
        return []
    chosen = generator.choice(len(words), count, replace=False, p=weights / weights.sum())
    listed = list(words.values())
    return [(" ".join(listed[index] for index in chosen), document.content)]
