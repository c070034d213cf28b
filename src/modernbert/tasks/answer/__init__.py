"""Answer questions from a text, or find that it does not hold the answer (`answer`).

`reading` reads examples, `windows` encodes and decodes, `scores` has the metrics, `folder` the settings in a model
folder, `task` the training, and `predictor` the class that predicts.
"""

from modernbert.tasks.answer.predictor import QuestionAnswerer
from modernbert.tasks.answer.task import AnswerQuestions
from modernbert.tasks.answer.windows import Answer

__all__ = ["Answer", "AnswerQuestions", "QuestionAnswerer"]
