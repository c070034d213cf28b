"""The dispatcher with several models, and the handling of failures."""

import threading
import time

import numpy as np
import pytest

from modernbert.serve import dispatcher as module
from modernbert.serve.dispatcher import Dispatcher
from modernbert.serve.failures import ComputationError, OverloadedError, UnhealthyError
from modernbert.serve.items import Item, ItemFailed


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Doubling:
    """An engine that returns twice the first id of each item, and needs a second for 100 tokens."""

    def __init__(self, clock=None, broken=()):
        self.clock = clock
        self.broken = set(broken)
        self.batches = []

    def run(self, items):
        self.batches.append([len(item.ids) for item in items])
        if self.clock is not None:
            self.clock.now += sum(len(item.ids) for item in items) / 100
        if self.broken & {int(item.ids[0]) for item in items}:
            raise RuntimeError("cannot compute\nmore about it")
        return [2 * int(item.ids[0]) for item in items]


def item(value, tokens=1):
    return Item(np.full(tokens, value, dtype=np.int32))


def make(engines, clock=None, **options):
    settings = {"budget": 100, "patience": 1.0, "max_queue_tokens": 1000} | options
    found = Dispatcher(**settings, clock=clock or Clock())
    for name, engine in engines.items():
        found.add(name, engine)
    return found


def run_all(dispatcher):
    while dispatcher.step():
        pass


def test_requests_share_a_batch_and_each_gets_its_own_results():
    engine = Doubling()
    queue = make({"a": engine})
    jobs = [queue.submit("a", [item(1), item(2)]), queue.submit("a", [item(3)]), queue.submit("a", [])]
    run_all(queue)
    assert [job.future.result(0) for job in jobs] == [[2, 4], [6], []]
    assert engine.batches == [[1, 1, 1]]


def test_models_take_turns():
    one, other = Doubling(), Doubling()
    queue = make({"one": one, "other": other}, max_queue_tokens=10_000)
    queue.submit("one", [item(1, 60) for _ in range(6)])
    late = queue.submit("other", [item(4)])
    queue.step()
    queue.step()
    assert late.future.result(0) == [8]
    assert len(one.batches) == 1


def test_a_full_queue_refuses_and_an_empty_queue_accepts_any_request():
    queue = make({"a": Doubling()}, max_queue_tokens=50)
    queue.submit("a", [item(1, 80)])
    with pytest.raises(OverloadedError, match="Model is overloaded"):
        queue.submit("a", [item(1)])
    run_all(queue)
    queue.submit("a", [item(1, 20), item(1, 20)])
    with pytest.raises(OverloadedError):
        queue.submit("a", [item(1, 20)])
    assert queue.waiting("a") == 2


def test_a_cancelled_request_leaves_the_queue():
    engine = Doubling()
    queue = make({"a": engine})
    gone, stays = queue.submit("a", [item(1, 30)] * 5), queue.submit("a", [item(2, 30)])
    gone.future.cancel()
    assert queue.waiting("a") == 1
    run_all(queue)
    assert engine.batches == [[30]]
    assert stays.future.result(0) == [4]


def test_what_fails_together_is_tried_alone():
    queue = make({"a": Doubling(broken={7})})
    bad, good = queue.submit("a", [item(7)]), queue.submit("a", [item(1)])
    run_all(queue)
    assert good.future.result(0) == [2]
    with pytest.raises(ComputationError, match=r"^Backend error: cannot compute$"):
        bad.future.result(0)
    assert queue.healthy("a")


def test_a_failed_request_removes_its_other_items_from_the_queue():
    engine = Doubling(broken={7})
    queue = make({"a": engine})
    bad = queue.submit("a", [item(7, 40), item(1, 40), item(1, 40), item(1, 40)])
    queue.step()
    assert bad.future.exception(0) is not None
    assert queue.waiting("a") == 0


def test_an_item_without_a_result_fails_alone():
    class Picky(Doubling):
        def run(self, items):
            return [ItemFailed("NaN") if one.ids[0] == 7 else 1 for one in items]

    queue = make({"a": Picky()})
    bad, good = queue.submit("a", [item(7)]), queue.submit("a", [item(1)])
    run_all(queue)
    assert isinstance(bad.future.exception(0), ComputationError)
    assert good.future.result(0) == [1]


def test_a_failing_model_is_paused_and_other_models_continue():
    clock = Clock()
    broken = Doubling(broken={1})
    queue = make({"broken": broken, "other": Doubling()}, clock)
    for _ in range(module.FAILURES_UNTIL_PAUSE):
        queue.submit("broken", [item(1)])
        run_all(queue)
    assert not queue.healthy("broken")
    with pytest.raises(UnhealthyError, match="broken failed 3 times in a row"):
        queue.submit("broken", [item(2)])
    other = queue.submit("other", [item(2)])
    clock.now += module.PAUSE_SECONDS
    again = queue.submit("broken", [item(2)])
    run_all(queue)
    assert other.future.result(0) == [4]
    assert again.future.result(0) == [4]
    assert queue.healthy("broken")


def test_a_short_text_waits_for_one_long_batch_at_most():
    """Long texts fill the queue, and short texts arrive all the time; the clock is simulated."""
    clock = Clock()
    queue = make({"a": Doubling(clock)}, clock, max_queue_tokens=100_000)
    longs = [queue.submit("a", [item(1, 100)]) for _ in range(20)]
    waits = []
    while not all(job.future.done() for job in longs):
        short, began = queue.submit("a", [item(1, 5)]), clock.now
        while not short.future.done():
            assert queue.step()
        waits.append(clock.now - began)
    assert max(waits) <= 1.0 + 0.05 + 1e-9  # a long batch takes 1 s, and a short text 0.05 s


def test_closing_finishes_accepted_requests_and_accepts_no_more():
    class Slow(Doubling):
        def run(self, items):
            time.sleep(0.02)
            return super().run(items)

    queue = make({"a": Slow()}, time.monotonic)
    queue.start()
    jobs = [queue.submit("a", [item(value, 60)]) for value in range(5)]
    queue.close()
    assert [job.future.result(0) for job in jobs] == [[2 * value] for value in range(5)]
    with pytest.raises(UnhealthyError, match="stopping"):
        queue.submit("a", [item(1)])


def test_many_threads_lose_nothing():
    queue = make({"a": Doubling()}, time.monotonic, max_queue_tokens=10**9)
    queue.start()
    wrong = []

    def ask(first):
        for value in range(first, first + 200):
            if queue.submit("a", [item(value, 1 + value % 90)]).future.result(30) != [2 * value]:
                wrong.append(value)

    threads = [threading.Thread(target=ask, args=(1000 * number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    queue.close()
    assert not wrong
