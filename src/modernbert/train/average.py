"""Average of several checkpoints, as for the published base (its three best decay checkpoints and the last one)."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from modernbert.errors import CheckpointError
from modernbert.model import MaskedLM
from modernbert.train import checkpoint

logger = logging.getLogger(__name__)


@torch.no_grad()
def average(folders: Sequence[Path]) -> MaskedLM:
    """A model whose weights are the means of those in `folders`, computed in fp64, in the dtype of the first.

    Raises:
        CheckpointError: there is no folder, or their configurations differ.
    """
    if not folders:
        raise CheckpointError("There is no checkpoint to average; give model folders or a run with checkpoints.")
    model = MaskedLM.from_pretrained(folders[0])
    sums = {name: parameter.double() for name, parameter in model.named_parameters()}
    for folder in folders[1:]:
        other = MaskedLM.from_pretrained(folder)
        if other.config != model.config:
            raise CheckpointError(f"{folder} and {folders[0]} have different configurations and cannot be averaged.")
        for name, parameter in other.named_parameters():
            sums[name] += parameter
    for name, parameter in model.named_parameters():
        parameter.copy_(sums[name] / len(folders))
    return model


def average_run(sources: Sequence[Path], output: Path, best: int) -> list[Path]:
    """Average the checkpoints of a run (its `best` by validation loss, and the last one), or some model folders.

    Writes the model to `output` with the tokenizer of the first, and returns the folders that were averaged.

    Raises:
        CheckpointError: the run has no checkpoint, a folder is not a model folder, or their configurations differ.
    """
    folders = list(sources)
    if len(sources) == 1 and (sources[0] / "checkpoints").is_dir():
        checkpoints = checkpoint.folders(sources[0] / "checkpoints")
        best_checkpoints = checkpoint.best(sources[0] / "checkpoints", best)
        if len(best_checkpoints) < best:
            logger.warning(
                "%s keeps %d checkpoints of its newest phase that have a validation loss, not %d: those are averaged. "
                "run.keep_best keeps more.",
                sources[0], len(best_checkpoints), best,
            )  # fmt: skip
        folders = list(dict.fromkeys([*best_checkpoints, *checkpoints[-1:]]))
    model = average(folders)
    model.save_pretrained(output, tokenizer=folders[0])
    return folders
