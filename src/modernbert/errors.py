"""Mistakes that a user can mend: one clear sentence with the remedy, exit status 2 on the command line."""


class ModernBertError(Exception):
    """The base of every error that a user causes and can mend. Anything else that escapes is our bug.

    Its message is one line, whatever names and values from a file it quotes.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__("".join(each if each.isprintable() else ascii(each)[1:-1] for each in message))


class ConfigError(ModernBertError):
    """A recipe, an override or a model configuration is wrong."""


class DataError(ModernBertError):
    """A corpus, a shard or an input text is wrong."""


class CheckpointError(ModernBertError):
    """A model folder or a training checkpoint is missing, damaged or of another shape."""


class BackendError(ModernBertError):
    """An attention backend cannot run here, or cannot run these tensors."""


class ProcessError(ModernBertError):
    """Another process of a distributed run has ended."""
