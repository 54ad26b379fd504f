"""How do the commands speak to a person: errors, exit status, progress?"""

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from regvit_jax.errors import InputError

Item = TypeVar("Item")


def run(command: Callable[[], None]) -> None:
    """Runs a command; bad input ends it with a message and exit status 2, Ctrl-C with 130."""
    try:
        command()
    except InputError as error:
        _fail(f"Error: {error}", 2)
    except OSError as error:  # a full disk, a folder that may not be written
        _fail(f"Error: {error.strerror or error} ({error.filename or 'no file named'})", 2)
    except KeyboardInterrupt:
        _fail("Stopped.", 130)


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
            console.print(f"{label}: {done} of {total}", highlight=False)


def _fail(message: str, status: int) -> None:
    sys.stderr.write(message + "\n")
    raise SystemExit(status)
