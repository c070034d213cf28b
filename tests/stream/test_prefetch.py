import threading

import pytest

from modernbert.stream.prefetch import Prefetch


class CountedError(Exception):
    pass


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_items_keep_their_order_and_the_thread_ends_with_the_block():
    with Prefetch(range(100), ahead=3) as items:
        assert list(items) == list(range(100))
        with pytest.raises(StopIteration):
            next(items)
    assert not threads()


@pytest.mark.parametrize("ahead", [1, 2, 4])
def test_no_more_items_are_computed_than_ahead(ahead):
    made, full, more = [], threading.Event(), threading.Event()

    def numbers():
        for number in range(100):
            made.append(number)
            if number == ahead:  # one more item is computed and waits in the thread
                full.set()
            if number == ahead + 1:
                more.set()
            yield number

    with Prefetch(numbers(), ahead) as items:
        assert full.wait(30)
        assert not more.wait(0.05)
        assert made == list(range(ahead + 1))
        assert next(items) == 0
        assert more.wait(30)
    assert not threads()


def test_an_error_is_raised_unchanged_after_the_items_before_it():
    expected = CountedError("the third")

    def numbers():
        yield from (1, 2)
        raise expected

    with Prefetch(numbers(), ahead=4) as items:
        assert [next(items), next(items)] == [1, 2]
        with pytest.raises(CountedError) as found:
            next(items)
    assert found.value is expected
    assert not threads()


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_an_error_in_the_block_ends_the_thread(taken):
    def take():
        with Prefetch(iter(int, 1), ahead=2) as items:
            for _ in range(taken):
                next(items)
            raise CountedError

    with pytest.raises(CountedError):
        take()
    assert not threads()
