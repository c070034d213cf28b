"""Distillation: losses on the scores of a teacher."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

_SMALLEST_RANGE = 1e-8  # of scores that are scaled to 0..1, as in PyLate


def margin_mse(
    scores: Float[Tensor, "queries documents"],
    teacher: Float[Tensor, "queries documents"],
    present: Bool[Tensor, "queries documents"] | None = None,
) -> Float[Tensor, ""]:
    """Mean squared error of score differences (Hofstätter et al. 2020, arXiv 2010.02666).

    The first document of each query is the positive; its score differences to the others are learned. Documents that
    are not `present` are padding.
    """
    error = (scores[:, :1] - scores[:, 1:]).float() - (teacher[:, :1] - teacher[:, 1:]).float()
    return _mean(error.square(), None if present is None else present[:, 1:])


def score_mse(
    scores: Float[Tensor, "*documents"], teacher: Float[Tensor, "*documents"], present: Tensor | None = None
) -> Float[Tensor, ""]:
    """Mean squared error of the scores themselves."""
    return _mean((scores.float() - teacher.float()).square(), present)


def kl_divergence(
    scores: Float[Tensor, "queries documents"],
    teacher: Float[Tensor, "queries documents"],
    *,
    temperature: float = 1.0,
    teacher_temperature: float | None = None,
    min_max: bool = False,
    present: Bool[Tensor, "queries documents"] | None = None,
) -> Float[Tensor, ""]:
    """Mean over queries of KL(teacher, student), both softmax over the documents of a query, in nats.

    Scores are divided by `temperature`, the teacher's by `teacher_temperature` (the same unless given), and the loss
    is multiplied by the square of the former, so that its gradients do not shrink with it (Lin et al. 2020,
    arXiv 2010.11386). With `min_max` the student's scores of each query are first scaled to 0..1, as in the training of
    the published ColBERT of ModernBERT (PyLate's `normalize_scores`).
    """
    scores, teacher = scores.float(), teacher.float()
    if min_max:
        low, high = _extremes(scores, present)
        scores = (scores - low) / (high - low + _SMALLEST_RANGE)
    student = scores / temperature
    target = teacher / (temperature if teacher_temperature is None else teacher_temperature)
    if present is not None:
        student, target = (x.masked_fill(~present, -torch.inf) for x in (student, target))
    log_student, log_target = (F.log_softmax(x, dim=1) for x in (student, target))
    terms = log_target.exp() * (log_target - log_student)
    if present is not None:
        terms = terms.where(present, 0)
    return terms.sum() / len(scores) * temperature**2


def _extremes(scores: Tensor, present: Tensor | None) -> tuple[Tensor, Tensor]:
    if present is None:
        return scores.amin(1, keepdim=True), scores.amax(1, keepdim=True)
    return (
        scores.masked_fill(~present, torch.inf).amin(1, keepdim=True),
        scores.masked_fill(~present, -torch.inf).amax(1, keepdim=True),
    )


def _mean(values: Tensor, present: Tensor | None) -> Tensor:
    return values.mean() if present is None else values.where(present, 0).sum() / present.sum().clamp(min=1)
