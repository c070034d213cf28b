"""Task heads equal those of transformers: outputs, loss and every gradient, in both directions of a folder."""

import pytest
import torch
import transformers

from modernbert.model import MultipleChoice, QuestionAnswering, SequenceClassifier, TokenClassifier
from modernbert.packed import pack
from parity.test_transformers import assert_close, config, padded

THEIRS = {
    SequenceClassifier: transformers.ModernBertForSequenceClassification,
    TokenClassifier: transformers.ModernBertForTokenClassification,
    QuestionAnswering: transformers.ModernBertForQuestionAnswering,
    MultipleChoice: transformers.ModernBertForMultipleChoice,
}
LENGTHS = [150, 3, 77, 1, 150, 1]
NAMES = {0: "red", 1: "green", 2: "blue"}


def both(head, tmp_path, **changes):
    """Our head on random weights, and theirs from its folder."""
    torch.manual_seed(0)
    ours = head(config(**changes))
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    ours.save_pretrained(tmp_path / "ours")
    theirs, info = THEIRS[head].from_pretrained(
        tmp_path / "ours", attn_implementation="eager", output_loading_info=True
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return ours, theirs.train()


def assert_gradients(ours, theirs, without_effect=()):
    gradients = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        if name in without_effect:
            assert parameter.grad.abs().max() < 1e-6
            assert gradients[name].grad.abs().max() < 1e-6
        else:
            assert_close(parameter.grad, gradients[name].grad, name)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification", "regression", None])
def test_sequence_classifier(problem, side, tmp_path):
    names = {0: "LABEL_0"} if problem is None else NAMES
    ours, theirs = both(SequenceClassifier, tmp_path, id2label=names, problem_type=problem, classifier_bias=True)
    ids, mask, _ = padded(LENGTHS, side)
    tokens, sequences = pack(ids, mask)
    labels = {
        "single_label_classification": torch.tensor([0, 2, 1, 1, 0, 2]),
        "multi_label_classification": torch.randint(0, 2, (6, 3)).float(),
        "regression": torch.randn(6, 3),
        None: torch.randn(6, 1),
    }[problem]
    expected = theirs(ids, attention_mask=mask, labels=labels)
    assert_close(ours(tokens, sequences), expected.logits, "logits")
    loss = ours.loss(tokens, sequences, labels)
    assert_close(loss, expected.loss, "loss")
    loss.backward()
    expected.loss.backward()
    assert_gradients(ours, theirs)


def test_sequence_classifier_with_cls_pooling(tmp_path):
    """Only right padding: with left padding, transformers uses the first slot of the row, which is padding."""
    ours, theirs = both(SequenceClassifier, tmp_path, id2label=NAMES, classifier_pooling="cls")
    ids, mask, _ = padded(LENGTHS, "right")
    expected = theirs(ids, attention_mask=mask).logits
    assert_close(ours(*pack(ids, mask)), expected, "logits")
    left, left_mask, _ = padded(LENGTHS, "left")
    for row, length in enumerate(LENGTHS):
        left[row, left.shape[1] - length :] = ids[row, :length]
    assert_close(ours(*pack(left, left_mask)), expected, "logits under left padding")


@pytest.mark.parametrize("side", ["right", "left"])
def test_token_classifier(side, tmp_path):
    ours, theirs = both(TokenClassifier, tmp_path, id2label=NAMES)
    ids, mask, labels = padded(LENGTHS, side)
    labels = torch.where(labels == -100, labels, labels % 3)
    tokens, sequences = pack(ids, mask)
    expected = theirs(ids, attention_mask=mask, labels=labels)
    assert_close(ours(tokens, sequences), expected.logits[mask.bool()], "logits")
    loss = ours.loss(tokens, sequences, pack(labels, mask)[0])
    assert_close(loss, expected.loss, "loss")
    loss.backward()
    expected.loss.backward()
    assert_gradients(ours, theirs)


@pytest.mark.parametrize("side", ["right", "left"])
def test_question_answering(side, tmp_path):
    """In transformers an answer may be on padding, so losses are compared without padding, and scores always."""
    ours, theirs = both(QuestionAnswering, tmp_path)
    ids, mask, _ = padded(LENGTHS, side)
    assert_close(
        ours(*pack(ids, mask)),
        torch.stack([(out := theirs(ids, attention_mask=mask)).start_logits, out.end_logits], -1)[mask.bool()],
        "logits",
    )
    ids, mask, _ = padded([90, 90, 90], side)
    labels = torch.tensor([[0, 0], [5, 89], [-100, -100]])
    beyond = labels.masked_fill(labels == -100, 90)  # what it leaves out is an end beyond the sequence
    expected = theirs(ids, attention_mask=mask, start_positions=beyond[:, 0], end_positions=beyond[:, 1])
    loss = ours.loss(*pack(ids, mask), labels)
    assert_close(loss, expected.loss, "loss")
    loss.backward()
    expected.loss.backward()
    assert_gradients(ours, theirs, without_effect=["classifier.bias"])  # a softmax does not see it


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_multiple_choice(side, pooling, tmp_path):
    ours, theirs = both(MultipleChoice, tmp_path, classifier_pooling=pooling)
    ids, mask, _ = padded(LENGTHS, side)
    labels = torch.tensor([2, 0])
    expected = theirs(ids.view(2, 3, -1), attention_mask=mask.view(2, 3, -1), labels=labels)
    tokens, sequences = pack(ids, mask)
    assert_close(ours(tokens, sequences).view(2, 3), expected.logits, "scores")
    loss = ours.loss(tokens, sequences, labels, (3, 3))
    assert_close(loss, expected.loss, "loss")
    loss.backward()
    expected.loss.backward()
    assert_gradients(ours, theirs, without_effect=["classifier.bias"])  # a softmax does not see it


@pytest.mark.parametrize("head", THEIRS)
def test_a_folder_written_there_loads_here(head, tmp_path):
    changes = {} if head in (QuestionAnswering, MultipleChoice) else {"id2label": NAMES}
    ours, theirs = both(head, tmp_path, **changes)
    theirs.save_pretrained(tmp_path / "theirs")
    back = head.from_pretrained(tmp_path / "theirs")
    weights = ours.state_dict()
    assert back.state_dict().keys() == weights.keys()
    assert all(torch.equal(x, weights[name]) for name, x in back.state_dict().items())
    if changes:
        assert back.config.id2label == NAMES


def test_labels_and_problem_type_are_read_there(tmp_path):
    changes = {"id2label": NAMES, "problem_type": "multi_label_classification"}
    SequenceClassifier(config(**changes)).save_pretrained(tmp_path / "ours")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours").config
    assert theirs.architectures == ["ModernBertForSequenceClassification"]
    assert theirs.num_labels == 3
    assert theirs.id2label == NAMES
    assert theirs.label2id == {"red": 0, "green": 1, "blue": 2}
    assert theirs.problem_type == "multi_label_classification"
