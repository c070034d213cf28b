"""Every predictor loads only models of its kind."""

import shutil

import pytest
import torch

from corpora import make_model
from modernbert import ChoiceAnswerer, Classifier, FillMask, QuestionAnswerer, TokenClassifier
from modernbert.errors import CheckpointError, ConfigError, DataError
from modernbert.model import MaskedLM, MultipleChoice, QuestionAnswering, SequenceClassifier
from modernbert.model import TokenClassifier as TokenHead
from modernbert.text.tokenizer import load_tokenizer

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
def test_a_predictor_loads_only_models_of_its_kind(predictor, folders):
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
def test_a_max_length_outside_the_range_of_the_model_is_refused(max_length, folders):
    with pytest.raises(ConfigError, match=f"max_length is {max_length}, but the model reads 1 to 128 tokens"):
        Classifier.from_pretrained(folders / "SequenceClassifier", device="cpu", max_length=max_length)


def copy_of(folder, target):
    shutil.copytree(folder, target)
    return target


@pytest.mark.parametrize("predictor", KINDS, ids=lambda kind: kind.__name__)
def test_a_tokenizer_with_ids_without_embeddings_is_refused(predictor, folders, tmp_path):
    folder = copy_of(folders / KINDS[predictor].__name__, tmp_path / "model")
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens(["<ent>", "</ent>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    with pytest.raises(DataError, match=r"has ids up to 1025, but the model embeds 1024: use the tokenizer that"):
        predictor.from_pretrained(folder, device="cpu")


@pytest.mark.parametrize("vocab_size", [1024 + 64, 1024 + 1, 2048])
def test_a_model_may_embed_more_ids_than_its_tokenizer_has(vocab_size, folders, tmp_path):
    """Ids without a token are never predicted, and do not change other predictions."""
    small = MaskedLM.from_pretrained(folders / "MaskedLM")
    large = MaskedLM(small.config.model_copy(update={"vocab_size": vocab_size}))
    weights = large.state_dict()
    for name, x in small.state_dict().items():
        weights[name][: len(x)] = x
    weights["decoder.bias"][1024:] = 5.0
    large.load_state_dict(weights)
    large.save_pretrained(tmp_path / "large", tokenizer=folders / "MaskedLM")
    found = FillMask.from_pretrained(tmp_path / "large", device="cpu")("import [MASK]", top_k=5)
    expected = FillMask.from_pretrained(folders / "MaskedLM", device="cpu")("import [MASK]", top_k=5)
    assert [one.token_id for one in found[0]] == [one.token_id for one in expected[0]]


def test_fill_mask_works_with_other_names_of_special_tokens(folders, tmp_path):
    folder = copy_of(folders / "MaskedLM", tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        text = (folder / name).read_text(encoding="utf-8")
        for old, new in {"[CLS]": "<s>", "[SEP]": "</s>", "[PAD]": "<pad>", "[MASK]": "<mask>"}.items():
            text = text.replace(old, new)
        (folder / name).write_text(text, encoding="utf-8")
    fill = FillMask.from_pretrained(folder, device="cpu")
    expected = FillMask.from_pretrained(folders / "MaskedLM", device="cpu")("import [MASK]")
    assert fill("import <mask>") == expected
    with pytest.raises(DataError, match="There is no <mask> in 'import nothing'; write <mask>"):
        fill("import nothing")


@pytest.mark.parametrize("top_k", [-1, 0])
def test_a_top_k_below_one_is_refused(top_k, folders):
    answerer = QuestionAnswerer.from_pretrained(folders / "QuestionAnswering", device="cpu")
    with pytest.raises(DataError, match=f"top_k is {top_k}; ask for at least one"):
        answerer("What?", "A text.", top_k=top_k)
    with pytest.raises(DataError, match=f"top_k is {top_k}; ask for at least one"):
        FillMask.from_pretrained(folders / "MaskedLM", device="cpu")("[MASK]", top_k=top_k)


@pytest.mark.parametrize("top_k", [True, 1.5, "3", None])
def test_a_top_k_that_is_not_a_whole_number_is_refused(top_k, folders):
    with pytest.raises(DataError, match=f"top_k is {top_k!r} and should be a whole number"):
        QuestionAnswerer.from_pretrained(folders / "QuestionAnswering", device="cpu")("What?", "A text.", top_k=top_k)
    with pytest.raises(DataError, match=f"top_k is {top_k!r} and should be a whole number"):
        FillMask.from_pretrained(folders / "MaskedLM", device="cpu")("[MASK]", top_k=top_k)


@pytest.mark.parametrize("source", [None, 3, "a" * 5000, f"somebody/{'b' * 300}"])
def test_an_invalid_path_is_an_error(source):
    with pytest.raises(
        CheckpointError,
        match=r"name of this model folder is too|should be the path of a model folder|There is no model folder",
    ):
        Classifier.from_pretrained(source)


@pytest.mark.parametrize("dtype", ["float32", torch.int8, 5])
def test_an_unsupported_dtype_is_an_error(dtype, folders):
    with pytest.raises(ConfigError, match=r"Weights cannot have dtype .*; choose torch\.float32"):
        Classifier.from_pretrained(folders / "SequenceClassifier", device="cpu", dtype=dtype)


def test_a_torch_device_is_accepted(folders):
    loaded = Classifier.from_pretrained(folders / "SequenceClassifier", device=torch.device("cpu"))
    assert len(loaded("A text.")) == 2
    with pytest.raises(ConfigError, match="There is no device '3'"):
        Classifier.from_pretrained(folders / "SequenceClassifier", device=3)


@pytest.mark.parametrize("predictor", KINDS, ids=lambda kind: kind.__name__)
def test_outputs_that_are_not_finite_are_refused(predictor, folders):
    loaded = predictor.from_pretrained(folders / KINDS[predictor].__name__, device="cpu")
    loaded.model.head.norm.weight.data.fill_(float("nan"))
    arguments = {
        ChoiceAnswerer: ("What?", ["this", "that"]),
        Classifier: ("A text.",),
        FillMask: ("A [MASK].",),
        QuestionAnswerer: ("What?", "A text."),
        TokenClassifier: ("A text.",),
    }
    with pytest.raises(CheckpointError, match="computes NaN or infinity for these texts"):
        loaded(*arguments[predictor])
