"""What does a trace look like when it is printed? Its shapes, not its numbers."""

from typing import Any

import numpy as np


def shapes(record: Any, indent: str = "  ") -> str:
    """A named tuple of arrays as text: a line for each field.

    Equal neighbours in a tuple stand once, with their number.

    Args:
      record: Of arrays, tuples of such records, and None.
      indent: What each of its lines begins with.
    """
    lines = [
        f"{indent}{name}: {_described(value, indent)}"
        for name, value in zip(record._fields, record, strict=True)
    ]
    return "\n".join([f"{type(record).__name__}(", *lines, f"{indent[2:]})"])


def _described(value: Any, indent: str) -> str:
    if hasattr(value, "_fields"):
        return shapes(value, indent + "  ")
    if isinstance(value, tuple):
        return _repeated([_described(item, indent) for item in value])
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{np.dtype(value.dtype).name} {tuple(value.shape)}"
    return repr(value)


def _repeated(texts: list[str]) -> str:
    """Texts in order; a run of equal ones as its length and the text."""
    runs: list[tuple[str, int]] = []
    for text in texts:
        count = runs.pop()[1] if runs and runs[-1][0] == text else 0
        runs.append((text, count + 1))
    return ", ".join(f"{count} x {text}" if count > 1 else text for text, count in runs) or "none"
