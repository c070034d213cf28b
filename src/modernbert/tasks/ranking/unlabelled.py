"""Training pairs from documents without relevance judgements: parts of the same document belong together."""

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
_LEAST_WORDS = 4  # the shortest query
_KEPT = 0.1  # probability that the query's sentence stays in its passage (Lee et al. 2019, arXiv 1906.00300)


class Unlabelled(Config):
    """Which pairs are made of each document, and how many."""

    kinds: tuple[PairKind, ...] = ("title", "sentence", "crop")  # what the two texts of a pair are
    per_document: int = 4  # number of sentences, and of pairs of crops
    crop: tuple[float, float] = (0.1, 0.5)  # length of a crop as a fraction of the document: least and most


def unlabelled_pairs(
    documents: Iterable[Document], settings: Unlabelled, seed: int, name: str = "corpus"
) -> Iterator[RankingExample]:
    """Pairs from each document; they depend only on its place and the seed.

    `title`: the title is the query, the text its document. `sentence`: a sentence is the query, the passage around it
    the document (inverse cloze task). `crop`: two random parts of a text (Izacard et al. 2022, Contriever,
    arXiv 2112.09118).
    """
    for number, document in enumerate(documents):
        draw = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, number))))
        found: list[tuple[str, str]] = []
        if "title" in settings.kinds and document.title and document.text:
            found.append((document.title, document.text))
        for _ in range(settings.per_document):
            if "sentence" in settings.kinds:
                found += _sentence(document, draw)
            if "crop" in settings.kinds:
                found += _crops(document, settings.crop, draw)
        for query, passage in found:
            yield RankingExample(query, (passage,), None, Origin(name, number + 1), (document.content,))


def sentences(text: str) -> list[str]:
    """The sentences of a text, split at punctuation, line ends and wide gaps."""
    return [" ".join(found.split()) for found in _SENTENCE.findall(text) if found.strip()]


def _words(text: str) -> list[str]:
    words = text.split()
    return words if len(words) > 1 else list(text)  # no spaces: characters


def _sentence(document: Document, draw: np.random.Generator) -> list[tuple[str, str]]:
    parts = sentences(document.text)
    long = [number for number, part in enumerate(parts) if len(_words(part)) >= _LEAST_WORDS]
    if len(parts) < 2 or not long:
        return []
    chosen = int(draw.choice(long))
    kept = parts if draw.random() < _KEPT else parts[:chosen] + parts[chosen + 1 :]
    return [(parts[chosen], " ".join([document.title, *kept]).strip())]


def _crops(document: Document, bounds: tuple[float, float], draw: np.random.Generator) -> list[tuple[str, str]]:
    text = document.content
    spaced = " " in text.strip()
    words = text.split() if spaced else list(text)
    if len(words) < 3 * _LEAST_WORDS:
        return []
    parts = []
    for _ in range(2):
        length = max(_LEAST_WORDS, int(len(words) * draw.uniform(*bounds)))
        begin = int(draw.integers(0, len(words) - length + 1))
        parts.append((" " if spaced else "").join(words[begin : begin + length]))
    return [(parts[0], parts[1])]
