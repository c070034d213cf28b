"""Text in, results out. Batches and packs by itself."""

from modernbert.data.encoding_questions import Reply
from modernbert.inference.choice_answerer import Choice, ChoiceAnswerer
from modernbert.inference.classifier import Classifier, LabelScore
from modernbert.inference.fill_mask import Candidate, FillMask
from modernbert.inference.question_answerer import QuestionAnswerer
from modernbert.inference.token_classifier import Entity, TokenClassifier

__all__ = [
    "Candidate",
    "Choice",
    "ChoiceAnswerer",
    "Classifier",
    "Entity",
    "FillMask",
    "LabelScore",
    "QuestionAnswerer",
    "Reply",
    "TokenClassifier",
]
