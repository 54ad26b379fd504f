"""Where is the work, and how long will it take? Stages, counted; a bar or plain lines.

On a terminal a bar moves; elsewhere a line is written for every tenth part, such as "Stage 2 of 5,
reg0, 500 images: 64 of 500, 0:40 left".
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

Item = TypeVar("Item")

_heading: ContextVar[str] = ContextVar("heading", default="")


class Stages:
    """The stages of a command, one after the other.

    Args:
      total: How many there will be.
    """

    def __init__(self, total: int) -> None:
        self.total, self.number = total, 0

    @contextmanager
    def stage(self) -> Iterator[None]:
        """What is tracked inside is headed by the stage's number."""
        self.number += 1
        token = _heading.set(f"Stage {self.number} of {self.total}, " if self.total > 1 else "")
        try:
            yield
        finally:
            _heading.reset(token)


def track(
    items: Iterable[Item],
    total: int,
    label: str,
    size: Callable[[Item], int] = lambda item: 1,
    done: int = 0,
) -> Iterator[Item]:
    """The items, with a bar or lines on stderr that say how far the work is.

    Args:
      items: What the work is on; the time to come is judged by how long they took.
      total: The sum of their sizes, and of `done`.
      label: What the work is called.
      size: How much an item counts, such as the images of a batch.
      done: What an earlier attempt did.
    """
    console, label = Console(stderr=True), _heading.get() + label
    if console.is_terminal:
        left = TextColumn("{task.completed:.0f} of {task.total:.0f}"), TimeRemainingColumn()
        with Progress(TextColumn("{task.description}"), BarColumn(), *left, console=console) as bar:
            task = bar.add_task(escape(label), total=total, completed=done)
            for item in items:
                yield item
                bar.advance(task, size(item))
        return
    start, before = time.monotonic(), done
    for item in items:
        yield item
        tenths, done = 10 * done // max(total, 1), done + size(item)
        if 10 * done // max(total, 1) > tenths:
            speed = (done - before) / max(time.monotonic() - start, 1e-9)
            left_over = max(total - done, 0) / max(speed, 1e-9)
            line = f"{label}: {done} of {total}, {clock(left_over)} left"
            console.print(line, highlight=False, markup=False, soft_wrap=True)


def clock(seconds: float) -> str:
    """A duration as people read it: 0:07, 12:30, 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
