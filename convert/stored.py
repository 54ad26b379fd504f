"""What is known of a tensor in a file before its values are read?"""

import mmap
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Stored(NamedTuple):
    """A tensor in a file; `read` gives its values, most often as a view of the mapped file."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


def numpy_dtype(name: str) -> np.dtype:
    """The little-endian NumPy type of a name, bfloat16 included."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name).newbyteorder("<")


def mapped_view(
    mapped: mmap.mmap,
    offset: int,
    shape: tuple[int, ...],
    dtype: np.dtype,
    strides: Sequence[int] | None = None,
) -> np.ndarray:
    """A read-only view of a mapped file; NumPy refuses one that reaches beyond the file.

    Args:
      mapped: The file.
      offset: Of the first value, in bytes.
      shape: Of the view.
      dtype: Of its values.
      strides: In values; None is the order of C.
    """
    if 0 in shape:
        return np.zeros(shape, dtype)
    steps = None if strides is None else [stride * dtype.itemsize for stride in strides]
    return np.ndarray(shape, dtype, mapped, offset, steps)
