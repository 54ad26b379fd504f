"""What is known of a tensor in a file before its values are read?"""

import mmap
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from regvit_jax.errors import InputError


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
    """A read-only view of a mapped file.

    Args:
      mapped: The file.
      offset: Of the first value, in bytes.
      shape: Of the view.
      dtype: Of its values.
      strides: In values; None is the order of C.

    Raises:
      InputError: If the file has become shorter since it was opened.
    """
    if 0 in shape:
        return np.zeros(shape, dtype)
    if mapped.size() < len(mapped):
        raise InputError(
            f"The file became shorter while it was read: {mapped.size()} of {len(mapped)} bytes. "
            "Wait until it is written, then try again."
        )
    return view(mapped, offset, shape, dtype, strides)


def view(
    data: mmap.mmap | bytes,
    offset: int,
    shape: tuple[int, ...],
    dtype: np.dtype,
    strides: Sequence[int] | None = None,
) -> np.ndarray:
    """A read-only view of bytes; the arguments are those of `mapped_view`."""
    if 0 in shape:
        return np.zeros(shape, dtype)
    steps = None if strides is None else [stride * dtype.itemsize for stride in strides]
    return np.ndarray(shape, dtype, data, offset, steps)
