"""How do the commands speak to a person: errors, exit status, progress?"""

import errno
import os
import select
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from regvit_jax.errors import InputError
from regvit_jax.interrupt import Stopped
from regvit_jax.last_resort import write_log
from regvit_jax.remarks import in_one_line_each

Item = TypeVar("Item")

BAD_INPUT, OUR_FAULT = 2, 1
"""Exit status."""
CURES = {
    errno.ENOSPC: "Make room, or write to another disk; what was there before is as it was.",
    errno.EDQUOT: "Make room within your quota, or write to another disk.",
    errno.EACCES: "Ask for the right to read or write it, or name another place.",
    errno.EROFS: "Name a place on another file system.",
    errno.EMFILE: "Allow more open files: `ulimit -n 4096`.",
}
"""What to do about an error of the system."""
_LOOP = "Symlink loop from"
BROKEN_PIPE = 128 + signal.SIGPIPE
VERSION_HINT = "--version alone prints the installed versions."
"""For the help of every command: `run` answers this option before anything is loaded."""


def run(command: Callable[[], None]) -> None:
    """Runs a command; whatever happens, it ends with one sentence and a status that tells it.

    Bad input and errors of the system end it with status 2, Ctrl-C with 130, a signal with 128 and
    its number, a fault of ours with 1 and a log file. A reader that has gone (`| head`) is no
    error.
    """
    _open_streams()
    try:
        with in_one_line_each():
            status = _status(command)
        sys.stdout.flush()
    except OSError as error:  # the output's reader has gone, or its disk is full
        status = _told(error) if error.errno != errno.EPIPE else BROKEN_PIPE
        _drop_output()
    if status:
        raise SystemExit(status)


def _status(command: Callable[[], None]) -> int:
    """Exit status of a command, after a message where it failed."""
    try:
        if sys.argv[1:] == ["--version"]:
            _write_version()
            return 0
        command()
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        return _say(str(error.code), OUR_FAULT)
    except (Exception, KeyboardInterrupt) as error:
        return _told(error)
    return 0


def _write_version() -> None:
    """Says which versions are installed, without loading any of them."""
    from regvit_jax.versions import version, versions

    others = ", ".join(f"{name} {x}" for name, x in versions().items() if name != "regvit-jax")
    sys.stdout.write(f"regvit-jax {version()} (Python {sys.version.split()[0]}, {others})\n")


def _told(error: BaseException) -> int:
    """Says what went wrong; the exit status."""
    cause = _understood(error)
    if isinstance(cause, BrokenPipeError) and not _is_read():
        raise cause
    if isinstance(cause, KeyboardInterrupt):
        return _say("Stopped.", 128 + signal.SIGINT)
    if isinstance(cause, Stopped):
        return _say(str(cause), 128 + cause.number)
    if isinstance(cause, InputError):
        return _say(f"Error: {cause}", BAD_INPUT)
    if _is_of_memory(cause):
        return _say(f"Error: {_memory_advice()}", BAD_INPUT)
    if isinstance(cause, OSError):
        return _say(f"Error: {_sentence(cause)}", BAD_INPUT)
    if isinstance(cause, RuntimeError) and str(cause).startswith(_LOOP):  # pathlib's, of resolve()
        return _say(f"Error: {cause}: the link leads to itself. Remove it.", BAD_INPUT)
    return _say(f"Error: {write_log(error)}", OUR_FAULT)


def _understood(error: BaseException) -> BaseException:
    """The error, or the cause of it that can be told to a person: libraries wrap what is raised."""
    found: BaseException | None = error
    for _ in range(20):
        if found is None:
            break
        if isinstance(found, InputError | OSError | Stopped) or _is_of_memory(found):
            return found
        found = found.__cause__
    return error


def _is_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; JAX has no class of its own for that."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    words = str(error) if isinstance(error, RuntimeError | ValueError) else ""
    return any(sign in words for sign in _OUT_OF_MEMORY)


_OUT_OF_MEMORY = (
    *("RESOURCE_EXHAUSTED", "Out of memory", "out of memory", "std::bad_alloc"),
    "can't start new thread",
    "YNNPACK operation failed",  # of XLA's CPU library, whose operations fail for nothing else
)
"""How libraries below Python say that they got no memory."""


def _memory_advice() -> str:
    """What to do when memory ran out, by the command that is running."""
    program, arguments = Path(sys.argv[0]).name, sys.argv[1:]
    if "run" in arguments[:1]:
        return (
            "There is not enough memory. A smaller --batch-size needs less; so does a larger "
            "--accumulation-steps, which leaves the batch as it is, or a smaller --image-size."
        )
    if "convert" in program:
        return "There is not enough memory. Close other programs, or use a machine with more."
    return (
        "There is not enough memory. A smaller --batch-size needs less; so does a smaller "
        "--image-size where the command has it, or fewer --num-images."
    )


def _sentence(error: OSError) -> str:
    """What the system refused, of which file, and what helps."""
    reason = error.strerror or str(error) or type(error).__name__
    places = [
        os.fsdecode(p) for p in (error.filename, error.filename2) if isinstance(p, str | bytes)
    ]
    where = f": {' -> '.join(places)}" if places else ""
    cure = CURES.get(error.errno or 0)
    return f"{reason}{where}." + (f" {cure}" if cure else "")


def _is_read() -> bool:
    """Whether somebody reads what this process prints; a reader that has gone is no fault."""
    if not hasattr(select, "poll"):
        return False
    for stream in (sys.stdout, sys.stderr):
        try:
            poll = select.poll()
            poll.register(stream.fileno(), 0)
            if any(event & select.POLLERR for _, event in poll.poll(0)):
                return False
        except (OSError, ValueError):  # no file of the system's
            continue
    return True


def _open_streams() -> None:
    """Output that was closed (`>&-`) goes nowhere; names that are not UTF-8 can be printed."""
    if sys.stdout is None or sys.stderr is None:
        # The lowest numbers are given out first: no file of ours may become the output.
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(descriptor)
        for name in ("stdout", "stderr"):
            if getattr(sys, name) is None:
                setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """What is left in the buffer goes nowhere: Python would try, and complain, at its end."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError):
        pass


def progress(items: Iterable[Item], total: int, label: str) -> Iterator[Item]:
    """The items, with a progress bar on a terminal and a line every tenth part elsewhere.

    Both go to stderr, so that a command's output can be piped.
    """
    from rich.console import Console
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if console.is_terminal:
        # No markup: "[red]" and ":smile:" in a name are letters.
        name = TextColumn("{task.description}", markup=False)
        columns = (name, *Progress.get_default_columns()[1:], TimeElapsedColumn())
        with Progress(*columns, console=console) as bar:
            yield from bar.track(items, total=total, description=label)
        return
    tenths = 0
    for done, item in enumerate(items, start=1):
        yield item
        if 10 * done // max(total, 1) > tenths:
            tenths = 10 * done // max(total, 1)
            sys.stderr.write(f"{label}: {done} of {total}\n")
            sys.stderr.flush()


def _say(message: str, status: int) -> int:
    """Writes a message to stderr; the status."""
    try:
        sys.stdout.flush()
    except OSError:
        _drop_output()
    try:
        sys.stderr.write(message + "\n")
        sys.stderr.flush()
    except OSError:  # nobody is there to read it
        pass
    return status
