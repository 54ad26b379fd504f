"""Is what libraries warn of told once, in one line that names them, and nothing of it raw?"""

import logging
import threading
import warnings

import pytest

from regvit_jax.arrays import _quietly
from regvit_jax.console import run
from regvit_jax.remarks import LONGEST, _Notes


def told(capsys, *actions):
    """The lines on stderr of a command that does these."""

    def command():
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            for action in actions:
                action()

    run(command)
    return capsys.readouterr().err.splitlines()


def warn(filename, message="two\nlines"):
    return lambda: warnings.warn_explicit(message, RuntimeWarning, filename, 7)


def log(name, *message):
    return lambda: logging.getLogger(name).warning(*message)


@pytest.mark.parametrize(
    ("action", "line"),
    [
        (warn("/a/site-packages/numpy/lib/x.py"), "Note from numpy: two lines"),
        (warn("/a/site-packages/six.py"), "Note from six: two lines"),
        (warn("/a/regvit_jax/train/x.py"), "two lines"),
        (warn("notebook.py"), "Note from notebook: two lines"),
        (
            log("jax._src.cache", "It took %s s\n and more", 3),
            "Note from jax: It took 3 s and more",
        ),
        (log("regvit_jax.train.state", "A state is damaged."), "A state is damaged."),
        (log("x", "a" * 1000), f"Note from x: {'a' * LONGEST}…"),
    ],
)
def test_a_remark_is_one_line_said_once(action, line, capsys):
    assert told(capsys, action, action) == [line]


def test_a_record_that_is_made_wrongly_is_told_as_it_is(capsys):
    record = logging.LogRecord("absl", logging.WARNING, "x.py", 7, "%s of %s", (1,), None)
    _Notes(logging.WARNING).emit(record)
    assert capsys.readouterr().err == "Note from absl: %s of %s\n"


def test_different_remarks_are_all_told_and_small_talk_is_not(capsys):
    small = logging.getLogger("jax").info
    lines = told(capsys, warn("a.py", "x"), warn("a.py", "y"), lambda: small("z"), log("a", "x"))
    assert lines == ["Note from a: x", "Note from a: y"]


def test_after_a_command_warnings_are_shown_as_before(capsys):
    before, handlers = warnings.showwarning, list(logging.getLogger().handlers)
    told(capsys)
    assert warnings.showwarning is before
    assert logging.getLogger().handlers == handlers


def test_orbax_stays_quiet_of_files_to_merge_while_two_threads_write(capsys):
    first_has_left, entered = threading.Event(), threading.Event()

    def second():
        with _quietly():
            entered.set()
            first_has_left.wait(5)
            log("absl", "Skipping merge of OCDBT checkpoints: %s", "x")()

    def both():
        thread = threading.Thread(target=second)
        with _quietly():
            thread.start()
            entered.wait(5)
        first_has_left.set()
        thread.join()

    assert told(capsys, both) == []
