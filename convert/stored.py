"""What is known of a tensor in a file before its values are read?"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Stored(NamedTuple):
    """A tensor in a file; `read` gives its values, most often as a view of the mapped file."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


def numpy_dtype(name: str) -> np.dtype:
    """The little-endian NumPy type of a name, bfloat16 and its like included."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name).newbyteorder("<")
