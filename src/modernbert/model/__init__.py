"""The encoder, its heads and its folders."""

from modernbert.model.config import EncoderConfig
from modernbert.model.encoder import Encoder
from modernbert.model.heads import MaskedLM, MultipleChoice, QuestionAnswering, SequenceClassifier, TokenClassifier

__all__ = [
    "Encoder",
    "EncoderConfig",
    "MaskedLM",
    "MultipleChoice",
    "QuestionAnswering",
    "SequenceClassifier",
    "TokenClassifier",
]
