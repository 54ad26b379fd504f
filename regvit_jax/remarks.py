"""What do libraries tell a person who runs a command? Each remark once, in a line that names them.

Left alone, Python shows a warning with the file and line of code that no user knows, and every
library logs in a form of its own.
"""

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LONGEST = 400
"""Characters of a remark that are shown."""
OURS = "regvit_jax"


@contextlib.contextmanager
def in_one_line_each() -> Iterator[None]:
    """What is warned of or logged inside is shown on stderr as `Note from jax: ...`.

    Our own modules speak without the name.
    """
    handler, before = _Notes(logging.WARNING), warnings.showwarning
    logging.getLogger().addHandler(handler)
    warnings.showwarning = handler.show
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        if warnings.showwarning == handler.show:  # else a module has put itself before it
            warnings.showwarning = before


class _Notes(logging.Handler):
    """Shows warnings and log records."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Shows a log record; one whose parts do not fit together is shown without them."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError):
            message = str(record.msg)
        self._say(record.name, message)

    def show(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: Any = None,
        line: str | None = None,
    ) -> None:
        """Shows a warning; the signature is that of `warnings.showwarning`."""
        self._say(_library(filename), str(message))

    def _say(self, source: str, message: str) -> None:
        library = source.split(".")[0]
        words = " ".join(message.split())
        words = words if len(words) <= LONGEST else f"{words[:LONGEST]}…"
        note = words if library == OURS else f"Note from {library}: {words}"
        if note in self.said:
            return
        self.said.add(note)
        with contextlib.suppress(OSError, ValueError):  # nobody is there to read it
            sys.stderr.write(f"{note}\n")
            sys.stderr.flush()


def _library(filename: str) -> str:
    """Whose file gave a warning: the folder or file below `site-packages`."""
    parts = Path(filename).parts
    if OURS in parts:
        return OURS
    below = parts[parts.index("site-packages") + 1 :] if "site-packages" in parts else parts[-1:]
    return Path(below[0]).stem if below else "Python"
