"""ModernBERT from raw text to a model that loads everywhere. Importing it loads no torch until a name is used."""

import os
import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modernbert.api import finetune as finetune
    from modernbert.api import pretrain as pretrain
    from modernbert.integrations import accelerate as accelerate
    from modernbert.integrations import restore as restore
    from modernbert.model import Encoder as Encoder
    from modernbert.model import EncoderConfig as EncoderConfig
    from modernbert.model import MaskedLM as MaskedLM
    from modernbert.model.padded import encode_padded as encode_padded
    from modernbert.stream.collate import collate_mlm as collate_mlm
    from modernbert.tasks.answer import QuestionAnswerer as QuestionAnswerer
    from modernbert.tasks.choose import ChoiceAnswerer as ChoiceAnswerer
    from modernbert.tasks.classify import Classifier as Classifier
    from modernbert.tasks.fill_mask import FillMask as FillMask
    from modernbert.tasks.tokens import TokenClassifier as TokenClassifier
    from modernbert.text.tokenizer import load_tokenizer as load_tokenizer

SOURCE_VERSION = "0.1.0+source"  # a source tree that is not installed (PYTHONPATH=src)

try:
    __version__ = version("modernbert")
except PackageNotFoundError:
    __version__ = SOURCE_VERSION

_HOMES = {
    "Encoder": "modernbert.model",
    "EncoderConfig": "modernbert.model",
    "MaskedLM": "modernbert.model",
    "collate_mlm": "modernbert.stream.collate",
    "encode_padded": "modernbert.model.padded",
    "finetune": "modernbert.api",
    "pretrain": "modernbert.api",
    "load_tokenizer": "modernbert.text.tokenizer",
    "ChoiceAnswerer": "modernbert.tasks.choose",
    "Classifier": "modernbert.tasks.classify",
    "Embedder": "modernbert.tasks.embed",
    "FillMask": "modernbert.tasks.fill_mask",
    "MultiVectorEmbedder": "modernbert.tasks.multi_vector",
    "QuestionAnswerer": "modernbert.tasks.answer",
    "Reranker": "modernbert.tasks.rerank",
    "SparseEmbedder": "modernbert.tasks.sparse",
    "TokenClassifier": "modernbert.tasks.tokens",
    "accelerate": "modernbert.integrations",
    "restore": "modernbert.integrations",
}

__all__ = ["__version__", *_HOMES]


def _limit_spinning() -> None:
    """Limit how long OpenMP's idle threads spin, which slows down all other processes of the machine.

    OpenMP reads these variables when torch loads it. Values that the user has set stay (docs/processes.md).
    """
    if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault(
            "GOMP_SPINCOUNT", "1000"
        )  # GNU, in iterations: two runs on two cores share them evenly, and a single run loses nothing
        os.environ.setdefault("KMP_BLOCKTIME", "1")  # LLVM and Intel, in milliseconds


_limit_spinning()


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'modernbert' has no attribute {name!r}")
