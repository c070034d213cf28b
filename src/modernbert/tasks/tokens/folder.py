"""The settings in the folder of a token classifier: how texts are split into the units that have one tag each."""

from typing import Literal

from modernbert.model.config import EncoderConfig
from modernbert.tasks.folder_settings import FolderSettings
from modernbert.text.words import WordRule


class SpanFolderSettings(FolderSettings):
    """`units` and `joined_by` are those of a `WordRule`; None if another trainer wrote the folder."""

    units: Literal["tokens", "words", "characters", "whole words"] | None = None
    joined_by: str | None = None


def rule_of(config: EncoderConfig) -> WordRule:
    """How a model splits texts into units."""
    settings = SpanFolderSettings.of(config)
    return WordRule(settings.units or "whole words", " " if settings.joined_by is None else settings.joined_by)
