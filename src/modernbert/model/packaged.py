"""The small model that comes with the package."""

from pathlib import Path

from modernbert.errors import CheckpointError

FOLDER = Path(__file__).parents[1] / "models" / "english-mini"  # its README.md is the model card


def packaged_model() -> Path:
    """The folder of the model that is used by default. It depends on the build whether it exists.

    Raises:
        CheckpointError: this build has none.
    """
    if not (FOLDER / "config.json").is_file():
        raise CheckpointError(
            "No model comes with this installation of modernbert; name one, a folder or a hub id such as "
            "answerdotai/ModernBERT-base (--model on the command line)."
        )
    return FOLDER
