"""What arrays does an `.npz` file hold? Its one reader; no pickle is opened."""

import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from regvit_jax.errors import InputError
from regvit_jax.unpacking import exhausts_memory

_ARRAY = b"\x93NUMPY"
_DAMAGE = (
    *(ValueError, EOFError, TypeError, AttributeError, KeyError, SyntaxError, struct.error),
    *(zipfile.BadZipFile, zlib.error, MemoryError, OverflowError, RecursionError),
    # Of zipfile, for entries that are encrypted or packed in a way that it does not know.
    RuntimeError,
)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file by name.

    Raises:
      InputError: If it is no whole `.npz` file of plain arrays.
      OSError: If it cannot be read.
    """
    try:
        with path.open("rb") as file:
            if file.read(len(_ARRAY)) == _ARRAY:
                raise InputError(f"{path} holds one array, not named ones.")
            with zipfile.ZipFile(file) as archive:
                entries = archive.infolist()
                _check(path, entries)
                return {
                    info.filename.removesuffix(".npy"): _read(archive, info) for info in entries
                }
    except InputError:
        raise
    except _DAMAGE as error:
        words = f"{type(error).__name__}: {str(error)[:200]}"
        raise InputError(f"{path} is no whole .npz file ({words}).") from error


def _check(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    """Raises before anything is unpacked that should not be."""
    if len(entries) > len({info.filename for info in entries}):
        raise InputError(f"{path} is no whole .npz file (a name is given twice).")
    unpacked = sum(info.file_size for info in entries)
    if exhausts_memory(unpacked, path.stat().st_size):
        raise InputError(
            f"{path} would unpack to {unpacked} bytes, far more than arrays do: it was made to "
            "exhaust the memory."
        )


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """One array, which fills its entry; the entry's checksum is compared at its end."""
    with archive.open(info) as entry:
        array = np.lib.format.read_array(entry, allow_pickle=False)
        if entry.read(1):
            raise ValueError(f"bytes follow the array {info.filename[:80]}")
    return array
