"""The order in which texts are computed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modernbert.serve.items import Item
from modernbert.serve.scheduling import Entry, TokenQueue


def entry(tokens, arrived=0.0):
    return Entry(Item(np.zeros(tokens, dtype=np.int32)), arrived)


def filled(*lengths, budget=100, patience=1.0):
    queue = TokenQueue(budget, patience)
    entries = [entry(tokens, index * 1e-3) for index, tokens in enumerate(lengths)]
    for one in entries:
        queue.put(one)
    return queue, entries


def lengths(batch):
    return [one.tokens for one in batch]


def test_a_batch_is_filled_in_order_of_arrival_up_to_the_budget():
    queue, _ = filled(40, 40, 30, 20, 50)
    assert lengths(queue.take(0.0)) == [40, 40, 20]  # 30 is the first of the next batch
    assert lengths(queue.take(0.0)) == [30, 50]
    assert queue.take(0.0) == []
    assert queue.tokens == 0


def test_short_texts_pass_a_long_one_until_its_patience_is_over():
    queue, (long, *_) = filled(90, *[10] * 30)
    assert lengths(queue.take(0.5)) == [10] * 10
    assert queue.take(1.0)[0] is long
    assert lengths(queue.take(1.0)) == [10] * 10


def test_a_long_text_runs_at_once_when_no_short_text_waits():
    queue, (long,) = filled(90)
    assert queue.take(0.0) == [long]


def test_short_texts_fill_what_a_long_one_leaves():
    queue, _ = filled(90, 10, 10)
    assert lengths(queue.take(2.0)) == [90, 10]


def test_a_text_above_the_budget_is_a_batch_by_itself():
    queue, _ = filled(250, 10)
    assert lengths(queue.take(2.0)) == [250]
    assert lengths(queue.take(2.0)) == [10]


def test_short_texts_come_between_long_ones():
    queue, _ = filled(*[90] * 4, *[50] * 8)
    led_by_long = [max(lengths(queue.take(5.0))) > 50 for _ in range(8)]
    assert led_by_long == [True, False] * 4


def test_an_entry_that_left_is_never_computed():
    queue, entries = filled(40, 40, 40)
    queue.discard(entries[1])
    queue.discard(entries[1])
    assert queue.tokens == 80
    assert queue.take(0.0) == [entries[0], entries[2]]
    queue.discard(entries[0])  # in the batch already
    assert queue.tokens == 0


@given(st.lists(st.integers(1, 150), max_size=60), st.lists(st.integers(0, 59), max_size=10))
def test_every_entry_is_computed_once_and_batches_keep_the_budget(sizes, leaving):
    queue, entries = filled(*sizes)
    gone = {entries[index] for index in leaving if index < len(entries)}
    for one in gone:
        queue.discard(one)
    computed, now = [], 0.0
    while batch := queue.take(now):
        assert sum(lengths(batch)) <= 100 or len(batch) == 1
        computed += batch
        now += 0.3
    assert len(computed) == len(set(computed))
    assert set(computed) == set(entries) - gone
    assert (len(queue), queue.tokens) == (0, 0)


@given(st.lists(st.tuples(st.integers(1, 100), st.integers(0, 3)), max_size=40), st.integers(0, 8))
def test_no_text_waits_longer_than_the_bound(others, position):
    """A long text waits behind `position` other long texts, while more texts arrive; each batch needs 1 s."""
    queue = TokenQueue(100, patience=3.0)
    for _ in range(position):
        queue.put(entry(90, 0.0))
    watched = entry(90, 0.0)
    queue.put(watched)
    arriving = list(others)
    for second in range(3 + 2 * (position + 1) + 1):
        for _ in range(arriving[0][1] if arriving else 2):
            queue.put(entry(arriving[0][0] if arriving else 30, float(second)))
        arriving = arriving[1:]
        if watched in queue.take(float(second)):
            break
    else:
        pytest.fail("the long text was not computed in time")
