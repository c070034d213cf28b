"""Cached gradients equal those of the loss over all texts at once."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from modernbert.model import Encoder, EncoderConfig
from modernbert.packed import Sequences
from modernbert.tasks.ranking.contrastive import info_nce
from modernbert.tasks.ranking.gradient_cache import cached_backward
from modernbert.tasks.ranking.maxsim import maxsim

LENGTHS = [5, 9, 3, 12, 7, 4, 11, 6, 8, 5, 6, 10]  # four queries, four positives, four negatives
PARTS = [[0, 1, 2, 3, 4], [5, 6], [7, 8, 9, 10, 11]]


def encoder(dropout: float) -> Encoder:
    torch.manual_seed(3)
    config = EncoderConfig(
        vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        local_attention=8, global_attn_every_n_layers=2, embedding_dropout=dropout, mlp_dropout=dropout,
        attention_output_dropout=dropout,
        pad_token_id=0, cls_token_id=1, sep_token_id=2, mask_token_id=3,
    )  # fmt: skip
    return Encoder(config).train()


def texts() -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(4, 60, (length,), generator=generator) for length in LENGTHS]


def hidden(model: Encoder, ids: list[Tensor]) -> tuple[Tensor, list[int]]:
    lengths = [len(each) for each in ids]
    return model(torch.cat(ids), Sequences.from_lengths(lengths)), lengths


def pooled(model: Encoder, ids: list[Tensor]) -> Tensor:
    rows, lengths = hidden(model, ids)
    return F.normalize(torch.stack([each.mean(0) for each in rows.split(lengths)]), dim=1)


def dense_loss(vectors: Tensor) -> Tensor:
    return info_nce(vectors[:4] @ vectors[4:].T, torch.arange(4), temperature=0.1, both_ways=True)


def late_loss(vectors: Tensor) -> Tensor:
    queries, documents = sum(LENGTHS[:4]), LENGTHS[4:]
    scores = maxsim(vectors[:queries], LENGTHS[:4], vectors[queries:], documents)
    return info_nce(scores, torch.arange(4), temperature=1.0)


def gradients(model: Encoder) -> list[Tensor]:
    found = []
    for parameter in model.parameters():
        assert parameter.grad is not None
        found.append(parameter.grad.clone())
        parameter.grad = None
    return found


def embed_late(model: Encoder, ids: list[Tensor]) -> Tensor:
    return F.normalize(hidden(model, ids)[0], dim=1)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize(("embed", "loss"), [(pooled, dense_loss), (embed_late, late_loss)])
def test_cached_gradients_equal_uncached_ones(embed, loss, keep: bool) -> None:
    model, ids = encoder(0.0), texts()
    full_loss = loss(embed(model, ids))
    full_loss.backward()
    expected = gradients(model)
    parts = [[ids[index] for index in part] for part in PARTS]
    value = cached_backward(parts, lambda part: embed(model, part), loss, seed=1, keep=keep)
    assert value == pytest.approx(float(full_loss.detach()), abs=1e-5)
    for ours, theirs in zip(gradients(model), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_dropout_is_the_same_in_both_passes() -> None:
    model = encoder(0.2)
    parts = [[texts()[index] for index in part] for part in PARTS]
    dropped: list[Tensor] = []

    def embed(part: list[Tensor]) -> Tensor:
        dropped.append(pooled(model, part))
        return dropped[-1]

    cached_backward(parts, embed, dense_loss, seed=7)
    first, second = dropped[:3], dropped[3:]
    for once, again in zip(first, second, strict=True):
        torch.testing.assert_close(once, again, rtol=0, atol=0)
    assert not torch.equal(pooled(model, parts[0]), first[0]), "dropout drops"


def test_gradients_with_dropout_equal_those_of_one_graph() -> None:
    model = encoder(0.2)
    parts = [[texts()[index] for index in part] for part in PARTS]
    graphs: list[Tensor] = []

    def embed(part: list[Tensor]) -> Tensor:
        vectors = pooled(model, part)
        if not torch.is_grad_enabled():  # the first pass: also build the graph of the loss
            state = torch.get_rng_state()
            torch.manual_seed(torch.initial_seed())
            with torch.enable_grad():
                graphs.append(pooled(model, part))
            torch.set_rng_state(state)
        return vectors

    cached_backward(parts, embed, dense_loss, seed=7)
    cached = gradients(model)
    dense_loss(torch.cat(graphs)).backward()
    for ours, theirs in zip(cached, gradients(model), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_another_seed_gives_another_dropout() -> None:
    model, dropped = encoder(0.2), []
    for seed in (1, 2):
        cached_backward(
            [texts()], lambda part: dropped.append(pooled(model, part)) or dropped[-1], dense_loss, seed=seed
        )
    assert not torch.equal(dropped[0], dropped[1])


_WORKER = """
import json, os, sys
import torch
from torch import distributed
sys.path.insert(0, os.environ["TESTS"])
import test_gradient_cache as test
from modernbert.tasks.ranking.gradient_cache import cached_backward

distributed.init_process_group("gloo")
rank = distributed.get_rank()
model, ids = test.encoder(0.0), test.texts()
own = [[0, 1, 2], [3, 4]] if rank == 0 else [[5, 6, 7, 8], [9], [10, 11]]
parts = [[ids[index] for index in part] for part in own]
value = cached_backward(
    parts, lambda part: test.pooled(model, part), test.dense_loss, seed=1, group=distributed.group.WORLD
)
for parameter in model.parameters():
    distributed.all_reduce(parameter.grad)
if rank == 0:
    torch.save({"value": value, "gradients": test.gradients(model)}, sys.argv[1])
distributed.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_have_the_gradient_of_all_texts(tmp_path: Path) -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    shared = os.environ | {
        "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1",
        "TESTS": str(Path(__file__).parent),
    }  # fmt: skip
    command = [sys.executable, "-c", _WORKER, str(tmp_path / "found.pt")]
    workers = [
        subprocess.Popen(command, env=shared | {"RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    told = [worker.communicate(timeout=120)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], json.dumps(told)
    found = torch.load(tmp_path / "found.pt")
    model = encoder(0.0)
    full_loss = dense_loss(pooled(model, texts()))
    full_loss.backward()
    assert found["value"] == pytest.approx(float(full_loss.detach()), abs=1e-5)
    for ours, theirs in zip(found["gradients"], gradients(model), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
