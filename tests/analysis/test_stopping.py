"""Does every analysis stop when it is asked to, and does the same command resume?"""

import contextlib
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from regvit_jax.analysis import stopping
from regvit_jax.analysis.engine import extract, passes
from regvit_jax.analysis.statistics import fit, logistic
from regvit_jax.interrupt import Interrupted
from tests.analysis.conftest import write_pictures
from tests.analysis.test_cli import call, results_of


@pytest.fixture(scope="module")
def few_pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("few"), 24)


@pytest.fixture
def ended(monkeypatch):
    """Statuses with which the process would have been ended where it was."""
    statuses: list[int] = []
    monkeypatch.setattr(stopping, "end_process", statuses.append)
    return statuses


def send(number):
    """A signal whose exceptions get lost, as inside a callback of JAX."""
    with contextlib.suppress(BaseException):
        os.kill(os.getpid(), number)
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_stopped_pass_resumes_with_the_batch_it_had_reached(
    number, checkpoints, few_pictures, tmp_path, monkeypatch, capfd, ended
):
    written = []
    append = passes._append

    def append_and_send(work, stores, batch, reduced):
        append(work, stores, batch, reduced)
        written.append(len(batch.indices))
        if len(written) == 2:
            send(number)

    monkeypatch.setattr(passes, "_append", append_and_send)
    command = (
        *("norms", "--checkpoint", checkpoints["plain"], "--data", few_pictures),
        *("--out", tmp_path / "out", "--batch-size", 4, "--bootstrap", 100),
        *("--num-shown", 1),
    )
    assert call(monkeypatch, *command) == 128 + number
    assert "the same command resumes" in capfd.readouterr().err
    assert written == [4, 4]
    assert not (tmp_path / "out").exists()
    assert call(monkeypatch, *command) == 0
    assert written == [4] * 18  # and the untrained twin, and the closer look at all 24
    assert results_of(tmp_path / "out")["data"]["num_images"] == 24


@pytest.mark.parametrize("name", ["lost", "probe", "reconstruction"])
def test_an_analysis_with_passes_of_its_own_stops_at_the_next_batch(
    name, checkpoints, few_pictures, tmp_path, monkeypatch, capfd, ended
):
    collect, seen = extract._collect, []

    def collect_and_send(*arguments):
        seen.append(1)
        if len(seen) == 2:
            send(signal.SIGINT)
        return collect(*arguments)

    monkeypatch.setattr(extract, "_collect", collect_and_send)
    command = (
        *(name, "--checkpoint", checkpoints["plain"], "--data", few_pictures),
        *("--out", tmp_path / "out", "--batch-size", 4),
    )
    assert call(monkeypatch, *command) == 130
    assert "the same command resumes" in capfd.readouterr().err
    assert len(seen) == 2
    assert not (tmp_path / "out").exists()


def test_every_loop_looks_at_the_request(monkeypatch):
    def stop():
        raise Interrupted

    for module in (extract, fit, logistic):
        monkeypatch.setattr(module, "check", stop)
    with pytest.raises(Interrupted):
        fit.fit(lambda p, x: p, 0.0, lambda _: [(1.0,)], float, fit.optax.sgd(0.1), 1, 1)
    problem = logistic.Problem(*([logistic.jnp.zeros((2, 2))] * 4))
    with pytest.raises(Interrupted):
        next(logistic.solve_path(problem, np.ones(2, bool), np.ones(1)))


def test_what_looks_at_nothing_ends_when_patience_does(monkeypatch, ended):
    monkeypatch.setattr(stopping, "PATIENCE", 0.2)
    monkeypatch.setattr(stopping, "_INTERVAL", 0.05)
    with pytest.raises(SystemExit) as end, stopping.stoppable():  # noqa: PT012
        send(signal.SIGTERM)
        time.sleep(1)
    assert ended == [143]
    assert end.value.code == 143


def test_a_terminal_that_is_gone_is_no_error_of_its_own(ended):
    with pytest.raises(SystemExit) as end, stopping.stoppable():  # noqa: PT012
        send(signal.SIGHUP)
        raise OSError("Input/output error")
    assert end.value.code == 128 + signal.SIGHUP


def test_without_a_request_errors_are_what_they_were(ended):
    with pytest.raises(OSError, match="full"), stopping.stoppable():
        raise OSError("full")
    with stopping.stoppable():
        stopping.check()


def test_a_real_ctrl_c_ends_a_real_process(checkpoints, pictures, tmp_path):
    """While it works through batches of one image; it would take far longer to finish."""
    command = [sys.executable, "-m", "regvit_jax.analysis", "attention", "--batch-size", "1"]
    command += ["--checkpoint", str(checkpoints["plain"]), "--data", str(pictures)]
    command += ["--out", str(tmp_path / "out"), "--bootstrap", "20000"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    process.stderr.readline()  # the first line of progress
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "the same command resumes" in said
    assert time.monotonic() - started < 20  # patience is 4 s; machines of tests are busy
