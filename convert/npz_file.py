"""How are the weights in an `.npz` file read, as big_vision, augreg and TIPS write them?

Their trees are flat: "Transformer/encoderblock_0/LayerNorm_0/scale". A slash becomes a dot here.
"""

import zipfile
from pathlib import Path

import numpy as np

from regvit_jax.convert.stored import Stored, numpy_dtype
from regvit_jax.errors import InputError
from regvit_jax.npz import read_npz


def is_npz(path: Path) -> bool:
    """Whether a zip archive holds nothing but arrays of NumPy."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, LookupError):
        return False
    return bool(names) and all(name.endswith(".npy") for name in names)


def read(path: Path) -> dict[str, Stored]:
    """The tensors of a file by name.

    Raises:
      InputError: If it is damaged, or unpacks to far more than it is.
    """
    found = read_npz(path)
    if len({name.replace("/", ".") for name in found}) < len(found):
        raise InputError(f"{path} holds two arrays whose names differ in dots and slashes alone.")
    arrays = {name.replace("/", "."): _typed(array) for name, array in found.items()}
    return {name: _stored(array) for name, array in arrays.items()}


def _typed(array: np.ndarray) -> np.ndarray:
    """The array; bfloat16, which NumPy does not know, is saved as two bytes of any meaning."""
    if array.dtype.kind == "V" and array.dtype.itemsize == 2:
        return array.view(numpy_dtype("bfloat16"))
    return array


def _stored(array: np.ndarray) -> Stored:
    return Stored(array.shape, str(array.dtype), lambda: array)
