"""Find labelled spans in texts, such as entities (`tokens`).

`reading` reads examples, `tags` converts spans to tags and back, `windows` encodes and decodes, `scores` has the
metrics, `folder` the settings in a model folder, `task` the training, and `predictor` the class that predicts.
"""

from modernbert.tasks.tokens.predictor import Entity, TokenClassifier
from modernbert.tasks.tokens.task import Tokens

__all__ = ["Entity", "TokenClassifier", "Tokens"]
