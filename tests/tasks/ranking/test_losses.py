"""Each loss equals that of sentence-transformers 6.2 or PyLate 1.6 on the same tensors, gradients too."""

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modernbert.tasks.ranking.contrastive import info_nce, known_positives, likely_positives
from modernbert.tasks.ranking.distillation import kl_divergence, margin_mse, score_mse
from modernbert.tasks.ranking.graded import angle, cosent, matryoshka
from modernbert.tasks.ranking.listwise import binary, lambda_loss
from modernbert.tasks.ranking.maxsim import EMPTY_SCORE, maxsim, maxsim_per_query, maxsim_scores
from modernbert.tasks.ranking.sparsity import flops, warmed_up

st = pytest.importorskip("sentence_transformers")


def assert_same(ours: Tensor, theirs: Tensor, leaves: list[Tensor], tolerance: float = 1e-5) -> None:
    """Equal values and equal gradients with respect to every leaf."""
    torch.testing.assert_close(ours, theirs.to(ours.dtype), rtol=tolerance, atol=tolerance)
    for one, other in zip(torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, leaves), strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def vectors(rows: int, dim: int = 16, seed: int = 0) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def cosines(x: Tensor, y: Tensor) -> Tensor:
    return F.normalize(x, dim=1) @ F.normalize(y, dim=1).T


def pairwise(x: Tensor, y: Tensor) -> Tensor:
    return F.cosine_similarity(x, y)


class StubEncoder(nn.Module):
    """The part of a model that the losses of sentence-transformers need before they get embeddings."""

    num_labels = 1
    device = torch.device("cpu")

    def get_embedding_dimension(self) -> int:
        return 16


@pytest.mark.parametrize("both_ways", [False, True])
def test_info_nce_is_multiple_negatives_ranking(both_ways: bool) -> None:
    from sentence_transformers.sentence_transformer import losses

    directions = ("query_to_doc", "doc_to_query") if both_ways else ("query_to_doc",)
    kind = partial(losses.MultipleNegativesRankingLoss, directions=directions, partition_mode="per_direction")
    queries, positives, negatives = vectors(7), vectors(7, seed=1), vectors(7, seed=2)
    theirs = kind(StubEncoder(), scale=20.0).compute_loss_from_embeddings([queries, positives, negatives], None)
    scores = cosines(queries, torch.cat([positives, negatives]))
    ours = info_nce(scores, torch.arange(7), temperature=0.05, both_ways=both_ways)
    assert_same(ours, theirs, [queries, positives, negatives])


@pytest.mark.parametrize("kind", ["absolute", "relative"])
def test_a_guide_excludes_the_same_documents_as_gist(kind: Any) -> None:
    from sentence_transformers.sentence_transformer import losses

    queries, positives, negatives = (vectors(9, seed=seed) for seed in (0, 1, 2))
    guides = [vectors(9, seed=seed).detach() for seed in (3, 4, 5)]
    loss = losses.GISTEmbedLoss.__new__(losses.GISTEmbedLoss)
    nn.Module.__init__(loss)
    loss.temperature, loss.margin, loss.margin_strategy = 0.1, 0.05, kind
    loss.contrast_anchors = loss.contrast_positives = loss.gather_across_devices = loss.must_retokenize = False
    loss.similarity_fct, loss.cross_entropy_loss = nn.CosineSimilarity(dim=-1), nn.CrossEntropyLoss()
    loss.model, loss.guide = Embedded(), Embedded()
    features = [
        {"own": own, "guide": guide} for own, guide in zip((queries, positives, negatives), guides, strict=True)
    ]
    loss.model.key, loss.guide.key = "own", "guide"
    theirs = loss(features, None)
    target = torch.arange(9)
    guide_scores = cosines(guides[0], torch.cat(guides[1:]))
    excluded = likely_positives(guide_scores, target, 0.05, kind)
    assert excluded.any()
    assert not excluded[target, target].any()
    ours = info_nce(cosines(queries, torch.cat([positives, negatives])), target, temperature=0.1, excluded=excluded)
    assert_same(ours, theirs, [queries, positives, negatives])


class Embedded(nn.Module):
    key = ""

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"sentence_embedding": features[self.key]}


def test_known_positives_are_not_negatives() -> None:
    mask = known_positives([{"a", "c"}, {"b"}, {"a"}], ["a", "b", "a", "c"], [0, 1, 2])
    assert mask.tolist() == [
        [False, False, True, True],
        [False, False, False, False],
        [True, False, False, False],
    ]
    scores = vectors(3, 4)
    loss = info_nce(scores, torch.tensor([0, 1, 2]), temperature=1.0, excluded=mask)
    kept = -torch.stack(
        [
            scores[0, 0] - scores[0, [0, 1]].logsumexp(0),
            scores[1, 1] - scores[1].logsumexp(0),
            scores[2, 2] - scores[2, [1, 2, 3]].logsumexp(0),
        ]
    )
    torch.testing.assert_close(loss, kept.mean())


@pytest.mark.parametrize("negatives", [1, 3])
def test_margin_mse_equals_sentence_transformers(negatives: int) -> None:
    from sentence_transformers.sentence_transformer import losses

    columns = [vectors(5, seed=seed) for seed in range(2 + negatives)]
    teacher = vectors(5, 1 + negatives, seed=9).detach()
    theirs = losses.MarginMSELoss(StubEncoder(), similarity_fct=pairwise).compute_loss_from_embeddings(columns, teacher)
    scores = torch.stack([pairwise(columns[0], other) for other in columns[1:]], 1)
    assert_same(margin_mse(scores, teacher), theirs, columns)


def test_kl_divergence_equals_sentence_transformers() -> None:
    from sentence_transformers.sentence_transformer import losses

    columns = [vectors(5, seed=seed) for seed in range(4)]
    teacher = vectors(5, 3, seed=9).detach()
    theirs = losses.DistillKLDivLoss(
        StubEncoder(), similarity_fct=pairwise, temperature=0.5, teacher_temperature=0.7
    ).compute_loss_from_embeddings(columns, teacher)
    scores = torch.stack([pairwise(columns[0], other) for other in columns[1:]], 1)
    assert_same(kl_divergence(scores, teacher, temperature=0.5, teacher_temperature=0.7), theirs, columns)


def test_padding_of_lists_does_not_change_the_loss() -> None:
    scores, teacher = vectors(2, 4), vectors(2, 4, seed=1).detach()
    present = torch.tensor([[True, True, True, False], [True, True, True, True]])
    for loss in (margin_mse, kl_divergence, score_mse, binary, lambda_loss):
        labels = teacher.sigmoid() if loss is binary else teacher.abs()
        both = loss(scores, labels, present=present)
        short = loss(scores[:1, :3], labels[:1, :3], present=present[:1, :3])
        longer = loss(scores[1:], labels[1:], present=present[1:])
        counts = {margin_mse: (2, 3), kl_divergence: (1, 1), lambda_loss: (3, 6)}.get(loss, (3, 4))
        expected = (short * counts[0] + longer * counts[1]) / sum(counts)
        torch.testing.assert_close(both, expected)
        (gradient,) = torch.autograd.grad(both, scores)
        assert gradient.isfinite().all()
        assert gradient[0, 3] == 0


def test_cosent_and_angle_equal_sentence_transformers() -> None:
    from sentence_transformers.sentence_transformer import losses

    x, y = vectors(12), vectors(12, seed=1)
    labels = torch.tensor([0.0, 0.2, 0.2, 0.5, 1.0, 0.9, 0.1, 0.3, 0.5, 0.7, 0.8, 0.6])
    theirs = losses.CoSENTLoss(StubEncoder()).compute_loss_from_embeddings([x, y], labels)
    assert_same(cosent(pairwise(x, y), labels), theirs, [x, y])
    theirs = losses.AnglELoss(StubEncoder()).compute_loss_from_embeddings([x, y], labels)
    assert_same(angle(x, y, labels), theirs, [x, y], tolerance=2e-5)
    odd = [vectors(12, 15, seed=seed) for seed in (0, 1)]
    theirs = losses.AnglELoss(StubEncoder()).compute_loss_from_embeddings(odd, labels)
    assert_same(angle(odd[0], odd[1], labels), theirs, odd, tolerance=2e-5)


def test_matryoshka_equals_sentence_transformers() -> None:
    from sentence_transformers.sentence_transformer import losses

    queries, positives = vectors(6), vectors(6, seed=1)
    model = Embedded()
    model.key = "own"
    model.get_embedding_dimension = lambda: 16  # type: ignore[method-assign]
    inner = losses.MultipleNegativesRankingLoss(model)
    theirs = losses.MatryoshkaLoss(model, inner, [16, 8, 4], [1.0, 0.5, 0.25])(
        [{"own": queries}, {"own": positives}], None
    )

    def loss(rows: Tensor) -> Tensor:
        return info_nce(cosines(rows[:6], rows[6:]), torch.arange(6), temperature=0.05)

    ours = matryoshka(torch.cat([queries, positives]), loss, [16, 8, 4], [1.0, 0.5, 0.25])
    assert_same(ours, theirs, [queries, positives])


def lists(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, list[int]]:
    counts = [5, 3, 6]
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(3, 6, generator=generator).requires_grad_()
    labels = torch.randint(0, 3, (3, 6), generator=generator).float()
    present = torch.arange(6) < torch.tensor(counts).unsqueeze(1)
    return scores, labels, present, counts


class ScoredPairs(nn.Module):
    """A cross-encoder with fixed scores, for the losses that call the model."""

    num_labels = 1
    device = torch.device("cpu")

    def __init__(self, scores: list[Tensor]) -> None:
        super().__init__()
        self.scores = scores

    def preprocess(self, pairs: list[Any], **_: Any) -> dict[str, Any]:
        return {"pairs": pairs}

    def forward(self, features: dict[str, Any]) -> dict[str, Tensor]:
        return {
            "scores": torch.stack([self.scores[int(query)][int(document)] for query, document in features["pairs"]])
        }


@pytest.mark.parametrize("top", [None, 2])
def test_lambda_loss_equals_sentence_transformers(top: int | None) -> None:
    from sentence_transformers.cross_encoder import losses

    scores, labels, present, counts = lists()
    model = ScoredPairs([scores[row, :count] for row, count in enumerate(counts)])
    theirs = losses.LambdaLoss(model, k=top)(
        [["0", "1", "2"], [[str(column) for column in range(count)] for count in counts]],
        [labels[row, :count] for row, count in enumerate(counts)],
    )
    assert_same(lambda_loss(scores, labels, present, top=top), theirs, [scores])


def test_binary_cross_entropy_and_squared_error_equal_torch() -> None:
    scores, labels, present, _ = lists()
    chosen, wanted = scores[present], (labels[present] > 0).float()
    theirs = nn.BCEWithLogitsLoss()(chosen, wanted)
    assert_same(binary(scores, (labels > 0).float(), present), theirs, [scores])
    assert_same(score_mse(scores, labels, present), nn.MSELoss()(scores[present], labels[present]), [scores])


def test_flops_equal_sentence_transformers_and_warm_up_quadratically() -> None:
    from sentence_transformers.sparse_encoder import losses

    leaf = vectors(6, 40)
    rows = leaf.relu().log1p()
    for threshold in (None, 20):
        theirs = losses.FlopsLoss(StubEncoder(), threshold=threshold).compute_loss_from_embeddings(rows)
        torch.testing.assert_close(flops(rows, threshold), theirs)
    assert_same(flops(leaf.relu().log1p()), FlopsOf(leaf.relu().log1p()), [leaf])
    assert [warmed_up(4.0, progress, 0.5) for progress in (0.0, 0.25, 0.5, 1.0)] == [0.0, 1.0, 4.0, 4.0]


def FlopsOf(rows: Tensor) -> Tensor:
    from sentence_transformers.sparse_encoder import losses

    found: Tensor = losses.FlopsLoss(StubEncoder()).compute_loss_from_embeddings(rows)
    return found


def packed(lengths: list[int], seed: int) -> Tensor:
    return vectors(sum(lengths), 8, seed)


def padded(rows: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor]:
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    return nn.utils.rnn.pad_sequence(list(rows.split(lengths)), batch_first=True), mask


QUERY_LENGTHS, DOCUMENT_LENGTHS = [3, 5, 1, 4], [7, 2, 9, 1, 4, 3, 8, 2]


@pytest.mark.parametrize("tokens", [1, 3, 1 << 13])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_scores_without_gradients_equal_those_with_them(tokens, dtype, tmp_path, monkeypatch) -> None:
    """Also for more queries than one group, for documents without vectors at any place, and for a memory map."""
    monkeypatch.setattr("modernbert.tasks.ranking.maxsim._TOKENS_AT_ONCE", tokens)
    generator = torch.Generator().manual_seed(0)
    query_lengths, document_lengths = [*range(1, 5)] * 9, [0, 3, 0, 0, 7, 1, 2, 0]
    queries = torch.randn(sum(query_lengths), 8, generator=generator)
    documents = torch.randn(sum(document_lengths), 8, generator=generator).numpy().astype(dtype)
    np.save(tmp_path / "documents.npy", documents)
    mapped = np.load(tmp_path / "documents.npy", mmap_mode="r")
    expected = maxsim(queries, query_lengths, torch.from_numpy(documents).float(), document_lengths)
    found = maxsim_scores([one.numpy() for one in queries.split(query_lengths)], mapped, document_lengths)
    torch.testing.assert_close(found, expected)
    assert (found[:, [0, 2, 3, 7]] == EMPTY_SCORE).all()
    assert (maxsim_scores([queries[:0], queries[:1]], documents, document_lengths)[0] == 0).all()


@pytest.mark.parametrize("elements", [1, 40, 1 << 20])
def test_maxsim_equals_pylate_for_any_group_size(elements: int) -> None:
    from sentence_transformers.util.similarity import maxsim as theirs

    queries, documents = packed(QUERY_LENGTHS, 0), packed(DOCUMENT_LENGTHS, 1)
    (q, q_mask), (d, d_mask) = padded(queries, QUERY_LENGTHS), padded(documents, DOCUMENT_LENGTHS)
    weights = vectors(4, 8, seed=5).detach()
    ours = maxsim(queries, QUERY_LENGTHS, documents, DOCUMENT_LENGTHS, elements)
    assert_same((ours * weights).sum(), (theirs(q, d, q_mask, d_mask) * weights).sum(), [queries, documents])
    torch.testing.assert_close(ours, theirs(q, d, q_mask, d_mask))


def test_a_document_without_vectors_is_last_and_has_no_gradient() -> None:
    queries, documents = packed([2, 3], 0), packed([3, 4], 1)
    scores = maxsim(queries, [2, 3], documents, [3, 0, 4, 0])
    assert (scores[:, [1, 3]] == EMPTY_SCORE).all()
    torch.testing.assert_close(scores[:, [0, 2]], maxsim(queries, [2, 3], documents, [3, 4]))
    (gradient,) = torch.autograd.grad(scores[:, [1, 3]].sum(), queries)
    assert not gradient.any()


def test_contrastive_late_interaction_equals_pylate() -> None:
    """PyLate 1.6 `losses.Contrastive`: concatenated groups of documents, cross-entropy over all of them."""
    queries, positives, negatives = packed(QUERY_LENGTHS, 0), packed([4, 3, 5, 6], 1), packed([2, 7, 3, 4], 2)
    expected = []
    for group, lengths in ((positives, [4, 3, 5, 6]), (negatives, [2, 7, 3, 4])):
        rows = [
            torch.stack([(query @ document.T).max(1).values.sum() for document in group.split(lengths)])
            for query in queries.split(QUERY_LENGTHS)
        ]
        expected.append(torch.stack(rows))
    theirs = F.cross_entropy(torch.cat(expected, 1) / 0.5, torch.arange(4))
    scores = maxsim(queries, QUERY_LENGTHS, torch.cat([positives, negatives]), [4, 3, 5, 6, 2, 7, 3, 4])
    ours = info_nce(scores, torch.arange(4), temperature=0.5)
    assert_same(ours, theirs, [queries, positives, negatives])


@pytest.mark.parametrize("min_max", [False, True])
def test_distilled_late_interaction_equals_pylate(min_max: bool) -> None:
    """PyLate 1.6 `losses.Distillation`: scores of a query's own documents, scaled to 0..1, KL with log targets."""
    queries, documents = packed(QUERY_LENGTHS, 0), packed(DOCUMENT_LENGTHS, 1)
    teacher = vectors(4, 2, seed=7).detach()
    own = documents.split(DOCUMENT_LENGTHS)
    scores = torch.stack(
        [
            torch.stack([(query @ own[2 * row + n].T).max(1).values.sum() for n in range(2)])
            for row, query in enumerate(queries.split(QUERY_LENGTHS))
        ]
    )
    if min_max:
        low, high = scores.min(1, keepdim=True).values, scores.max(1, keepdim=True).values
        scores = (scores - low) / (high - low + 1e-8)
    theirs = nn.KLDivLoss(reduction="batchmean", log_target=True)(
        F.log_softmax(scores, dim=-1), F.log_softmax(teacher, dim=-1)
    )
    ours = torch.stack(maxsim_per_query(queries, QUERY_LENGTHS, documents, DOCUMENT_LENGTHS, [2, 2, 2, 2]))
    assert_same(kl_divergence(ours, teacher, min_max=min_max), theirs, [queries, documents])


def test_distilled_late_interaction_equals_sentence_transformers() -> None:
    from sentence_transformers.multi_vector_encoder.scoring import colbert_kd_scores

    queries, documents = packed(QUERY_LENGTHS, 0), packed(DOCUMENT_LENGTHS, 1)
    (q, q_mask), (d, d_mask) = padded(queries, QUERY_LENGTHS), padded(documents, DOCUMENT_LENGTHS)
    theirs = colbert_kd_scores(q, d.unflatten(0, (4, 2)), q_mask, d_mask.unflatten(0, (4, 2)))
    ours = torch.stack(maxsim_per_query(queries, QUERY_LENGTHS, documents, DOCUMENT_LENGTHS, [2] * 4))
    torch.testing.assert_close(ours, theirs)
    teacher = vectors(4, 2, seed=7).detach()
    target = F.log_softmax(teacher / 0.25, dim=-1)
    loss = nn.KLDivLoss(reduction="batchmean", log_target=True)(F.log_softmax(theirs / 0.25, dim=-1), target)
    assert_same(kl_divergence(ours, teacher, temperature=0.25), loss * 0.25**2, [queries, documents])


def test_the_loss_of_the_ideal_order_is_below_that_of_its_reverse() -> None:
    labels = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    present = torch.ones_like(labels, dtype=torch.bool)
    ideal, reverse = (lambda_loss(sign * labels, labels, present) for sign in (1.0, -1.0))
    assert 0 < ideal < reverse < math.inf
