"""Retrieval models: their outputs, training, and round trips through folders."""

import pytest
import torch

from modernbert.errors import CheckpointError
from modernbert.model import retrieval, sparse_pooling
from modernbert.model.expansion import encode_with_masked
from modernbert.model.interop import examine
from modernbert.model.retrieval_settings import DenseSettings, MultiVectorSettings, Projection, SparseSettings
from modernbert.packed import Sequences
from retrieval import base_folder

KINDS = [retrieval.DenseEncoder, retrieval.CrossEncoder, retrieval.MultiVectorEncoder, retrieval.SparseEncoder]
LENGTHS = [7, 0, 1, 40]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return base_folder(tmp_path_factory.mktemp("base"))


def batch(lengths=LENGTHS):
    torch.manual_seed(1)
    return torch.randint(5, 900, (sum(lengths),)), Sequences.from_lengths(lengths)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_gives_the_same_model_and_settings(kind, base, tmp_path):
    model = kind.from_pretrained(base)
    model.save_pretrained(tmp_path)
    again = kind.from_pretrained(tmp_path)
    torch.testing.assert_close(again(*batch()), model(*batch()), rtol=0, atol=0)
    again.save_pretrained(tmp_path / "second")
    assert kind.from_pretrained(tmp_path / "second").settings == again.settings


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_parameter(kind, base):
    model = kind.from_pretrained(base).train()
    assert kind is not retrieval.SparseEncoder or model.decoder.weight is model.model.embeddings.tok_embeddings.weight
    model(*batch()).square().sum().backward()
    assert [name for name, one in model.named_parameters() if one.grad is None or not one.grad.any()] == []


def test_another_kind_of_folder_is_refused_with_the_class_that_loads_it(base, tmp_path):
    retrieval.SparseEncoder.from_pretrained(base).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="load it with SparseEmbedder"):
        retrieval.DenseEncoder.from_pretrained(tmp_path)


def test_a_saved_kind_leaves_nothing_of_the_one_before(base, tmp_path):
    settings = DenseSettings(projections=(Projection(in_features=64, out_features=8),), normalize=True)
    retrieval.DenseEncoder.from_pretrained(base, settings=settings).save_pretrained(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    retrieval.SparseEncoder.from_pretrained(base).save_pretrained(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert "1_Pooling" not in names
    assert "2_Dense" not in names
    assert "notes.txt" in names
    retrieval.SparseEncoder.from_pretrained(tmp_path)


@pytest.mark.parametrize("chunk", [64 * 53, 1 << 24])
def test_the_largest_logits_and_their_gradients_are_those_of_all_logits(chunk, monkeypatch):
    monkeypatch.setattr(sparse_pooling, "_ELEMENTS", chunk)
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(*shape, requires_grad=True) for shape in ((48, 8), (300, 8), (300,)))
    sequences = Sequences.from_lengths(LENGTHS)
    upstream = torch.randn(4, 300)
    found = sparse_pooling.highest_logits(x, weight, bias, sequences)
    kept = [0, 2, 3]
    (found[kept] * upstream[kept]).sum().backward()
    gradients = [one.grad.clone() for one in (x, weight, bias)]
    for one in (x, weight, bias):
        one.grad = None
    logits = x @ weight.t() + bias
    expected = torch.stack([part.max(0).values for part in logits.split(LENGTHS) if len(part)])
    (expected * upstream[kept]).sum().backward()
    torch.testing.assert_close(found[kept], expected)
    assert (found[1] == -torch.inf).all()
    for gradient, one in zip(gradients, (x, weight, bias), strict=True):
        torch.testing.assert_close(gradient, one.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", ["relu", "log1p_relu"])
def test_a_sum_of_activations_learns_as_all_logits_do(activation, base):
    settings = SparseSettings(pooling="sum", activation=activation)
    model = retrieval.SparseEncoder.from_pretrained(base, settings=settings)
    tokens, sequences = batch()
    found = model(tokens, sequences)
    values = model.decoder(model.head(model.model(tokens, sequences))).relu().log1p()
    values = values.log1p() if activation == "log1p_relu" else values
    expected = torch.stack([part.sum(0) for part in values.split(LENGTHS)])
    torch.testing.assert_close(found, expected)
    parameters = list(model.parameters())
    ours = torch.autograd.grad(found.square().sum(), parameters)
    for one, other in zip(ours, torch.autograd.grad(expected.square().sum(), parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3 * float(other.abs().max()))


def test_where_all_tokens_are_seen_nothing_changes(base):
    model = retrieval.MultiVectorEncoder.from_pretrained(base)
    tokens, sequences = batch()
    seen = torch.ones(len(tokens), dtype=torch.bool)
    expected = model.model(tokens, sequences)
    torch.testing.assert_close(encode_with_masked(model.model, tokens, sequences, seen), expected)


def test_unseen_tokens_change_nothing_for_the_others(base):
    model = retrieval.MultiVectorEncoder.from_pretrained(base).train()
    tokens, _ = batch([12])
    seen = torch.arange(12) < 9
    whole = model(tokens, Sequences.from_lengths([12]), seen)
    torch.testing.assert_close(whole[:9], model(tokens[:9], Sequences.from_lengths([9])))
    whole.sum().backward()
    assert all(one.grad.isfinite().all() for one in model.parameters())


def test_a_projection_of_another_width_is_refused(base):
    settings = MultiVectorSettings(projections=(Projection(in_features=32, out_features=8),))
    with pytest.raises(CheckpointError, match="has in_features 32, but its input has 64"):
        retrieval.MultiVectorEncoder.from_pretrained(base, settings=settings)


def test_servers_that_leave_out_a_dense_layer_are_named(base, tmp_path):
    layer = Projection(in_features=64, out_features=64)
    for name, settings, said in (
        ("projected", DenseSettings(projections=(layer,)), "leave the Dense layer out"),
        ("prompted", DenseSettings(include_prompt=False), "not known to exclude the prompt"),
        ("plain", DenseSettings(), None),
    ):
        retrieval.DenseEncoder.from_pretrained(base, settings=settings).save_pretrained(tmp_path / name)
        found = {one.program: one for one in examine(tmp_path / name)}
        for server in ("text-embeddings-inference", "vLLM"):
            assert found[server].same == (said is None)
            assert [said in reason for reason in found[server].reasons] == [True] * (said is not None)
