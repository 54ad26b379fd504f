"""How does a command end early without losing its work?

Python runs a signal's handler only between two of its own instructions: not while a program
compiles, and an exception that it raises can get lost inside a callback of JAX. So nothing is
raised here. The first signal sets a flag, which loops look at; a thread, which hears of signals at
any time, ends the process at the second Ctrl-C, or at the first signal if nothing would be lost.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""What clusters, terminals and people send to end a job."""
ECHO_SECONDS = 0.5
"""A launcher passes Ctrl-C on to a process that the terminal has told already."""


class Interrupted(Exception):
    """The work at hand was given up because somebody asked the command to stop."""


class Stopped(Exception):
    """A command ends early and in order; its status is 128 + the signal's number.

    Args:
      number: The signal's.
      how_to_go_on: A sentence for the person, such as which command continues.
    """

    def __init__(self, number: int, how_to_go_on: str = "") -> None:
        super().__init__(f"Stopped. {how_to_go_on}".rstrip())
        self.number = number


class StopRequest:
    """Whether somebody asked the command to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.how_to_go_on: str | None = None
        """What to say where the process may end at the first signal, since nothing would be lost;
        None where there is something to save."""
        self._heard_at: float | None = None

    @property
    def is_made(self) -> bool:
        return self.signal is not None

    def check(self) -> None:
        """Gives up the work at hand if the command is to stop.

        Raises:
          Interrupted: If it is.
        """
        if self.is_made:
            raise Interrupted

    def make(self, number: int) -> None:
        """Asks the command to stop; only the first signal counts."""
        if self.signal is None:
            self.signal = number

    def hear(self, number: int) -> None:
        """Takes a signal from the thread that listens: says what it does, or ends the process."""
        self.make(number)
        now = time.monotonic()
        if self._heard_at is None:
            self._heard_at = now
            if self.how_to_go_on is not None:
                _say(f"{signal.Signals(number).name}: stopped. {self.how_to_go_on}")
                os._exit(128 + number)
            _say(f"{signal.Signals(number).name}: stopping. Ctrl-C ends the process at once.")
        elif number == signal.SIGINT and now - self._heard_at > ECHO_SECONDS:
            _say("Ended at once.")
            os._exit(128 + number)


@contextlib.contextmanager
def listen() -> Iterator[StopRequest]:
    """A request that the first signal makes; a later Ctrl-C ends the process.

    Outside Python's main thread, where signals cannot be listened to, nobody makes it.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    if before[signal.SIGHUP] == signal.SIG_IGN:  # `nohup`: the run outlives its terminal
        del before[signal.SIGHUP]
    ears, mouth = os.pipe()
    os.set_blocking(mouth, False)
    thread = threading.Thread(target=_listen, args=(ears, request), daemon=True)
    previous = signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
    for number in before:
        signal.signal(number, lambda number, _frame: request.make(number))
    thread.start()
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(previous)
        os.close(mouth)
        thread.join()
        os.close(ears)


def _listen(ears: int, request: StopRequest) -> None:
    """Hears signals until the pipe is closed."""
    while numbers := os.read(ears, 64):
        for number in numbers:
            if number in SIGNALS:
                request.hear(number)


def _say(sentence: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # a terminal that is gone
        sys.stderr.write(f"\n{sentence}\n")
        sys.stderr.flush()
