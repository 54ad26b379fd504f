"""Do commands end as they should, and does progress reach the person?"""

import errno
import importlib.metadata
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import regvit_jax
from regvit_jax.console import progress, run
from regvit_jax.errors import InputError
from regvit_jax.interrupt import Stopped


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


def ended(error, capsys):
    """Status and message of a command that raises an error."""
    with pytest.raises(SystemExit) as exit_:
        run(ending_with(error))
    written = capsys.readouterr().err
    assert "Traceback" not in written
    assert written.count("\n") <= 1
    return exit_.value.code, written


@pytest.mark.parametrize(
    "error",
    [ZeroDivisionError("division by zero"), KeyError("x"), RecursionError(), StopIteration()],
)
def test_any_other_error_ends_in_one_sentence_and_a_log(error, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["regvit-train", "run", "--data", "a b\udcff"])
    status, message = ended(error, capsys)
    assert status == 1
    (log,) = tmp_path.glob("regvit-error-*.log")
    assert str(log) in message
    text = log.read_text()
    assert "Traceback" in text
    assert type(error).__name__ in text
    assert "Command: regvit-train run --data 'a b\\udcff'" in text
    assert "jax: " in text


def test_where_the_current_folder_cannot_be_written_the_log_is_among_temporary_files(
    capsys, tmp_path, monkeypatch
):
    real = type(tmp_path).write_text

    def write_text(path, *args, **options):
        if path.parent == tmp_path:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *args, **options)

    elsewhere = tmp_path / "temporary"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(elsewhere))
    monkeypatch.setattr(type(tmp_path), "write_text", write_text)
    _, message = ended(KeyError("x"), capsys)
    (log,) = elsewhere.iterdir()
    assert str(log) in message


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes.\nlong\npages"),
        RuntimeError("INTERNAL: YNNPACK operation failed: error"),
        ValueError("INTERNAL: std::bad_alloc"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("can't start new thread"),
    ],
)
@pytest.mark.parametrize(
    ("command", "options"),
    [
        (["regvit-train", "run"], ("--batch-size", "--accumulation-steps", "--image-size")),
        (["regvit-analyze", "norms"], ("--batch-size",)),
        (["regvit-convert", "import"], ()),
    ],
)
def test_without_memory_the_options_that_help_are_named(
    error, command, options, capsys, monkeypatch
):
    monkeypatch.setattr("sys.argv", command)
    status, message = ended(error, capsys)
    assert status == 2
    assert "not enough memory" in message
    assert all(option in message for option in options)
    assert ("--" in message) == bool(options)


def test_a_link_to_itself_is_the_users(capsys):
    status, message = ended(RuntimeError("Symlink loop from '/a/loop'"), capsys)
    assert (status, "leads to itself" in message) == (2, True)


def test_an_error_that_a_library_wrapped_is_understood(capsys):
    wrapped = RuntimeError("callback failed")
    wrapped.__cause__ = InputError("Expected a folder.")
    assert ended(wrapped, capsys) == (2, "Error: Expected a folder.\n")


def test_a_full_disk_says_what_to_do_and_an_error_without_a_file_names_none(capsys):
    full = OSError(errno.ENOSPC, "No space left on device", "out/x")
    assert "out/x. Make room" in ended(full, capsys)[1]
    assert ended(OSError("odd"), capsys) == (2, "Error: odd.\n")


def test_who_stops_a_command_learns_how_to_go_on(capsys):
    status, message = ended(Stopped(signal.SIGUSR1, "The same command continues."), capsys)
    assert (status, message) == (128 + signal.SIGUSR1, "Stopped. The same command continues.\n")


PROGRAM = """
import sys
from regvit_jax.console import run
from regvit_jax.errors import InputError
def command():
    {}
run(command)
"""


@pytest.mark.parametrize(
    ("body", "shell", "status", "output"),
    [
        ("print('x' * 10**6)", "| true", 141, ""),
        ("sys.stdout.write('a' + chr(10)); print('b' * 10**6)", "| head -1", 141, "a\n"),
        ("print('x')", ">&-", 0, ""),
        ("print('x'); raise InputError('bad')", ">&- 2>&-", 2, ""),
        ("raise InputError('bad \udcff')", "2>&1", 2, "Error: bad \\udcff\n"),
        ("print('name \udcff')", "", 0, "name \\udcff\n"),
        ("print('x')", "> /dev/full", 2, ""),
    ],
)
def test_output_that_nobody_reads_is_no_traceback(body, shell, status, output, tmp_path):
    (tmp_path / "program.py").write_text(
        PROGRAM.format(body.replace("\udcff", "\\udcff")), encoding="utf-8"
    )
    line = f"{sys.executable} {tmp_path / 'program.py'} {shell}; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout == f"{output}{status}\n"
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    assert (done.stderr != "") == ("full" in shell)


def test_the_version_is_the_packages(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/usr/bin/regvit-train", "--version"])
    run(ending_with(AssertionError("not called")))
    said = capsys.readouterr().out
    assert said.startswith(f"regvit-jax {regvit_jax.__version__} (Python ")
    assert "jaxlib " in said
    assert regvit_jax.__version__ == importlib.metadata.version("regvit-jax")
    assert {"load", "DeiT3", "__version__"} <= set(dir(regvit_jax))


def test_progress_writes_a_line_every_tenth_part_when_nobody_watches(capsys):
    assert list(progress(range(40), 40, "Reading")) == list(range(40))
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[0] == "Reading: 4 of 40"
    assert lines[-1] == "Reading: 40 of 40"
    assert len(lines) == 10


@pytest.mark.parametrize("name", ["[red]x[/red]", "[/x]", "a:smile:b", "a\\", "x\\[y]"])
def test_a_name_beside_a_bar_is_letters_and_no_markup(name, monkeypatch, capsys):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    assert list(progress(range(2), 2, name)) == [0, 1]
    assert f"{name} " in capsys.readouterr().err


def test_ctrl_c_while_a_command_loads_is_no_traceback(tmp_path):
    """The first import that takes long stands for all of them."""
    (tmp_path / "tyro.py").write_text("import time\nprint('loading', flush=True)\ntime.sleep(60)\n")
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; from regvit_jax.entry import train; train()"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "loading\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[1] == ""
    assert process.returncode == -signal.SIGINT
