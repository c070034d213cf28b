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
    """A model of the class's own kind, and its tokenizer. Called with texts, it returns predictions for them.

    `max_length` is the number of tokens that it reads at once: unless given, the one that the head was trained with, or
    all that the encoder reads where the folder does not say.
    """

    kind: type[M]

    def __init__(self, model: M, tokenizer: Tokenizer, max_length: int | None = None) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        config = model.config
        reads = config.max_position_embeddings
        if max_length is not None and not 1 <= max_length <= reads:
            raise ConfigError(
                f"max_length is {max_length}, but the model reads 1 to {reads} tokens; choose one of those."
            )
        trained = FolderSettings.of(config)
        self.max_length = max_length or trained.max_length or reads
        own = trained.overlap_tokens
        self.overlap_tokens = default_overlap(self.max_length) if own is None else own

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
        """Load model and tokenizer of a folder or a hub id, ready to run; with linear layers in int8 if asked to.

        On a CUDA device the weights are bf16 unless `dtype` is given, elsewhere as they are in the file.

        What is done with a text of more than `max_length` tokens, the class says.

        Raises:
            CheckpointError: there is no such model, or it is one of another kind.
            DataError: it has no tokenizer, or one with ids that the model does not embed.
            ConfigError: the model does not read `max_length` tokens, or there is no such device.
            BackendError: int8 is wanted and the native kernels cannot run here, or do not take this model.
        """
        folder = find_folder(source, revision, token)
        if issubclass(cls.kind, TaskModel):
            found = read_architecture(folder)
            if found != cls.kind.architecture:  # its head would be initialized randomly
                raise CheckpointError(
                    f"{source} holds a {found or 'model without a head'} and not a {cls.kind.architecture}; "
                    "train one with `modernbert finetune`."
                )
        cls.check_folder(folder, source)
        place = select_device(device)
        if dtype is None and place.type == "cuda":
            dtype = torch.bfloat16
            logger.info("%s runs in bf16 on %s; dtype=torch.float32 keeps fp32.", source, place)
        model = cls.kind.from_pretrained(folder, device=place, dtype=dtype)
        cls.optimize(model, int8=int8)
        tokenizer = load_tokenizer(model.tokenizer_source or folder)
        check_fits(tokenizer, model.config.vocab_size, source)
        return cls(model, tokenizer, max_length)

    @classmethod
    def check_folder(cls, folder: Path, source: str | Path) -> None:
        """Refuse a folder that `kind` would load and complete, but that does not predict.

        Raises:
            CheckpointError: it is one.
        """

    @classmethod
    def optimize(cls, model: M, *, int8: bool) -> None:
        """Put an encoder that runs faster, without gradients, in the place of the model's own."""
        optimize_for_inference(model, int8=int8)
