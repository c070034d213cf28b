"""Heads on the encoder. Each computes on packed tokens and has its own loss.

The losses of task heads are sums divided by `total`, the number of labels in the batch of an update, of which a call
may get only a microbatch. The default is the number of given labels: then the loss is a mean, as in `transformers`.
"""

from collections.abc import Callable, Iterable
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from modernbert.errors import DataError
from modernbert.kernels import layer_norm
from modernbert.kernels.cross_entropy import linear_cross_entropy
from modernbert.model.config import EncoderConfig
from modernbert.model.encoder import Encoder, make_norm, pad_to_bucket
from modernbert.model.folder import Pretrained
from modernbert.model.init import initialize
from modernbert.model.pooling import first_pooling, mean_pooling
from modernbert.packed import IGNORED, Sequences


class PredictionHead(nn.Module):
    """Dense, GELU, LayerNorm, between the encoder and every classifier or decoder."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size, bias=config.classifier_bias)
        self.norm = make_norm(config)

    def forward(self, x: Float[Tensor, "rows hidden"]) -> Float[Tensor, "rows hidden"]:
        return layer_norm(F.gelu(self.dense(x)), self.norm)


class MaskedLM(Pretrained):
    """The masked language model: encoder, prediction head, decoder (tied to the embedding unless configured not to)."""

    architecture = "ModernBertForMaskedLM"

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Encoder(config)
        self.head = PredictionHead(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size, bias=config.decoder_bias)
        initialize(self.head, config)
        initialize(self.decoder, config)
        self.tie_weights()

    @property
    def tied(self) -> frozenset[str]:
        return frozenset({"decoder.weight"} if self.config.tie_word_embeddings else ())

    def tie_weights(self) -> None:
        if self.tied:
            self.decoder.weight = self.model.embeddings.tok_embeddings.weight

    def forward(self, tokens: Int[Tensor, "tokens"], sequences: Sequences) -> Float[Tensor, "tokens vocab"]:
        """Logits of every token."""
        return self.decoder(self.head(self.model(tokens, sequences)))

    def logits_at(
        self, tokens: Int[Tensor, "tokens"], sequences: Sequences, rows: Bool[Tensor, "tokens"]
    ) -> Float[Tensor, "rows vocab"]:
        """Logits of some tokens only, in their order. Other tokens are not decoded."""
        _check_shape("rows", rows, (sequences.num_tokens,))
        return self.decoder(self.head(self.model(tokens, sequences)[rows]))

    def loss(
        self, tokens: Int[Tensor, "tokens"], sequences: Sequences, labels: Int[Tensor, "tokens"]
    ) -> Float[Tensor, ""]:
        """Mean cross-entropy (nats) over the tokens whose label is not -100, or 0 without such tokens.

        Only those rows are decoded, in chunks.

        Raises:
            DataError: there is not one label for each token, or one is outside the vocabulary.
        """
        _check_shape("labels", labels, (sequences.num_tokens,))
        predicted = labels != IGNORED
        return self._loss(self.model(tokens, sequences)[predicted], labels[predicted], "mean")

    def loss_at(
        self,
        tokens: Int[Tensor, "tokens"],
        sequences: Sequences,
        rows: Int[Tensor, "predicted"],
        targets: Int[Tensor, "predicted"],
    ) -> Float[Tensor, ""]:
        """Summed cross-entropy (nats) of the tokens numbered `rows`, whose original ids are `targets`.

        Training uses this: the predicted rows are known on the host, so nothing waits for the device. A row may occur
        again with the target -100, which is ignored (padding to a fixed number of rows on CUDA).
        """
        return self._loss(self.model(tokens, sequences).index_select(0, rows), targets, "sum")

    def _loss(
        self, chosen: Float[Tensor, "rows hidden"], targets: Int[Tensor, "rows"], reduction: Literal["mean", "sum"]
    ) -> Float[Tensor, ""]:
        rows = self.head(pad_to_bucket(chosen))[: len(chosen)]
        return linear_cross_entropy(rows, self.decoder.weight, self.decoder.bias, targets, reduction)


class TaskModel(Pretrained):
    """Encoder, prediction head and linear classifier, the base of all task heads.

    From a folder without such a head, it loads the modules that exist (also the prediction head of a masked language
    model) and initializes the others randomly, the linear layer with sigma hidden^-0.5.
    """

    per_token: ClassVar[bool] = False  # one row of outputs for each token, or one for each sequence

    def __init__(self, config: EncoderConfig, outputs: int) -> None:
        super().__init__()
        self.config = config
        self.model = Encoder(config)
        self.head = PredictionHead(config)
        self.drop = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, outputs)
        self.reinitialize(self.optional_modules)

    @property
    def optional_modules(self) -> tuple[str, ...]:
        return ("head", "classifier")

    def reinitialize(self, names: Iterable[str]) -> None:
        for name in names:
            sigma = self.config.hidden_size**-0.5 if name == "classifier" else None
            initialize(self.get_submodule(name), self.config, sigma)

    def classify(self, x: Float[Tensor, "rows hidden"]) -> Float[Tensor, "rows outputs"]:
        """The outputs of the classifier for rows of the encoder."""
        return self.classifier(self.drop(self.head(pad_to_bucket(x))))[: len(x)]


class SequenceClassifier(TaskModel):
    """One row of logits for each sequence: for classes, several labels or numbers, depending on `problem_type`.

    `classifier_pooling` selects the mean of the tokens or the first token ([CLS]).
    """

    architecture = "ModernBertForSequenceClassification"

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config, len(config.labels))
        self.pool = _POOLINGS[config.classifier_pooling]
        self.problem_type = config.problem_type or (
            "regression" if len(config.labels) == 1 else "single_label_classification"
        )
        self.losses = _LOSSES[self.problem_type]

    def forward(self, tokens: Int[Tensor, "tokens"], sequences: Sequences) -> Float[Tensor, "sequences labels"]:
        """Logits, or the predicted numbers. An empty sequence is pooled to a vector of zeros."""
        return self.classify(self.pool(self.model(tokens, sequences), sequences))

    def loss(
        self,
        tokens: Int[Tensor, "tokens"],
        sequences: Sequences,
        labels: Shaped[Tensor, "sequences *labels"],
        total: float | None = None,
        class_weights: Float[Tensor, "labels"] | None = None,
    ) -> Float[Tensor, ""]:
        """Cross-entropy for classes (`labels` are class numbers, or -100), binary cross-entropy for several labels (0,
        1 or -100 each), and squared error for numbers; the last two are averaged over the labels of a sequence.

        -100 is ignored. With `class_weights`, a sequence has the weight of its class, and `total` is the sum of these
        weights. For several labels, the weights apply to positive labels, and `total` is the number of sequences.

        Raises:
            DataError: the numbers of labels and sequences differ, or a label is not the number of a class.
        """
        return self.losses(self(tokens, sequences), labels, total, class_weights)


class TokenClassifier(TaskModel):
    """One row of logits for each token."""

    architecture = "ModernBertForTokenClassification"
    per_token = True

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config, len(config.labels))

    def forward(self, tokens: Int[Tensor, "tokens"], sequences: Sequences) -> Float[Tensor, "tokens labels"]:
        """Logits of every token."""
        return self.classify(self.model(tokens, sequences))

    def loss(
        self,
        tokens: Int[Tensor, "tokens"],
        sequences: Sequences,
        labels: Int[Tensor, "tokens"],
        total: float | None = None,
        class_weights: Float[Tensor, "labels"] | None = None,
    ) -> Float[Tensor, ""]:
        """Cross-entropy over the tokens whose label is not -100. Only those rows reach the classifier.

        With `class_weights`, each token has the weight of its class, and `total` is the sum of these weights.

        Raises:
            DataError: the numbers of labels and tokens differ, or a label is not the number of a class.
        """
        _check_shape("labels", labels, (sequences.num_tokens,))
        labelled = labels != IGNORED
        logits = self.classify(self.model(tokens, sequences)[labelled])
        return _cross_entropy(logits, labels[labelled], total, class_weights)


class QuestionAnswering(TaskModel):
    """Start and end scores of an answer for each token. The first token means "no answer"."""

    architecture = "ModernBertForQuestionAnswering"
    per_token = True

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config, 2)

    def forward(self, tokens: Int[Tensor, "tokens"], sequences: Sequences) -> Float[Tensor, "tokens 2"]:
        """Start and end logits of every token."""
        return self.classify(self.model(tokens, sequences))

    def loss(
        self,
        tokens: Int[Tensor, "tokens"],
        sequences: Sequences,
        labels: Int[Tensor, "sequences 2"],
        total: float | None = None,
    ) -> Float[Tensor, ""]:
        """Cross-entropy over the tokens of each sequence, the mean of start and end.

        `labels` are the positions of the first and last token of the answer in the sequence; -100 and positions outside
        of the sequence are ignored.

        Raises:
            DataError: there are not two labels for each sequence, or a label is negative.
        """
        _check_shape("labels", labels, (sequences.num_sequences, 2))
        begins, ends = (_rows(scores, sequences.lengths) for scores in self(tokens, sequences).unbind(-1))
        first, last = _ignore_outside(labels, sequences.lengths).unbind(-1)
        return (_cross_entropy(begins, first, total) + _cross_entropy(ends, last, total)) / 2


class MultipleChoice(TaskModel):
    """One score for each sequence, which is a question with one of its choices."""

    architecture = "ModernBertForMultipleChoice"

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config, 1)
        self.pool = _POOLINGS[config.classifier_pooling]

    def forward(self, tokens: Int[Tensor, "tokens"], sequences: Sequences) -> Float[Tensor, "sequences"]:
        """The score of each choice, for comparison with other choices of the same question."""
        return self.classify(self.pool(self.model(tokens, sequences), sequences)).squeeze(-1)

    def loss(
        self,
        tokens: Int[Tensor, "tokens"],
        sequences: Sequences,
        labels: Int[Tensor, "questions"],
        choices: tuple[int, ...],
        total: float | None = None,
    ) -> Float[Tensor, ""]:
        """Cross-entropy over the choices of each question. Question i consists of the next `choices[i]` sequences.

        Raises:
            DataError: the numbers of labels and questions, or of choices and sequences, differ, or a label is negative.
        """
        _check_shape("labels", labels, (len(choices),))
        if sum(choices) != sequences.num_sequences:
            raise DataError(f"There are {sum(choices)} choices of questions but {sequences.num_sequences} sequences.")
        return _cross_entropy(_rows(self(tokens, sequences), choices), _ignore_outside(labels, choices), total)


def _rows(scores: Float[Tensor, "scores"], lengths: tuple[int, ...]) -> Float[Tensor, "rows longest"]:
    """Consecutive scores as a row for each of `lengths`, padded with minus infinity."""
    if not lengths:
        return scores.new_zeros(0, 1)
    return nn.utils.rnn.pad_sequence(list(scores.split(lengths)), batch_first=True, padding_value=-torch.inf)


def _ignore_outside(labels: Int[Tensor, "rows *two"], lengths: tuple[int, ...]) -> Int[Tensor, "rows *two"]:
    """Labels that are positions in rows of `lengths`; positions outside a row become -100."""
    limits = torch.tensor(lengths, device=labels.device).view(-1, *[1] * (labels.dim() - 1))
    return labels.masked_fill(labels >= limits, IGNORED)


def _check_shape(name: str, given: Tensor, wanted: tuple[int, ...]) -> None:
    if given.shape != wanted:
        raise DataError(f"The {name} have the shape {tuple(given.shape)}, but these sequences need {wanted}.")


def _mean_of(nats: Float[Tensor, ""], count: int | float | Tensor) -> Float[Tensor, ""]:
    """A sum divided by its count; the sum over nothing is 0."""
    return nats / count if count else nats


def _cross_entropy(
    logits: Float[Tensor, "rows classes"],
    labels: Int[Tensor, "rows"],
    total: float | None,
    weights: Float[Tensor, "classes"] | None = None,
) -> Float[Tensor, ""]:
    _check_shape("labels", labels, (len(logits),))
    if labels.dtype not in (torch.int64, torch.uint8):
        raise DataError(f"The labels are numbers of classes in int64, not {labels.dtype}.")
    try:
        labelled = labels[labels != IGNORED]
        weight_sum = weights[labelled].sum() if weights is not None else len(labelled)
        nats = F.cross_entropy(logits.float(), labels, weights, ignore_index=IGNORED, reduction="sum")
    except IndexError:
        raise DataError(f"A label is outside the {logits.shape[1]} classes, from 0 on; only -100 may be.") from None
    return _mean_of(nats, weight_sum if total is None else total)


def _binary_cross_entropy(
    logits: Float[Tensor, "rows labels"],
    labels: Float[Tensor, "rows labels"],
    total: float | None,
    weights: Float[Tensor, "labels"] | None = None,
) -> Float[Tensor, ""]:
    _check_shape("labels", labels, tuple(logits.shape))
    labelled = labels != IGNORED
    nats = F.binary_cross_entropy_with_logits(
        logits.float(), labels.where(labelled, 0), labelled.to(torch.float32), pos_weight=weights, reduction="sum"
    )
    return _mean_of(nats / logits.shape[1], int(labelled.any(1).sum()) if total is None else total)


def _squared_error(
    numbers: Float[Tensor, "rows labels"],
    labels: Float[Tensor, "rows labels"],
    total: float | None,
    weights: Float[Tensor, "labels"] | None = None,
) -> Float[Tensor, ""]:
    assert weights is None, "regression has no classes"
    _check_shape("labels", labels, tuple(numbers.shape))
    error = F.mse_loss(numbers.float(), labels, reduction="sum")
    return _mean_of(error / labels.shape[1], len(labels) if total is None else total)


_Pooling = Callable[[Tensor, Sequences], Tensor]
_POOLINGS: dict[str, _Pooling] = {
    "mean": lambda x, sequences: mean_pooling(x.float(), sequences, 0).to(x.dtype),  # summed in fp32
    "cls": lambda x, sequences: first_pooling(x, sequences, 0),
}
_Loss = Callable[[Tensor, Tensor, float | None, Tensor | None], Tensor]
_LOSSES: dict[str, _Loss] = {
    "single_label_classification": _cross_entropy,
    "multi_label_classification": _binary_cross_entropy,
    "regression": _squared_error,
}
