"""Is work done ahead in order, once each, and no further ahead than asked?"""

import threading
import time

import pytest

from regvit_jax.threads import run_ahead


def test_every_call_is_handed_out_once_and_in_order():
    def slow_at_first(i):
        time.sleep(0.002 if i < 10 else 0)
        return i * i

    found = [call.result() for call in run_ahead(slow_at_first, range(100), ahead=7, workers=4)]
    assert found == [i * i for i in range(100)]


@pytest.mark.parametrize("ahead", [1, 5])
def test_no_more_calls_are_begun_than_asked(ahead):
    """Each result that is taken lets one more call begin."""
    begun: list[int] = []
    calls = run_ahead(begun.append, range(50), ahead, workers=3)
    for taken in range(1, 11):
        next(calls).result()
        time.sleep(0.005)
        assert len(begun) <= taken + ahead


def test_an_error_comes_in_its_place():
    calls = run_ahead(lambda i: 1 // (i - 2), range(4), ahead=4, workers=2)
    results = [next(calls).result() for _ in range(2)]
    with pytest.raises(ZeroDivisionError):
        next(calls).result()
    assert [*results, next(calls).result()] == [-1, -1, 1]


def test_closing_it_ends_the_threads():
    calls = run_ahead(time.sleep, [0.01] * 1000, ahead=100, workers=2)
    next(calls)
    calls.close()
    time.sleep(0.05)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]
