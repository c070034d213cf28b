"""Filters of documents: by language, and datatrove's quality filters. This module is imported only when needed."""

import difflib
import inspect
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
    LanguageFilter,
)
from datatrove.pipeline.filters.base_filter import BaseFilter, get_filter_result
from datatrove.utils.lid import FastTextLID
from datatrove.utils.word_tokenizers import WordTokenizer, load_tokenizer_assignments, load_word_tokenizer

from modernbert.corpus.recipe import FilterName, Source
from modernbert.corpus.steps import SKIPPED
from modernbert.errors import ConfigError, DataError
from modernbert.installation import install_command

_CLASSES: dict[FilterName, type[BaseFilter]] = {
    "gopher-quality": GopherQualityFilter,
    "gopher-repetition": GopherRepetitionFilter,
    "c4": C4QualityFilter,
    "fineweb": FineWebQualityFilter,
}
_LANGUAGE_CHARACTERS = 10_000  # first characters that decide the language of a document


class FilterStep(PipelineStep):  # type: ignore[misc]
    """Apply the filters of a source, and store the name of the first one that refuses a document in its metadata."""

    name = "filters"
    type = "filter"

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.source = source

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        filters = make_filters(self.source)  # created here, as language models cannot be pickled
        for document in data:
            if SKIPPED not in document.metadata and (refusal := _refusal(filters, document)):
                document.metadata[SKIPPED] = refusal
            yield document


def _refusal(filters: Mapping[str, BaseFilter], document: Document) -> str | None:
    for name, filter_ in filters.items():
        kept, reason = get_filter_result(filter_.filter(document))
        if not kept:
            return f"{name}: {reason}" if reason else name
        if not document.text.strip():
            return f"{name}: nothing left"
    return None


class OfflineLanguageFilter(BaseFilter):  # type: ignore[misc]
    """Keep documents of one language by py3langid, which supports 139 languages with a model in its package."""

    def __init__(self, language: str, score: float) -> None:
        super().__init__()
        self.language = language
        self.score = score

    def filter(self, doc: Document) -> bool:
        language, score = _identifier().classify(doc.text[:_LANGUAGE_CHARACTERS])
        return bool(language == self.language and score >= self.score)


class Words(WordTokenizer):  # type: ignore[misc]
    """datatrove's word splitter of a language, without state, so that it can be pickled."""

    def word_tokenize(self, text: str) -> list[str]:
        return load_word_tokenizer(self.language).word_tokenize(text)

    def sent_tokenize(self, text: str) -> list[str]:
        return load_word_tokenizer(self.language).sent_tokenize(text)

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        return load_word_tokenizer(self.language).span_tokenize(text)


def make_filters(source: Source) -> dict[str, BaseFilter]:
    """The filters of a source in order, by the names under which their refusals are counted.

    Raises:
        ConfigError: a filter does not have an option.
        DataError: a package or a language model is missing.
    """
    filters: dict[str, BaseFilter] = {}
    if source.language is not None:
        filters[f"not {source.language}"] = _language_filter(source, source.language)
    for name in source.filters:
        options = {"language": source.language or "en", **source.filter_options.get(name, {})}
        check_words(options["language"])
        known = inspect.signature(_CLASSES[name].__init__).parameters.keys() - {"self", "exclusion_writer"}
        for option in options.keys() - known:
            close = difflib.get_close_matches(option, sorted(known), n=1)
            remedy = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(sorted(known))}."
            raise ConfigError(f"sources.{source.name}: the filter {name} has no option {option!r}; {remedy}")
        filters[name] = _CLASSES[name](**{key: _frozen(value) for key, value in options.items()})
    return filters


@cache
def check_words(language: str) -> None:
    """Check that words of a language can be split.

    Raises:
        DataError: the language is unknown, or a package is missing.
    """
    tokenizers = load_tokenizer_assignments()
    if language not in tokenizers:
        raise DataError(f"datatrove cannot split words of the language {language!r}; give a code like 'en' or 'jpn'.")
    try:
        tokenizers[language]().word_tokenize("a b")
    except ImportError as error:
        if "spacy" in sys.modules or "spacy" not in str(error):
            remedy = f"pip install 'spacy[{language}]' 'datatrove[multilingual]'"
        else:
            remedy = install_command("filters")
        reason = str(error).partition("\n")[0].removesuffix(".")
        raise DataError(f"Words of the language {language!r} cannot be split ({reason}); {remedy}.") from None


def _language_filter(source: Source, language: str) -> BaseFilter:
    if source.language_model == "py3langid":
        try:
            known = _identifier().labels
        except ImportError:
            raise DataError(f"The language filter needs py3langid: {install_command('filters')}.") from None
        if language not in known:
            raise DataError(
                f"py3langid does not support the language {language!r}; it supports {', '.join(sorted(known))}."
            )
        return OfflineLanguageFilter(language, source.language_score)
    try:
        _fasttext(source, language).filter(Document(text="a b", id=""))
    except ImportError as error:
        raise DataError(f"{str(error).removesuffix('.')}, or leave out language_model.") from None
    except Exception as error:  # any error of the file system, the network or fastText
        reason = str(error).strip().partition("\n")[0].removesuffix(".")
        raise DataError(
            f"The language model {source.language_model!r} cannot be loaded ({reason or type(error).__name__}); give "
            "the path of a fastText model file, or leave out language_model."
        ) from None
    return _fasttext(source, language)


def _fasttext(source: Source, language: str) -> LanguageFilter:
    if source.language_model in ("ft176", "glotlid"):
        return LanguageFilter([language], source.language_score, backend=source.language_model)
    language_filter = LanguageFilter([language], source.language_score)
    language_filter.model = _LocalFastText(source.language_model, [language])
    return language_filter


class _LocalFastText(FastTextLID):  # type: ignore[misc]
    """datatrove's fastText model, from a file."""

    def __init__(self, path: str, languages: list[str]) -> None:
        super().__init__(languages)
        self._model: Any = None
        self.path = path

    @property
    def model(self) -> Any:
        if self._model is None:
            from fasttext.FastText import _FastText

            if not Path(self.path).is_file():
                raise FileNotFoundError("there is no such file, and only 'ft176' and 'glotlid' are downloaded")
            self._model = _FastText(self.path)
        return self._model


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def _frozen(value: Any) -> Any:
    """TOML's lists as the tuples that datatrove's classes expect."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
