"""Does the line of progress say what a stopwatch says?"""

import pytest

from regvit_jax.train import progress
from regvit_jax.train.progress import ProgressLine


@pytest.fixture
def clock(monkeypatch):
    seconds = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: seconds[0])
    return seconds


def test_the_first_step_is_shown_at_once_and_the_speed_when_there_is_one(clock, capsys):
    line = ProgressLine(first_step=40, total_steps=90, batch_size=8)
    line.update(41, 2.5)  # compiled for who knows how long
    clock[0] += 0.001
    line.update(42, 2.4)
    for step in range(43, 91):
        clock[0] += 1.0
        line.update(step, 2.0)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "step 41 of 90  loss 2.5000"
    assert lines[1] == "step 52 of 90  loss 2.0000  9 images/s  0:00:34 left"
    assert lines[-1] == "step 90 of 90  loss 2.0000  8 images/s  0:00:00 left"
    assert len(lines) == 6
