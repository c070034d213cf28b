"""Text in, results out. Batches and packs by itself."""

from modernbert.inference.classifier import Classifier, LabelScore
from modernbert.inference.fill_mask import Candidate, FillMask

__all__ = ["Candidate", "Classifier", "FillMask", "LabelScore"]
