"""ModernBERT from raw text to a model that loads everywhere. Importing it loads no torch until a name is used."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

SOURCE_VERSION = "0.1.0+source"  # of a source tree that is run without being installed (PYTHONPATH=src)

try:
    __version__ = version("modernbert")
except PackageNotFoundError:
    __version__ = SOURCE_VERSION

_HOMES = dict.fromkeys(
    ("ChoiceAnswerer", "Classifier", "FillMask", "QuestionAnswerer", "TokenClassifier"), "modernbert.inference"
)

__all__ = ["ChoiceAnswerer", "Classifier", "FillMask", "QuestionAnswerer", "TokenClassifier", "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'modernbert' has no attribute {name!r}")
