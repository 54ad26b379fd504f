"""What arrays does an `.npz` file hold? Its one reader; no pickle is opened."""

import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from regvit_jax.errors import InputError

_DAMAGE = (
    *(ValueError, EOFError, TypeError, AttributeError, KeyError, SyntaxError, struct.error),
    *(zipfile.BadZipFile, zlib.error, MemoryError, OverflowError, RecursionError),
    # Of zipfile, for entries that are encrypted or packed in a way that it does not know.
    *(NotImplementedError, RuntimeError),
)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file by name.

    Raises:
      InputError: If it is no whole `.npz` file of plain arrays.
      OSError: If it cannot be read.
    """
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if not isinstance(loaded, np.lib.npyio.NpzFile):
                raise InputError(f"{path} holds one array, not named ones.")
            return {name: loaded[name] for name in loaded.files}
    except InputError:
        raise
    except _DAMAGE as error:
        words = f"{type(error).__name__}: {str(error)[:200]}"
        raise InputError(f"{path} is no whole .npz file ({words}).") from error
