"""What the folder of a fine-tuned model keeps of its task: the object `modernbert_task` in its config.json."""

from typing import Self

from pydantic import ConfigDict, NonNegativeInt, PositiveInt

from modernbert.config import Config, parse
from modernbert.model.config import EncoderConfig


class FolderSettings(Config):
    """What prediction needs to read texts as training did. A task with more to keep has its own subclass.

    `kind` is the name of the task; None in a folder of another trainer or of an older version. `max_length` is the
    number of tokens that are read at once, None for all that the encoder reads; `overlap_tokens` is what the windows
    over a longer text share, None for the default.
    """

    model_config = ConfigDict(extra="ignore")  # the folder of a newer version may say more

    kind: str | None = None
    max_length: PositiveInt | None = None
    overlap_tokens: NonNegativeInt | None = None

    @classmethod
    def of(cls, config: EncoderConfig) -> Self:
        """The settings in the configuration of a model, or the defaults where it has none.

        Raises:
            ConfigError: a value does not fit.
        """
        return parse(cls, config.modernbert_task or {}, where="config.json: modernbert_task")
