"""Every class that takes text loads models of its own kind, and no others."""

import pytest

from corpora import make_model
from modernbert import ChoiceAnswerer, Classifier, FillMask, QuestionAnswerer, TokenClassifier
from modernbert.errors import CheckpointError, ConfigError
from modernbert.model import MaskedLM, MultipleChoice, QuestionAnswering, SequenceClassifier
from modernbert.model import TokenClassifier as TokenHead

KINDS = {
    ChoiceAnswerer: MultipleChoice,
    Classifier: SequenceClassifier,
    FillMask: MaskedLM,
    QuestionAnswerer: QuestionAnswering,
    TokenClassifier: TokenHead,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of each kind of model."""
    base = tmp_path_factory.mktemp("kinds")
    start = make_model(base)
    for kind in KINDS.values():
        model = kind.from_pretrained(start, changes={"id2label": {0: "O", 1: "B-WORD"}})
        model.save_pretrained(base / kind.__name__)
    return base


@pytest.mark.parametrize("predictor", KINDS, ids=lambda kind: kind.__name__)
def test_it_loads_models_of_its_own_kind_and_no_others(predictor, folders):
    for kind in KINDS.values():
        if kind is KINDS[predictor]:
            loaded = predictor.from_pretrained(folders / kind.__name__, device="cpu", max_length=77)
            assert type(loaded) is predictor
            assert type(loaded.model) is kind
            assert loaded.max_length == 77
        else:
            with pytest.raises(
                CheckpointError, match=f"(and not a {KINDS[predictor].architecture}|not hold a MaskedLM)"
            ):
                predictor.from_pretrained(folders / kind.__name__)


@pytest.mark.parametrize("max_length", [-1, 0, 129, 100_000])
def test_it_refuses_lengths_that_the_model_does_not_read(max_length, folders):
    with pytest.raises(ConfigError, match=f"max_length is {max_length}, but the model reads 1 to 128 tokens"):
        Classifier.from_pretrained(folders / "SequenceClassifier", device="cpu", max_length=max_length)
