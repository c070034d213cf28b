"""Errors that a user can fix: one clear sentence with the remedy, and exit status 2 on the command line."""


class ModernBertError(Exception):
    """The base class of all errors that a user causes and can fix. Any other exception is a bug of this package.

    The message is always one line, even if it quotes names or values with line breaks.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__("".join(each if each.isprintable() else ascii(each)[1:-1] for each in message))


class ConfigError(ModernBertError):
    """A recipe, an override or a model configuration is wrong."""


class DataError(ModernBertError):
    """A corpus, a shard or an input text is wrong."""


class CheckpointError(ModernBertError):
    """A model folder or a training checkpoint is missing or damaged, or has other shapes than expected."""


class BackendError(ModernBertError):
    """An attention backend cannot run here, or cannot run these tensors."""


class ProcessError(ModernBertError):
    """Another process of a distributed run has ended."""
