"""The loss of a ranker and its settings."""

from typing import Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from modernbert.config import Config

RankingKind = Literal["embed", "rerank", "multi-vector", "sparse"]
LossName = Literal["contrastive", "margin-mse", "kl", "cosent", "angle", "binary", "mse", "lambda"]

RANKING_TASKS: tuple[RankingKind, ...] = ("embed", "rerank", "multi-vector", "sparse")
LOSSES: dict[RankingKind, tuple[LossName, ...]] = {  # the first one is the default for examples without scores
    "embed": ("contrastive", "margin-mse", "kl", "cosent", "angle", "mse"),
    "multi-vector": ("contrastive", "kl", "margin-mse"),
    "sparse": ("contrastive", "margin-mse", "kl", "mse"),
    "rerank": ("binary", "mse", "margin-mse", "kl", "lambda", "contrastive"),
}
_TEMPERATURES: dict[RankingKind, float] = {"embed": 0.05, "multi-vector": 1.0, "sparse": 1.0, "rerank": 1.0}


class RankingLoss(Config):
    """The loss of a ranker.

    `contrastive` learns to find the first document of each query among those of the whole batch (rerankers: among its
    own documents); the other losses learn scores. Temperatures divide scores: cosines of dense vectors, sums of cosines
    in late interaction, dot products of sparse vectors, logits of a reranker.
    """

    name: LossName | None = None  # the loss, as in the table above; unset: the default of the task
    temperature: PositiveFloat | None = None  # divides the scores; unset: 0.05 for cosines, otherwise 1
    teacher_temperature: PositiveFloat | None = None  # kl: divides the teacher's scores; unset: as `temperature`
    both_ways: bool = False  # contrastive: also learn to find the query of each document
    in_batch: bool = True  # contrastive: documents of other queries are negatives
    margin: float | None = None  # contrastive: ignore negatives with a score above the positive's minus this
    margin_kind: Literal["absolute", "relative"] = "absolute"  # whether `margin` is a fraction of the positive's score
    guide: str | None = None  # the model whose scores `margin` uses; unset: the model in training
    min_max: bool = False  # kl: scale the teacher's scores of each query to 0..1 first
    scale: PositiveFloat = 20.0  # cosent and angle: multiplies the differences of scores
    top: PositiveInt | None = None  # lambda: only the first documents count, as in nDCG@top
    matryoshka: tuple[PositiveInt, ...] = ()  # embed: also learn vectors cut to these lengths
    query_flops: NonNegativeFloat = 5e-5  # sparse: weight of the FLOPS regularizer of queries
    document_flops: NonNegativeFloat = 3e-5  # sparse: the same for documents
    flops_warmup: float = Field(1 / 3, ge=0, le=1)  # sparse: part of the run in which both grow to these weights

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.guide is not None and self.margin is None:
            raise ValueError("guide is set but margin is not; margin = 0 uses the score of the positive itself")
        return self

    def of(self, kind: RankingKind, has_scores: bool) -> "ResolvedLoss":
        """The loss with the defaults of a task; `has_scores`: whether its examples have scores.

        Raises:
            ValueError: the task has no such loss, or the loss needs scores.
        """
        name = self.name or (("mse" if kind == "rerank" else "kl") if has_scores else LOSSES[kind][0])
        if name not in LOSSES[kind]:
            raise ValueError(
                f"loss.name is {name!r}, which {kind!r} does not have; choose one of {', '.join(LOSSES[kind])}"
            )
        if name in _NEED_SCORES and not has_scores:
            raise ValueError(f"loss.name is {name!r}, which needs a column of scores, but there is no such column")
        if self.matryoshka and kind != "embed":
            raise ValueError(f"loss.matryoshka is for the task 'embed', not for {kind!r}")
        return ResolvedLoss(settings=self, name=name, temperature=self.temperature or _TEMPERATURES[kind])


_NEED_SCORES: tuple[LossName, ...] = ("margin-mse", "kl", "cosent", "angle", "mse")


class ResolvedLoss(Config):
    """A loss with the defaults of its task."""

    settings: RankingLoss
    name: LossName
    temperature: PositiveFloat
