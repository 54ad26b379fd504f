"""Do commands end as they should, and does progress reach the person?"""

import errno
import subprocess
import sys

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


def test_a_fault_of_ours_ends_in_one_sentence_and_a_log_with_its_traceback(
    capsys, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        run(ending_with(ZeroDivisionError("division by zero")))
    assert exit_.value.code == 1
    (log,) = tmp_path.glob("regvit-error-*.log")
    written = capsys.readouterr().err
    assert written.count("\n") == 1
    assert str(log) in written
    assert "ZeroDivisionError: division by zero" in written
    content = log.read_text()
    assert "Traceback (most recent call last)" in content
    assert "command: " in content


def test_where_the_folder_cannot_be_written_the_log_goes_to_the_temporary_one(
    capsys, monkeypatch, tmp_path
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir("/proc")  # nobody writes there, root neither
    with pytest.raises(SystemExit):
        run(ending_with(KeyError("x")))
    (log,) = tmp_path.glob("regvit-error-*.log")
    assert str(log) in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 3.00 TiB for an array"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 17179869184 bytes."),
    ],
)
def test_want_of_memory_names_the_options_that_need_less(capsys, error):
    with pytest.raises(SystemExit) as exit_:
        run(ending_with(error))
    assert exit_.value.code == 2
    written = capsys.readouterr().err
    for option in ("--batch-size", "--accumulation-steps", "--image-size"):
        assert option in written


@pytest.mark.parametrize("reader", ["true", "exec 0<&-; sleep 3"])
def test_a_reader_that_leaves_is_no_error(reader):
    program = (
        "from regvit_jax.console import run; import sys\n"
        "run(lambda: sys.stdout.write('x' * 10_000_000))"
    )
    command = f"'{sys.executable}' -c \"{program}\" | ({reader}); exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == 141
    assert done.stderr == ""


def test_closed_streams_and_names_that_are_no_text_do_not_matter():
    program = (
        "from regvit_jax.console import run; import sys\n"
        "run(lambda: sys.stdout.write('name \\udcff'))"
    )
    for ending in (">&-", "2>&-", ">&- 2>&-", "> /dev/null"):
        command = f"'{sys.executable}' -c \"{program}\" {ending}"
        assert subprocess.run(["bash", "-c", command]).returncode == 0, ending


def test_progress_writes_a_line_every_tenth_part_when_nobody_watches(capsys):
    assert list(progress(range(40), 40, "Reading")) == list(range(40))
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[0] == "Reading: 4 of 40"
    assert lines[-1] == "Reading: 40 of 40"
    assert len(lines) == 10
