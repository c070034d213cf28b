"""The settings of a task in the folder of a fine-tuned model: the object `modernbert_task` in its config.json."""

from typing import Self

from pydantic import ConfigDict, NonNegativeInt, PositiveInt

from modernbert.config import Config, parse
from modernbert.model.config import EncoderConfig


class FolderSettings(Config):
    """What prediction needs to read texts as training did. A task with more settings has its own subclass.

    `kind` is the name of the task; None in a folder of another trainer or of an older version. `max_length` is the
    number of tokens that are read at once; None: all that the encoder reads. `overlap_tokens` is the overlap of windows
    over a longer text; None: the default.
    """

    model_config = ConfigDict(extra="ignore")  # the folder of a newer version may have more keys

    kind: str | None = None
    max_length: PositiveInt | None = None
    overlap_tokens: NonNegativeInt | None = None

    @classmethod
    def of(cls, config: EncoderConfig) -> Self:
        """The settings in the configuration of a model, or the defaults.

        Raises:
            ConfigError: a value is invalid.
        """
        return parse(cls, config.modernbert_task or {}, where="config.json: modernbert_task")
