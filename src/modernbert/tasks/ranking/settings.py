"""What a ranker is trained with: the loss and what belongs to it."""

from typing import Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from modernbert.config import Config

RankingKind = Literal["embed", "rerank", "multi-vector", "sparse"]
LossName = Literal["contrastive", "margin-mse", "kl", "cosent", "angle", "binary", "mse", "lambda"]

RANKING_TASKS: tuple[RankingKind, ...] = ("embed", "rerank", "multi-vector", "sparse")
LOSSES: dict[RankingKind, tuple[LossName, ...]] = {  # the first one where examples have no scores
    "embed": ("contrastive", "margin-mse", "kl", "cosent", "angle", "mse"),
    "multi-vector": ("contrastive", "kl", "margin-mse"),
    "sparse": ("contrastive", "margin-mse", "kl", "mse"),
    "rerank": ("binary", "mse", "margin-mse", "kl", "lambda", "contrastive"),
}
_TEMPERATURES: dict[RankingKind, float] = {"embed": 0.05, "multi-vector": 1.0, "sparse": 1.0, "rerank": 1.0}


class RankingLoss(Config):
    """The loss of a ranker.

    `contrastive` asks for the first document of each query among those of the whole batch (of a reranker: among its
    own); the others learn scores. Temperatures divide scores: cosines of dense vectors, sums of them in late
    interaction, dot products of sparse vectors, logits of a reranker.
    """

    name: LossName | None = None  # the task's own unless set
    temperature: PositiveFloat | None = None  # 0.05 of cosines, otherwise 1
    teacher_temperature: PositiveFloat | None = None  # of kl; the same unless set
    both_ways: bool = False  # contrastive: each positive also asks for its query
    in_batch: bool = True  # contrastive: documents of other queries are negatives
    margin: float | None = None  # contrastive: leave out what scores above the positive's score minus this
    margin_kind: Literal["absolute", "relative"] = "absolute"
    guide: str | None = None  # the model that says so; the trained one itself unless set
    min_max: bool = False  # kl: scores of each query are brought to 0..1 first
    scale: PositiveFloat = 20.0  # of cosent and angle
    top: PositiveInt | None = None  # of lambda
    matryoshka: tuple[PositiveInt, ...] = ()  # dense: also learn vectors cut to these lengths
    query_flops: NonNegativeFloat = 5e-5  # sparse: weight of the regulariser of queries
    document_flops: NonNegativeFloat = 3e-5
    flops_warmup: float = Field(1 / 3, ge=0, le=1)  # part of the run in which they grow to these weights

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.guide is not None and self.margin is None:
            raise ValueError(
                "guide is set but margin is not, which says what it leaves out; 0 takes the positive itself"
            )
        return self

    def of(self, kind: RankingKind, has_scores: bool) -> "ResolvedLoss":
        """With the defaults of a task; `has_scores` says whether its examples come with scores.

        Raises:
            ValueError: the task has no such loss, or the loss needs scores that are not there.
        """
        name = self.name or (("mse" if kind == "rerank" else "kl") if has_scores else LOSSES[kind][0])
        if name not in LOSSES[kind]:
            raise ValueError(
                f"loss.name is {name!r}, which {kind!r} does not have; take one of {', '.join(LOSSES[kind])}"
            )
        if name in _NEED_SCORES and not has_scores:
            raise ValueError(f"loss.name is {name!r}, which needs a column of scores; there is none")
        if self.matryoshka and kind != "embed":
            raise ValueError(f"loss.matryoshka is for the task 'embed', not for {kind!r}")
        return ResolvedLoss(settings=self, name=name, temperature=self.temperature or _TEMPERATURES[kind])


_NEED_SCORES: tuple[LossName, ...] = ("margin-mse", "kl", "cosent", "angle", "mse")


class ResolvedLoss(Config):
    """A loss under the defaults of its task."""

    settings: RankingLoss
    name: LossName
    temperature: PositiveFloat
