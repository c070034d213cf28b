"""What the folder of a question answerer keeps."""

from pydantic import PositiveInt

from modernbert.tasks.folder_settings import FolderSettings


class AnswerFolder(FolderSettings):
    """The longest answer in tokens, and whether every question of the training had an answer."""

    max_answer_tokens: PositiveInt = 64
    always_answers: bool = False
