"""Do commands end as they should, and does progress reach the person?"""

import errno

import pytest

from regvit_jax.console import progress, run
from regvit_jax.errors import InputError


def ending_with(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (InputError("Expected a folder."), 2, "Error: Expected a folder."),
        (OSError(errno.ENOSPC, "No space left on device", "out/x"), 2, "No space left.*out/x"),
        (PermissionError(errno.EACCES, "Permission denied", "out"), 2, "Permission denied.*out"),
        (KeyboardInterrupt(), 130, "Stopped."),
    ],
)
def test_what_the_user_can_mend_ends_with_a_message_and_no_traceback(
    capsys, error, status, message
):
    import re

    with pytest.raises(SystemExit) as exit_:
        run(ending_with(error))
    assert exit_.value.code == status
    written = capsys.readouterr().err
    assert re.search(message, written)
    assert "Traceback" not in written


def test_a_fault_of_ours_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run(ending_with(ZeroDivisionError()))


def test_progress_writes_a_line_every_tenth_part_when_nobody_watches(capsys):
    assert list(progress(range(40), 40, "Reading")) == list(range(40))
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[0] == "Reading: 4 of 40"
    assert lines[-1] == "Reading: 40 of 40"
    assert len(lines) == 10
