"""Find labelled spans in texts: entities, or any other pieces (`tokens`).

`reading` makes examples of records, `tags` turns spans into tags and back, `windows` encodes and decodes, `scores` has
the metrics, `folder` what a trained folder keeps, `task` the training side and `predictor` the class that predicts.
"""

from modernbert.tasks.tokens.predictor import Entity, TokenClassifier
from modernbert.tasks.tokens.task import Tokens

__all__ = ["Entity", "TokenClassifier", "Tokens"]
