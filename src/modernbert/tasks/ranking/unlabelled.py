"""Training pairs from documents without relevance judgements: two parts of the same document."""

import re
from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np

from modernbert.config import Config
from modernbert.tasks.ranking.examples import RankingExample
from modernbert.text.collection import Document
from modernbert.text.records import Origin

PairKind = Literal["title", "sentence", "crop"]

_SENTENCE = re.compile(r".+?(?:[.!?。！？]+(?=\s|$)|\n|  +|(?<=[。！？])|$)", re.S)
_MIN_QUERY_WORDS = 4
_KEEP_PROBABILITY = 0.1  # of the query's sentence in its passage (Lee et al. 2019, arXiv 1906.00300)


class Unlabelled(Config):
    """Which pairs, and how many, are created from each document."""

    kinds: tuple[PairKind, ...] = ("title", "sentence", "crop")  # what the two texts of a pair are
    per_document: int = 4  # number of sentences, and of pairs of crops
    crop: tuple[float, float] = (0.1, 0.5)  # length of a crop as a fraction of the document: least and most


def unlabelled_pairs(
    documents: Iterable[Document], settings: Unlabelled, seed: int, name: str = "corpus"
) -> Iterator[RankingExample]:
    """Pairs from each document; they depend only on its index and the seed.

    `title`: the title is the query, the text its document. `sentence`: a sentence is the query, the text around it the
    document (inverse cloze task). `crop`: two random parts of a text (Izacard et al. 2022, Contriever,
    arXiv 2112.09118).
    """
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
