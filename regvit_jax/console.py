"""How do the commands speak to a person: errors, exit status, progress?

| what ends a command | status | what is said |
|---|---|---|
| bad input, an error of the system | 2 | one message: what was expected, what came, what to do |
| Ctrl-C | 130 | that it stopped |
| the reader of a pipe left (`| head`) | 141 | nothing |
| anything else | 1 | one sentence, and a log file with the traceback |
"""

import contextlib
import datetime
import errno
import os
import shlex
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from regvit_jax.errors import InputError

Item = TypeVar("Item")

MEMORY_ADVICE = (
    "Ask for less at once: a smaller --batch-size, for training a larger --accumulation-steps, a "
    "smaller --image-size, or a smaller model."
)
_MEMORY_WORDS = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory", "Unable to allocate")
_CURES = {
    errno.ENOSPC: "Make room, or write to another disk; what was there before is as it was.",
    errno.EDQUOT: "Make room within your quota, or write to another disk.",
    errno.EACCES: "Ask for the right to read or write it, or name another place.",
    errno.EROFS: "Name a place on another file system.",
    errno.EMFILE: "Allow more open files: `ulimit -n 4096`.",
}


def run(command: Callable[[], None]) -> None:
    """Runs a command, and ends the process as the table above says if it fails."""
    _open_streams()
    try:
        if sys.argv[1:] == ["--version"]:
            _write_version()
        else:
            command()
        sys.stdout.flush()
    except SystemExit:  # `--help` has answered
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        raise
    except InputError as error:
        _fail(f"Error: {error}", 2)
    except BrokenPipeError:
        _leave_pipe()
    except KeyboardInterrupt:
        _fail("Stopped.", 130)
    except MemoryError as error:
        _fail(f"Error: not enough memory{_detail(error)}. {MEMORY_ADVICE}", 2)
    except OSError as error:  # a full disk, a folder that may not be written
        _fail(_describe(error), 2)
    except Exception as error:
        if _is_out_of_memory(error):
            _fail(f"Error: not enough memory{_detail(error)}. {MEMORY_ADVICE}", 2)
        _fail(_unexpected(error), 1)


def progress(items: Iterable[Item], total: int, label: str) -> Iterator[Item]:
    """The items, with a progress bar on a terminal and a line every tenth part elsewhere.

    Both go to stderr, so that a command's output can be piped.
    """
    from rich.console import Console
    from rich.progress import Progress, TimeElapsedColumn

    console = Console(stderr=True)
    if console.is_terminal:
        with Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=console) as bar:
            yield from bar.track(items, total=total, description=label)
        return
    tenths = 0
    for done, item in enumerate(items, start=1):
        yield item
        if 10 * done // max(total, 1) > tenths:
            tenths = 10 * done // max(total, 1)
            console.print(f"{label}: {done} of {total}", highlight=False, markup=False)


def _describe(error: OSError) -> str:
    """What the system refused, where, and what to do about it."""
    words = error.strerror or str(error) or type(error).__name__
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    where = f": {' -> '.join(names)}" if names else ""
    cure = _CURES.get(error.errno or 0)
    return f"Error: {words}{where}." + (f" {cure}" if cure else "")


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether XLA, or whoever asked for memory below Python, got none."""
    seen: BaseException | None = error
    while seen is not None:
        if any(word in str(seen)[:4000] for word in _MEMORY_WORDS):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _detail(error: BaseException) -> str:
    """The beginning of what was said about the memory."""
    lines = str(error).strip().splitlines()
    return f" ({lines[0][:160]})" if lines else ""


def _unexpected(error: Exception) -> str:
    """One sentence on a fault of ours, and where its traceback is."""
    lines = str(error).strip().splitlines()
    what = f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
    log = _write_log(error)
    where = f"The traceback and the command are in {log}" if log else "No log could be written"
    return f"Error: something unexpected went wrong ({what}). {where}; please report it with them."


def _write_log(error: Exception) -> Path | None:
    """Writes a log file into the current folder, or where temporary files go."""
    from regvit_jax.checkpoint import versions

    now = datetime.datetime.now()
    content = "\n".join(
        (
            f"time: {now.isoformat(timespec='seconds')}",
            f"command: {shlex.join(sys.argv)}",
            f"folder: {_current_folder()}",
            f"python: {sys.version}",
            f"versions: {versions()}",
            "",
            "".join(traceback.format_exception(error)),
        )
    )
    name = f"regvit-error-{now:%Y%m%d-%H%M%S}-{os.getpid()}.log"
    for folder in (Path(), Path(tempfile.gettempdir())):
        with contextlib.suppress(OSError):
            path = (folder / name).absolute()
            path.write_text(content, encoding="utf-8", errors="backslashreplace")
            return path
    return None


def _current_folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return "gone"


def _open_streams() -> None:
    """Gives a command streams that take whatever it writes.

    A closed stream becomes one to nowhere; names of files that are no valid text are printed with
    escapes.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", errors="backslashreplace"))
        elif hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="backslashreplace")


def _write_version() -> None:
    """Says which versions are installed, without loading any of them."""
    from regvit_jax import __version__
    from regvit_jax.checkpoint import versions

    others = ", ".join(f"{name} {x}" for name, x in versions().items() if name != "regvit-jax")
    sys.stdout.write(f"regvit-jax {__version__} (Python {sys.version.split()[0]}, {others})\n")


def _leave_pipe() -> None:
    """Ends as Unix programs do when nobody reads what they write."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(141) from None


def _fail(message: str, status: int) -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(message + "\n")
    raise SystemExit(status)
