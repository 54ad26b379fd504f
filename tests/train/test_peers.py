"""Is a process that ends without a goodbye missed by all others, and named?"""

import socket
import threading

import pytest

import regvit_jax.train.peers
from regvit_jax.train.peers import STATUS, Peers

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.fixture
def ends(monkeypatch):
    """How often a process would have ended; only the thread that watches ends instead."""
    ended, statuses = threading.Semaphore(0), []

    def end(status):
        statuses.append(status)
        ended.release()
        raise SystemExit

    monkeypatch.setattr(regvit_jax.train.peers.os, "_exit", end)
    return ended, statuses


@pytest.fixture
def three(ends):
    """Process 0, which listens, and processes 1 and 2, which have found it."""
    first = Peers.listen(3)
    others = [Peers.connect(index, first.place, "localhost") for index in (1, 2)]
    for _ in range(500):
        if len(first.sockets) == 2:
            break
        threading.Event().wait(0.01)
    yield first, *others
    for peers in (first, *others):
        peers._is_done = True  # the end of a test is no loss
    for peers in (first, *others):
        for connection in peers.sockets.values():
            connection.close()


def test_the_process_that_is_gone_is_named_by_all_others(three, ends, capsys):
    first, second, third = three
    saved = []
    first.before_the_end = lambda: saved.append("state")
    second._is_done = True  # it is dead: its own thread says nothing
    second.sockets[0].shutdown(socket.SHUT_RDWR)
    ended, statuses = ends
    assert ended.acquire(timeout=20)
    assert ended.acquire(timeout=20)
    said = capsys.readouterr().err
    assert "Process 1 is gone" in said
    assert "process 0 cannot go on alone" in said
    assert "process 2 cannot go on alone" in said
    assert "state" in saved
    assert set(statuses) == {STATUS}
    assert third.sockets


def test_who_says_goodbye_is_not_missed(three, ends):
    for peers in three:
        peers.say_goodbye()
    for peers in three:
        for connection in peers.sockets.values():
            connection.shutdown(socket.SHUT_WR)
    assert not ends[0].acquire(timeout=0.3)
