"""How does an analysis end when somebody asks it to? Within seconds, and keeping what is computed.

Loops over images and epochs call `check`, so that the work ends in order: its temporary files go,
the batches of a spool stay. Some steps look at nothing for long, such as one that compiles or
solves; if they keep the command for more than `PATIENCE` seconds, the process ends where it is.
Nothing is lost then either: results appear as a whole, and the next command removes what is left.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar

from regvit_jax.interrupt import Interrupted, StopRequest, listen

PATIENCE = 4.0
"""Seconds from the request until the process ends in any case."""
STOPPED = "Stopped. What is computed is kept; the same command resumes."

_INTERVAL = 0.2  # seconds between two looks at the request
_SHOW_CURSOR = "\x1b[?25h"  # progress bars hide it
_request: ContextVar[StopRequest | None] = ContextVar("request", default=None)


def check() -> None:
    """Gives up the work at hand if the command is to stop.

    Raises:
      Interrupted: If it is.
    """
    request = _request.get()
    if request is not None:
        request.check()


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """What happens inside ends soon after a signal that asks for it.

    Raises:
      SystemExit: If there was one; its status is 128 + the signal's number.
    """
    with listen() as request:
        left = threading.Event()
        threading.Thread(target=_watch, args=(request, left, end_process), daemon=True).start()
        token = _request.set(request)
        try:
            yield
        except (Interrupted, OSError):  # an OSError as of a terminal that is gone
            if request.signal is None:
                raise
            _say(STOPPED)
        finally:
            _request.reset(token)
            if request.signal is None:  # else threads that still compute may delay the end
                left.set()
        if request.signal is not None:
            raise SystemExit(128 + request.signal)


def _watch(request: StopRequest, left: threading.Event, end: Callable[[int], None]) -> None:
    """Ends the process if it is there long after the request."""
    while not left.wait(_INTERVAL):
        if request.signal is not None:
            if not left.wait(PATIENCE):
                end(128 + request.signal)
            return


def end_process(status: int) -> None:
    """Ends the process where it is."""
    _say(STOPPED)
    os._exit(status)


def _say(sentence: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # a terminal that is gone
        cursor = _SHOW_CURSOR if sys.stderr.isatty() else ""
        sys.stderr.write(f"{cursor}{sentence}\n")
        sys.stderr.flush()
