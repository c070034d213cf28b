"""The small model that comes with the package."""

from pathlib import Path

from modernbert.errors import CheckpointError

FOLDER = Path(__file__).parents[1] / "models" / "english-mini"  # its README.md is the model card


def packaged_model() -> Path:
    """The folder of the default model, which some builds do not contain.

    Raises:
        CheckpointError: this build does not contain it.
    """
    if not (FOLDER / "config.json").is_file():
        raise CheckpointError(
            "This installation of modernbert contains no model; name a folder or a hub id such as "
            "answerdotai/ModernBERT-base (--model on the command line)."
        )
    return FOLDER
