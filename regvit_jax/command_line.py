"""How is a command line understood, and what is said of one that cannot be?

tyro reads the options. What it says of a wrong value is a box around the name of a Python field;
where our own check found the fault, our sentence is said instead.
"""

import contextlib
import difflib
import itertools
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from regvit_jax.errors import InputError

NEVER_EMPTY = ("--checkpoint", "--data", "--out", "--results", "--runs")
_BOX, _HINT = "Error parsing", "For full helptext"


def check_arguments(arguments: Sequence[str], commands: Iterable[str], program: str) -> None:
    """Does nothing if the first argument is a command, and no place is empty.

    Args:
      arguments: Of the command line, without the program.
      commands: That there are.
      program: What it is called.

    Raises:
      InputError: Names the command that was probably meant, or the option without a value.
    """
    commands = list(commands)
    first = arguments[0] if arguments else "-"
    if not first.startswith("-") and first not in commands:
        near = difflib.get_close_matches(first, commands, n=1)
        meant = f" Did you mean {near[0]}?" if near else ""
        raise InputError(
            f"{program} has no command {first!r}.{meant} There are: {', '.join(commands)}."
        )
    for name, value in itertools.pairwise([*arguments, "-"]):
        option, equals, given = name.partition("=")
        if option in NEVER_EMPTY and "" == (given if equals else value):
            raise InputError(f"{option} is empty. Name a file or a folder after it.")


@contextlib.contextmanager
def in_our_words(program: str = "", command: str = "") -> Iterator[None]:
    """Raises the InputError that tyro put into a box; its other boxes name the command's help.

    Args:
      program: Such as "regvit-train".
      command: Its first argument.
    """
    held = _Held(sys.stderr, program, command if command[:1] != "-" else "")
    try:
        with contextlib.redirect_stderr(held):  # type: ignore[type-var]
            yield
    except SystemExit as error:
        if (cause := _our_error(error)) is not None:
            raise InputError(str(cause)) from cause
        held.release()
        raise


class _Held:
    """A stream that keeps back boxes about values until it is known who found the fault."""

    def __init__(self, stream: Any, program: str, command: str) -> None:
        self._stream, self._held, self._is_box = stream, "", False
        self._general = re.compile(f"{re.escape(program)} --help" + " " * (len(command) + 1))
        self._helpful = f"{program} {command} --help" if command else ""

    def write(self, text: str) -> int:
        if self._helpful and _HINT in text:
            text = self._general.sub(self._helpful, text)
        self._is_box = _BOX in text or (self._is_box and text == "\n")
        if self._is_box:
            self._held += text
            return len(text)
        return self._stream.write(text)

    def release(self) -> None:
        self._stream.write(self._held)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _our_error(error: BaseException) -> InputError | None:
    """The InputError during whose handling another error was raised."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, InputError):
            return found
        found = found.__cause__ or found.__context__
    return None
