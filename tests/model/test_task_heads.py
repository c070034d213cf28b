"""Task heads: loading, sums of losses, and training."""

import json
import logging

import pytest
import torch
from torch.nn import functional as F

from modernbert.errors import CheckpointError
from modernbert.model import (
    Encoder,
    EncoderConfig,
    MaskedLM,
    MultipleChoice,
    QuestionAnswering,
    SequenceClassifier,
    TokenClassifier,
)
from modernbert.packed import Sequences
from modernbert.train.optimizer import StableAdamW, parameter_groups

HEADS = [SequenceClassifier, TokenClassifier, QuestionAnswering, MultipleChoice]
SIZES = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
THREE = {"id2label": {0: "a", 1: "b", 2: "c"}}


def make(head, **changes):
    torch.manual_seed(0)
    return head(EncoderConfig(**(SIZES | changes)))


def same(ours, theirs, prefix=""):
    theirs = theirs.state_dict()
    return all(torch.equal(x, theirs[name]) for name, x in ours.state_dict().items() if name.startswith(prefix))


@pytest.mark.parametrize("head", HEADS)
def test_a_saved_head_loads_equal(head, tmp_path):
    model = make(head, **THREE)
    model.save_pretrained(tmp_path / "model")
    loaded = head.from_pretrained(tmp_path / "model")
    assert same(loaded, model)
    assert loaded.config == model.config


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("head", HEADS)
def test_a_masked_lm_gives_all_but_its_decoder_and_the_new_classifier_is_logged_once(head, dtype, tmp_path, caplog):
    language_model = make(MaskedLM)
    language_model.save_pretrained(tmp_path / "model")
    with caplog.at_level(logging.INFO, "modernbert"):
        model = head.from_pretrained(tmp_path / "model", dtype=dtype)
    assert [record.message.partition(" has ")[2] for record in caplog.records] == [
        "no classifier for this task: initialized randomly."
    ]
    for part in ("model.", "head."):
        assert same(model, language_model.to(dtype), part)
    assert model.classifier.weight.std().item() == pytest.approx(0.88 * 32**-0.5, rel=0.4)  # 0.88: cut at two sigma
    assert not model.classifier.bias.any()
    assert {parameter.dtype for parameter in model.parameters()} == {dtype or torch.float32}


def test_a_bare_encoder_gets_a_complete_head(tmp_path, caplog):
    encoder = make(Encoder)
    encoder.save_pretrained(tmp_path / "model")
    with caplog.at_level(logging.INFO, "modernbert"):
        model = TokenClassifier.from_pretrained(tmp_path / "model", changes=THREE)
    assert "has no head and classifier for this task" in caplog.text
    assert same(model.model, encoder)
    assert model.head.dense.weight.std().item() == pytest.approx(0.88 * 0.02, rel=0.2)
    assert model.classifier.out_features == 3


def test_the_classifier_of_another_task_or_of_other_labels_is_initialized_anew(tmp_path, caplog):
    first = make(SequenceClassifier, **THREE)
    first.save_pretrained(tmp_path / "model")
    number = {"id2label": {0: "similarity"}, "problem_type": "regression"}
    with caplog.at_level(logging.INFO, "modernbert"):
        changed = SequenceClassifier.from_pretrained(tmp_path / "model", changes=number)
        renamed = SequenceClassifier.from_pretrained(tmp_path / "model", changes={"id2label": {0: "x", 1: "y", 2: "z"}})
        answers = QuestionAnswering.from_pretrained(tmp_path / "model")
    assert len(caplog.records) == 3
    assert changed.classifier.out_features == 1
    assert changed.config.labels == ("similarity",)
    for other in (changed, renamed, answers):
        assert same(other, first, "head.")
        assert not same(other, first, "classifier.")


def test_a_classifier_of_another_shape_than_its_labels_is_an_error(tmp_path):
    make(SequenceClassifier, **THREE).save_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    del config["id2label"]
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"classifier\.weight is \(3, 32\) but should be \(2, 32\)"):
        SequenceClassifier.from_pretrained(tmp_path / "model")


def batch(head):
    """Eight labelled sequences, and the number of labels of the first four."""
    generator = torch.Generator().manual_seed(0)
    lengths = [5, 1, 9, 4, 7, 1, 3, 6]
    tokens = torch.randint(0, 96, (sum(lengths),), generator=generator)
    per_token = torch.randint(-1, 3, (len(tokens),), generator=generator)
    labels = {
        SequenceClassifier: torch.tensor([0, 1, 2, 2, 0, 0, -100, 1]),
        TokenClassifier: per_token.masked_fill(per_token < 0, -100),
        QuestionAnswering: torch.tensor([[0, 0], [0, 0], [2, 8], [1, 1], [-100, -100], [0, 0], [1, 2], [0, 5]]),
        MultipleChoice: torch.tensor([2, 0, 1]),
    }[head]
    parts = {
        SequenceClassifier: (4, 19),
        TokenClassifier: (19, 19),
        QuestionAnswering: (4, 19),
        MultipleChoice: (1, 19),
    }
    return lengths, tokens, labels, parts[head][0]


@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 5.0, 0.5])], ids=["plain", "class weights"])
@pytest.mark.parametrize("head", HEADS)
def test_the_losses_of_microbatches_add_up_to_the_loss_of_the_batch(head, weights):
    model = make(head, **THREE)
    lengths, tokens, labels, cut = batch(head)
    extra = [(4,), (2, 2), (4, 2, 2)] if head is MultipleChoice else [(), (), ()]
    options = {} if weights is None or head in (QuestionAnswering, MultipleChoice) else {"class_weights": weights}
    known = labels[labels != -100]
    total = float(weights[known].sum() if options else len(known) / (2 if head is QuestionAnswering else 1))

    def loss(tokens, lengths, labels, choices, total=None):
        arguments = [labels, *([choices] if choices else [])]
        return model.loss(tokens, Sequences.from_lengths(lengths), *arguments, total=total, **options)

    whole = loss(tokens, lengths, labels, extra[2])
    parts = loss(tokens[:19], lengths[:4], labels[:cut], extra[0], total) + loss(
        tokens[19:], lengths[4:], labels[cut:], extra[1], total
    )
    torch.testing.assert_close(parts, whole)


def test_a_batch_without_labels_adds_nothing_to_the_loss():
    model = make(TokenClassifier, **THREE)
    loss = model.loss(torch.arange(4), Sequences.from_lengths([3, 1]), torch.full((4,), -100), total=7.0)
    loss.backward()
    assert loss == 0


def test_class_weights_of_several_labels_weigh_where_they_apply():
    model = make(SequenceClassifier, **THREE, problem_type="multi_label_classification")
    tokens, sequences = torch.arange(12), Sequences.from_lengths([5, 1, 6])
    labels, weights = torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 1]]), torch.tensor([1.0, 3.0, 2.0])
    expected = F.binary_cross_entropy_with_logits(model(tokens, sequences), labels, pos_weight=weights)
    torch.testing.assert_close(model.loss(tokens, sequences, labels, class_weights=weights), expected)


def test_questions_may_have_any_number_of_choices():
    model = make(MultipleChoice)
    tokens, sequences = torch.arange(30), Sequences.from_lengths([3, 7, 1, 9, 10])
    scores = model(tokens, sequences)
    expected = (F.cross_entropy(scores[:2], torch.tensor(1)) + F.cross_entropy(scores[2:], torch.tensor(0))) / 2
    torch.testing.assert_close(model.loss(tokens, sequences, torch.tensor([1, 0]), (2, 3)), expected)


def examples(head, problem=None, shuffled=False):
    """200 examples of random tokens in packed batches of 50; labels follow from the tokens, or are shuffled."""
    generator = torch.Generator().manual_seed(0)
    for number in range(4):
        lengths = torch.randint(4, 9, (50,), generator=generator).tolist()
        pieces = [torch.randint(9, 96, (length,), generator=generator) for length in lengths]
        places = [int(torch.randint(1, length, (), generator=generator)) for length in lengths]
        classes = torch.randint(0, 3, (50,), generator=generator)
        for piece, place, label in zip(pieces, places, classes.tolist(), strict=True):
            piece[place] = 3 + label  # this token determines the label
        tokens, sequences = torch.cat(pieces), Sequences.from_lengths(lengths)
        if shuffled:
            classes = classes[torch.randperm(50, generator=generator)]
        extra = ()
        if problem == "regression":
            labels = classes[:, None].float()
        elif problem == "multi_label_classification":
            labels = torch.stack([classes != 0, classes > 1, classes == 0], 1).float()
        elif head is SequenceClassifier:
            labels = classes
        elif head is TokenClassifier:
            labels = torch.where(tokens < 9, tokens - 2, 0).clamp(max=2)
        elif head is QuestionAnswering:
            labels = torch.tensor(places)[:, None].expand(50, 2)
        else:
            scores = torch.tensor([int(piece[place] == 3) for piece, place in zip(pieces, places, strict=True)])
            labels, extra = scores.view(10, 5).argmax(1), ((5,) * 10,)
        yield number, tokens, sequences, labels, extra


def fit(head, problem=None, shuffled=False, epochs=30):
    names = {"id2label": {0: "number"}} if problem == "regression" else THREE
    model = make(head, **names, problem_type=problem).train()
    optimizer = StableAdamW(parameter_groups(model, 0.0), lr=3e-3, peak_lr=3e-3)
    batches = list(examples(head, problem, shuffled))
    for _ in range(epochs):
        for _, tokens, sequences, labels, extra in batches:
            model.loss(tokens, sequences, labels, *extra).backward()
            optimizer.step()
            optimizer.zero_grad()
    return model.eval(), batches


@torch.no_grad()
def accuracy(model, batches):
    right = total = 0
    for _, tokens, sequences, labels, extra in batches:
        output = model(tokens, sequences)
        if isinstance(model, QuestionAnswering):
            found = torch.stack([part.argmax(0) for part in output.split(sequences.lengths)])
        elif isinstance(model, MultipleChoice):
            found = torch.stack([part.argmax() for part in output.split(extra[0])])
        elif labels.is_floating_point():
            found = output.round() if output.shape[1] == 1 else (output > 0).float()
        else:
            found = output.argmax(-1)
        right, total = right + int((found == labels).sum()), total + labels.numel()
    return right / total


@pytest.mark.parametrize(
    ("head", "problem"),
    [
        (SequenceClassifier, None),
        *(pytest.param(head, None, marks=pytest.mark.slow) for head in HEADS[1:]),
        pytest.param(SequenceClassifier, "multi_label_classification", marks=pytest.mark.slow),
        pytest.param(SequenceClassifier, "regression", marks=pytest.mark.slow),
    ],
)
def test_200_examples_are_learned_by_heart(head, problem):
    assert accuracy(*fit(head, problem)) == 1.0


def test_shuffled_labels_give_chance_on_held_out_examples():
    model, _ = fit(SequenceClassifier, shuffled=True, epochs=15)
    generator = torch.Generator().manual_seed(9)
    tokens = torch.randint(9, 96, (6000,), generator=generator)
    classes = torch.randint(0, 3, (1000,), generator=generator)
    tokens[::6] = 3 + classes
    fresh = [(0, tokens, Sequences.from_lengths([6] * 1000), classes, ())]
    assert abs(accuracy(model, fresh) - 1 / 3) < 0.1
    learned, _ = fit(SequenceClassifier, epochs=15)
    assert accuracy(learned, fresh) > 0.9  # the test detects real learning


def parts(lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(4, 96, (sum(lengths),), generator=generator), Sequences.from_lengths(lengths)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("head", [SequenceClassifier, MultipleChoice])
@pytest.mark.parametrize("lengths", [(0, 5, 3), (5, 0, 3), (5, 3, 0), (0, 0, 4), (0, 5, 0, 0, 3, 0)])
def test_an_empty_sequence_is_pooled_to_zeros_and_leaves_its_neighbours_alone(lengths, head, pooling):
    model = make(head, classifier_pooling=pooling, **THREE).eval()
    tokens, sequences = parts(lengths)
    found = model(tokens, sequences)
    expected = iter(model(tokens, Sequences.from_lengths(length for length in lengths if length)))
    of_zeros = model.classify(torch.zeros(1, 32))[0]
    of_zeros = of_zeros if head is SequenceClassifier else of_zeros[0]
    for length, row in zip(lengths, found, strict=True):
        torch.testing.assert_close(row, next(expected) if length else of_zeros)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_gradients_of_a_batch_with_an_empty_sequence_are_finite(pooling):
    model = make(SequenceClassifier, classifier_pooling=pooling, **THREE).train()
    tokens, sequences = parts((4, 0, 3, 0))
    model.loss(tokens, sequences, torch.tensor([0, 1, 2, 0])).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


def none_labelled(head, **changes):
    """A head with a batch without labels, and its further arguments."""
    model = make(head, **(THREE | changes)).train()
    tokens, sequences = parts((4, 3))
    if head is SequenceClassifier:
        shape = (2,) if changes.get("problem_type") is None else (2, 3)
        return model, tokens, sequences, (torch.full(shape, -100 if len(shape) == 1 else -100.0),)
    if head is QuestionAnswering:
        return model, tokens, sequences, (torch.full((2, 2), -100),)
    if head is MultipleChoice:
        return model, tokens, sequences, (torch.full((1,), -100), (2,))
    return model, tokens, sequences, (torch.full((7,), -100),)


NONE_LABELLED = [(head, {}) for head in [*HEADS, MaskedLM]]
NONE_LABELLED += [(SequenceClassifier, {"problem_type": "multi_label_classification"})]


@pytest.mark.parametrize(("head", "changes"), NONE_LABELLED)
def test_the_loss_over_no_label_is_zero_and_so_are_its_gradients(head, changes):
    model, tokens, sequences, labels = none_labelled(head, **changes)
    loss = model.loss(tokens, sequences, *labels)
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    if head is not MaskedLM:
        assert model.loss(tokens, sequences, *labels, total=0.0).item() == 0
        assert model.loss(tokens, sequences, *labels, total=5.0).item() == 0
    if head in (SequenceClassifier, TokenClassifier):
        assert model.loss(tokens, sequences, *labels, class_weights=torch.ones(3)).item() == 0


def test_an_answer_outside_its_sequence_is_left_out_as_in_transformers():
    model = make(QuestionAnswering).eval()
    tokens, sequences = parts((4, 0, 3))
    inside = torch.tensor([[1, 2], [-100, -100], [0, 1]])
    outside = torch.tensor([[1, 2], [0, 0], [0, 1]])
    assert torch.equal(model.loss(tokens, sequences, outside), model.loss(tokens, sequences, inside))
    behind = torch.tensor([[1, 2], [-100, -100], [3, 900]])
    known = torch.tensor([[1, 2], [-100, -100], [-100, -100]])
    assert torch.equal(model.loss(tokens, sequences, behind), model.loss(tokens, sequences, known))


def test_a_question_without_choices_is_left_out():
    model = make(MultipleChoice).eval()
    tokens, sequences = parts((4, 2, 3))
    with_one = model.loss(tokens, sequences, torch.tensor([0, 1, 0]), (0, 3, 0))
    assert torch.equal(with_one, model.loss(tokens, sequences, torch.tensor([1]), (3,)))


def test_a_label_of_several_that_is_not_known_is_left_out():
    model = make(SequenceClassifier, problem_type="multi_label_classification", **THREE).eval()
    tokens, sequences = parts((4, 3))
    labels = torch.tensor([[0.0, 1.0, -100.0], [-100.0, -100.0, -100.0]])
    logits = model(tokens, sequences)[0, :2]
    expected = F.binary_cross_entropy_with_logits(logits, labels[0, :2], reduction="sum") / 3
    torch.testing.assert_close(model.loss(tokens, sequences, labels), expected)
