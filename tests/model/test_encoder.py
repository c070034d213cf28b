"""Padding to common batch shapes under autocast on a CPU does not change outputs."""

import jaxtyping
import pytest
import torch

from modernbert.errors import DataError
from modernbert.model import (
    EncoderConfig,
    MaskedLM,
    MultipleChoice,
    QuestionAnswering,
    SequenceClassifier,
    TokenClassifier,
)
from modernbert.model import encoder as module
from modernbert.model.encoder import pad_to_bucket
from modernbert.model.expansion import encode_with_masked
from modernbert.model.optimized import InferenceEncoder, unsupported_reason
from modernbert.packed import Sequences


def bf16():
    return torch.autocast("cpu", torch.bfloat16)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return MaskedLM(
        EncoderConfig(
            vocab_size=128, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=2,
            local_attention=16, pad_token_id=120, cls_token_id=121, sep_token_id=122, mask_token_id=123,
        )
    )  # fmt: skip


def test_batches_of_one_size_have_few_shapes():
    with bf16():
        lengths = {n: len(pad_to_bucket(torch.zeros(n, 2))) for n in range(1, 2000)}
    assert all(n <= padded <= n * 9 / 8 for n, padded in lengths.items())
    assert len({padded for n, padded in lengths.items() if n >= 512}) == len(range(512, 2000, 64)) + 1
    assert len({padded for n, padded in lengths.items() if 128 <= n < 256}) <= 9


def test_without_autocast_nothing_is_added():
    rows = torch.arange(5)
    assert pad_to_bucket(rows) is rows
    with bf16():
        assert pad_to_bucket(torch.ones(17, 3)).tolist() == [[1.0] * 3] * 17 + [[0.0] * 3]


def test_padding_adds_one_sequence():
    sequences = Sequences.from_lengths([3, 2])
    assert sequences.padded_to(5) is sequences
    padded = sequences.padded_to(9)
    assert padded.lengths == (3, 2, 4)
    assert padded.max_length == 4
    assert padded.positions.tolist() == [0, 1, 2, 0, 1, 0, 1, 2, 3]


def test_what_fills_a_batch_changes_neither_outputs_nor_gradients(model, monkeypatch):
    lengths = [37, 2, 60, 1, 30]  # 130 tokens, padded up to 144
    tokens = torch.randint(0, 120, (sum(lengths),), generator=torch.Generator().manual_seed(1))
    labels = torch.where(torch.arange(len(tokens)) % 3 == 0, tokens, -100)

    def run():
        model.zero_grad()
        sequences = Sequences.from_lengths(lengths)
        with bf16():
            hidden = model.model(tokens, sequences)
            loss = model.loss(tokens, sequences, labels)
        loss.backward()
        return hidden.float(), loss, {name: x.grad.clone() for name, x in model.named_parameters()}

    hidden, loss, gradients = run()
    seen = []
    monkeypatch.setattr(module, "pad_to_bucket", lambda x: seen.append(len(x)) or x)
    plain_hidden, plain_loss, plain_gradients = run()
    assert seen, "the encoder asks for its shape"
    assert hidden.shape == plain_hidden.shape == (130, 64)
    torch.testing.assert_close(hidden, plain_hidden, rtol=0.02, atol=0.02)
    torch.testing.assert_close(loss, plain_loss, rtol=1e-3, atol=0)
    for name, gradient in gradients.items():
        assert (gradient - plain_gradients[name]).norm() <= 0.02 * plain_gradients[name].norm(), name


@pytest.fixture
def untyped():
    """Calls as users make them, without the checks of shapes that only test runs make."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


FORM = "Tokens are ids in one dimension, int64 or int32, as pack returns them, not "
RANGE = "The ids of the tokens go from {} to {}, but the model knows 0 to 127"
IDS = {
    "above the vocabulary": (torch.tensor([1, 2, 128]), RANGE.format(1, 128)),
    "negative": (torch.tensor([1, -1, 2]), RANGE.format(-1, 2)),
    "ignored labels": (torch.tensor([1, -100, 2], dtype=torch.int32), RANGE.format(-100, 2)),
    "float": (torch.tensor([1.0, 2.0, 3.0]), rf"{FORM}\(3,\) in torch.float32"),
    "bool": (torch.ones(3, dtype=torch.bool), rf"{FORM}\(3,\) in torch.bool"),
    "int16": (torch.ones(3, dtype=torch.int16), rf"{FORM}\(3,\) in torch.int16"),
    "a batch": (torch.ones(3, 3, dtype=torch.int64), rf"{FORM}\(3, 3\) in torch.int64"),
    "one id": (torch.tensor(3), rf"{FORM}\(\) in torch.int64"),
    "a list": ([1, 2, 3], f"{FORM}list"),
    "elsewhere": (torch.ones(3, dtype=torch.int64, device="meta"), "The tokens are on meta but the sequences on cpu"),
}


def callers(model):
    yield model.model.train()
    yield model
    yield lambda tokens, sequences: model.loss(tokens, sequences, torch.tensor([1, 2, 3]))
    seen = torch.ones(3, dtype=torch.bool)
    yield lambda tokens, sequences: encode_with_masked(model.model, tokens, sequences, seen)
    if unsupported_reason(model.model) is None:
        yield InferenceEncoder(model.model)


@pytest.mark.parametrize("case", IDS)
def test_ids_that_are_none_are_one_sentence_wherever_they_are_given(case, model, untyped):
    tokens, sentence = IDS[case]
    for call in callers(model):
        with pytest.raises(DataError, match=sentence):
            call(tokens, Sequences.from_lengths([1, 2]))


def test_a_model_on_another_device_than_its_tokens_is_one_sentence(model, untyped):
    with torch.device("meta"):
        elsewhere = MaskedLM(model.config)
    with pytest.raises(DataError, match="The tokens are on cpu but the model on meta"):
        elsewhere(torch.tensor([1, 2]), Sequences.from_lengths([2]))


ONE, TWO = Sequences.from_lengths([3]), Sequences.from_lengths([1, 2])
CLASSES = "outside the 2 classes"
LABELS = {
    "a class too high": (SequenceClassifier, ONE, torch.tensor([2]), {}, CLASSES),
    "a class below 0": (SequenceClassifier, ONE, torch.tensor([-1]), {}, CLASSES),
    "a class that has no weight": (
        SequenceClassifier,
        ONE,
        torch.tensor([2]),
        {"class_weights": torch.ones(2)},
        CLASSES,
    ),
    "a class in float": (SequenceClassifier, ONE, torch.tensor([1.0]), {}, "numbers of classes in int64"),
    "two classes of a sequence": (SequenceClassifier, ONE, torch.tensor([1, 0]), {}, r"shape \(2,\), .* need \(1,\)"),
    "a class of a token": (TokenClassifier, ONE, torch.tensor([2, 0, 0]), {}, CLASSES),
    "fewer classes than tokens": (TokenClassifier, ONE, torch.tensor([1]), {}, r"shape \(1,\), .* need \(3,\)"),
    "one end of an answer": (QuestionAnswering, ONE, torch.tensor([1, 2]), {}, r"shape \(2,\), .* need \(1, 2\)"),
    "an answer below 0": (QuestionAnswering, ONE, torch.tensor([[-2, 1]]), {}, "outside the 3 classes"),
    "fewer choices": (MultipleChoice, TWO, torch.tensor([0]), {"choices": (1,)}, "1 choices of questions but 2"),
    "two correct choices": (MultipleChoice, TWO, torch.tensor([0, 1]), {"choices": (2,)}, r"shape \(2,\), .* \(1,\)"),
    "fewer ids": (MaskedLM, ONE, torch.tensor([1]), {}, r"shape \(1,\), .* need \(3,\)"),
    "an id too high": (MaskedLM, ONE, torch.tensor([1, 128, -100]), {}, "outside the vocabulary of 128"),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels_that_do_not_fit_are_one_sentence(case, model, untyped):
    head, sequences, labels, more, sentence = LABELS[case]
    with pytest.raises(DataError, match=sentence):
        head(model.config).loss(torch.tensor([1, 2, 3]), sequences, labels, **more)


@pytest.mark.parametrize("labels", [{0: "a"}, {0: "a", 1: "b"}])
def test_numbers_and_several_labels_have_a_column_for_each(labels, model, untyped):
    problem = "regression" if len(labels) == 1 else "multi_label_classification"
    config = EncoderConfig.model_validate(model.config.model_dump() | {"id2label": labels, "problem_type": problem})
    with pytest.raises(DataError, match=rf"shape \(2,\), .* need \(2, {len(labels)}\)"):
        SequenceClassifier(config).loss(torch.tensor([1, 2, 3]), TWO, torch.tensor([1.0, 2.0]))


def test_rows_of_logits_are_one_for_each_token(model, untyped):
    with pytest.raises(DataError, match=r"The rows have the shape \(1,\), but these sequences need \(3,\)"):
        model.logits_at(torch.tensor([1, 2, 3]), ONE, torch.tensor([True]))
