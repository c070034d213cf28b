import logging

import numpy as np
import pytest
import torch
from torch import nn

from modernbert.packed import Sequences
from modernbert.stream.loader import Batch
from modernbert.stream.staging import Staging
from modernbert.train.graphs import CudaRecorder, Gradients, Graphs

CPU = torch.device("cpu")


def batch_of(rows, seed=0):
    ids = torch.from_numpy(np.random.default_rng(seed).integers(0, 90, 8 * rows))
    return Batch(ids, torch.where(ids % 3 == 0, ids, -100), Sequences.from_lengths([8] * rows), rows)


def staged(rows, seed=0):
    return Staging(max_length=8, mask_ratio=0.3, filler_id=0, pinned=False).stage(batch_of(rows, seed), 1)


class FakeRecorder:
    """Imitates a graph: the same call on the same memory."""

    def __init__(self, fails_at=None):
        self.recorded = self.replayed = 0
        self.fails_at = fails_at

    def __call__(self, work):
        if self.recorded == self.fails_at:
            raise RuntimeError("operation not permitted when stream is capturing\nand more")
        self.recorded += 1

        def replay():
            self.replayed += 1
            return work()

        return replay


def passes(recorder):
    seen = []

    def run(inputs):
        seen.append(inputs)
        return inputs.tokens.sum() + inputs.targets.sum()

    return Graphs(run, lambda: recorder, CPU), seen


def test_a_shape_is_recorded_after_eager_passes_and_then_replayed():
    recorder = FakeRecorder()
    run, seen = passes(recorder)
    for number in range(10):
        run(staged(4, seed=number))
        assert recorder.recorded == (number >= 3)
    assert recorder.replayed == 7
    assert len({id(inputs) for inputs in seen[3:]}) == 1
    assert len({id(inputs.sequences) for inputs in seen}) == 4  # kernels cache by the object: none is shared


def test_a_replay_reads_the_current_batch():
    run, _ = passes(FakeRecorder())
    for number in range(10):
        one = staged(4, seed=number)
        expected = one.to(CPU)
        assert run(one) == expected.tokens.sum() + expected.targets.sum()


def test_at_most_four_shapes_have_their_own_graph():
    recorder = FakeRecorder()
    run, _ = passes(recorder)
    for rows in (1, 2, 3, 4, 5, 6):
        for number in range(5):
            one = staged(rows, seed=number)
            assert run(one) == one.to(CPU).tokens.sum() + one.to(CPU).targets.sum()
    assert recorder.recorded == 4
    assert recorder.replayed == 4 * 2


def test_a_failed_recording_ends_all_recording_with_one_warning(caplog):
    recorder = FakeRecorder(fails_at=1)
    run, seen = passes(recorder)
    with caplog.at_level(logging.WARNING, logger="modernbert"):
        for rows in (1, 2, 1, 3):
            for _ in range(6):
                run(staged(rows))
        run_after = recorder.replayed
        run.forget()
        for _ in range(6):
            run(staged(4))
    [message] = [record.getMessage() for record in caplog.records]
    assert message.endswith("do not work with this machine or model: operation not permitted when stream is capturing")
    assert recorder.recorded == 1
    assert recorder.replayed == run_after == 3  # those of the first shape, before the second one failed
    assert len(seen) == 30  # every pass was made once


def test_forgotten_graphs_are_recorded_again():
    recorder = FakeRecorder()
    run, _ = passes(recorder)
    for _ in range(2):
        for _ in range(5):
            run(staged(4))
        run.forget()
    assert (recorder.recorded, recorder.replayed) == (2, 4)


def test_a_recorded_pass_does_not_use_the_lengths_of_one_batch():
    run, seen = passes(FakeRecorder())
    for _ in range(4):
        run(staged(2))
    assert "lengths" in seen[0].sequences.__dict__
    assert "lengths" not in seen[-1].sequences.__dict__


def test_gradients_keep_their_addresses_when_accumulated_and_cleared():
    model = nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 7))
    gradients = Gradients(model.parameters())
    places = [parameter.grad.data_ptr() for parameter in model.parameters()]
    assert all((place - places[0]) % 128 == 0 for place in places)
    x = torch.randn(4, 5)
    model(x).sum().backward()
    model(x).sum().backward()
    found = [parameter.grad.clone() for parameter in model.parameters()]
    gradients.clear()
    assert all(not parameter.grad.any() for parameter in model.parameters())
    assert [parameter.grad.data_ptr() for parameter in model.parameters()] == places
    model.zero_grad()
    (2 * model(x).sum()).backward()
    torch.testing.assert_close(found, [parameter.grad for parameter in model.parameters()])


@pytest.mark.gpu
def test_a_recorded_call_is_replayed_with_the_dropout_of_the_seed():
    x = torch.ones(1 << 16, device="cuda")
    eager = []
    for seed in range(3):
        torch.manual_seed(seed)
        eager.append(torch.dropout(x, 0.5, train=True))
    replay = CudaRecorder()(lambda: torch.dropout(x, 0.5, train=True))
    for seed in range(3):
        torch.manual_seed(seed)
        assert torch.equal(replay(), eager[seed])


@pytest.mark.gpu
def test_a_failed_recording_does_not_change_the_device():
    x = torch.ones(1 << 16, device="cuda")
    stream = torch.cuda.current_stream()
    with pytest.raises(RuntimeError):
        CudaRecorder()(lambda: torch.dropout(x, 0.5, train=True) * float(x.sum()))
    assert torch.cuda.current_stream() == stream
    torch.manual_seed(0)
    first = torch.dropout(x, 0.5, train=True)
    torch.manual_seed(0)
    assert torch.equal(torch.dropout(x, 0.5, train=True), first)
