"""ModernBERT from raw text to a model that loads everywhere. Importing it loads no torch until a name is used."""

import os
import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

SOURCE_VERSION = "0.1.0+source"  # of a source tree that is run without being installed (PYTHONPATH=src)

try:
    __version__ = version("modernbert")
except PackageNotFoundError:
    __version__ = SOURCE_VERSION

_HOMES = {
    "ChoiceAnswerer": "modernbert.tasks.choice_answerer",
    "Classifier": "modernbert.tasks.classifier",
    "Embedder": "modernbert.tasks.embed",
    "FillMask": "modernbert.tasks.fill_mask",
    "MultiVectorEmbedder": "modernbert.tasks.multi_vector",
    "QuestionAnswerer": "modernbert.tasks.question_answerer",
    "Reranker": "modernbert.tasks.rerank",
    "SparseEmbedder": "modernbert.tasks.sparse",
    "TokenClassifier": "modernbert.tasks.token_classifier",
}

__all__ = [
    "ChoiceAnswerer",
    "Classifier",
    "Embedder",
    "FillMask",
    "MultiVectorEmbedder",
    "QuestionAnswerer",
    "Reranker",
    "SparseEmbedder",
    "TokenClassifier",
    "__version__",
]


def _let_waiting_threads_sleep() -> None:
    """Bound how long OpenMP's threads spin while they wait, which slows down every other process of the machine.

    OpenMP reads this as torch loads it. What the user has set stays (docs/processes.md).
    """
    if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault(
            "GOMP_SPINCOUNT", "1000"
        )  # GNU: turns; two runs on two cores keep their share, one loses nothing
        os.environ.setdefault("KMP_BLOCKTIME", "1")  # LLVM and Intel: milliseconds


_let_waiting_threads_sleep()


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'modernbert' has no attribute {name!r}")
