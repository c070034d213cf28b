"""The base of every predictor: a model of one kind with its tokenizer, loaded and ready to run."""

import logging
from pathlib import Path
from typing import Generic, Self, TypeVar

import torch
from tokenizers import Tokenizer

from modernbert.errors import CheckpointError, ConfigError
from modernbert.model.folder import Pretrained, find_folder, read_architecture
from modernbert.model.heads import TaskModel
from modernbert.model.optimized import optimize_for_inference
from modernbert.runtime import select_device
from modernbert.tasks.folder_settings import FolderSettings
from modernbert.tasks.outputs import default_overlap
from modernbert.text.tokenizer import check_fits, load_tokenizer

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=Pretrained)


class Predictor(Generic[M]):
    """A model of the class `kind` and its tokenizer. Called with texts, it returns predictions for them.

    `max_length` is the number of tokens that it reads at once. The default is the value of the training, or, if the
    folder does not have it, all that the encoder reads.
    """

    kind: type[M]

    def __init__(self, model: M, tokenizer: Tokenizer, max_length: int | None = None) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        config = model.config
        most = config.max_position_embeddings
        if max_length is not None and not 1 <= max_length <= most:
            raise ConfigError(
                f"max_length is {max_length}, but the model reads 1 to {most} tokens; choose a number in this range."
            )
        settings = FolderSettings.of(config)
        self.max_length = max_length or settings.max_length or most
        overlap = settings.overlap_tokens
        self.overlap_tokens = default_overlap(self.max_length) if overlap is None else overlap

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        max_length: int | None = None,
        device: str | torch.device = "auto",
        dtype: torch.dtype | None = None,
        revision: str | None = None,
        token: str | None = None,
        int8: bool = False,
    ) -> Self:
        """Load model and tokenizer of a folder or a hub id, ready to run; optionally with linear layers in int8.

        On a CUDA device the weights are bf16 unless `dtype` is given; elsewhere they have the dtype of the file.

        The class defines how it reads a text of more than `max_length` tokens.

        Raises:
            CheckpointError: there is no such model, or it is of another kind.
            DataError: it has no tokenizer, or the tokenizer has ids without an embedding.
            ConfigError: the model cannot read `max_length` tokens, or there is no such device.
            BackendError: int8 is set, and the native kernels are not available or do not support this model.
        """
        folder = find_folder(source, revision, token)
        if issubclass(cls.kind, TaskModel):
            architecture = read_architecture(folder)
            if architecture != cls.kind.architecture:  # its head would be initialized randomly
                raise CheckpointError(
                    f"{source} holds a {architecture or 'model without a head'} and not a {cls.kind.architecture}; "
                    "train one with `modernbert finetune`."
                )
        cls.check_folder(folder, source)
        chosen_device = select_device(device)
        if dtype is None and chosen_device.type == "cuda":
            dtype = torch.bfloat16
            logger.info("%s runs in bf16 on %s; dtype=torch.float32 keeps fp32.", source, chosen_device)
        model = cls.kind.from_pretrained(folder, device=chosen_device, dtype=dtype)
        cls.optimize(model, int8=int8)
        tokenizer = load_tokenizer(model.tokenizer_source or folder)
        check_fits(tokenizer, model.config.vocab_size, source)
        return cls(model, tokenizer, max_length)

    @classmethod
    def check_folder(cls, folder: Path, source: str | Path) -> None:
        """Check that `kind` would not initialize a missing part of the model randomly.

        Raises:
            CheckpointError: the folder lacks a part that predictions need.
        """

    @classmethod
    def optimize(cls, model: M, *, int8: bool) -> None:
        """Replace the encoder of the model by a faster one without gradients."""
        optimize_for_inference(model, int8=int8)
