"""The settings in the folder of a question answering model."""

from pydantic import PositiveInt

from modernbert.tasks.folder_settings import FolderSettings


class AnswerFolderSettings(FolderSettings):
    """The maximum length of an answer in tokens, and whether every training question had an answer."""

    max_answer_tokens: PositiveInt = 64
    always_answers: bool = False
