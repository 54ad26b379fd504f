"""Is a request to stop heard, and what does a command say that obeys it?"""

import os
import signal
import threading
import time

import pytest

from regvit_jax.interrupt import SIGNALS, Interrupted, Stopped, StopRequest, listen


@pytest.mark.parametrize("number", SIGNALS)
def test_each_signal_makes_a_request_and_raises_nothing_where_it_arrives(number, capfd):
    before = signal.getsignal(number)
    with listen() as request:
        assert not request.is_made
        request.check()
        os.kill(os.getpid(), number)
        for _ in range(500):
            if request.is_made:
                break
            time.sleep(0.01)
        assert request.signal == number
        with pytest.raises(Interrupted):
            request.check()
    assert signal.getsignal(number) == before
    assert signal.Signals(number).name in capfd.readouterr().err


def test_only_the_first_signal_counts():
    request = StopRequest()
    request.make(signal.SIGUSR1)
    request.make(signal.SIGTERM)
    assert request.signal == signal.SIGUSR1


def test_where_nothing_would_be_lost_the_first_signal_ends_the_process(monkeypatch, capfd):
    ended = []
    monkeypatch.setattr("regvit_jax.interrupt.os._exit", ended.append)
    request = StopRequest()
    request.how_to_go_on = "Start it again."
    request.hear(signal.SIGTERM)
    assert ended == [128 + signal.SIGTERM]
    assert "SIGTERM: stopped. Start it again." in capfd.readouterr().err
    request = StopRequest()
    request.hear(signal.SIGTERM)
    assert len(ended) == 1


def test_outside_the_main_thread_nobody_makes_the_request():
    found = []

    def work():
        with listen() as request:
            found.append(request.is_made)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]


def test_what_stopped_says_ends_with_how_to_go_on():
    error = Stopped(signal.SIGTERM, "The same command continues.")
    assert (str(error), error.number) == ("Stopped. The same command continues.", signal.SIGTERM)
