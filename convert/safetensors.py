"""How is a safetensors file read and written? A length, a JSON header, then the values.

Reference: the format's description in the README of huggingface/safetensors.
"""

import json
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from regvit_jax.convert.stored import Stored, mapped_view, numpy_dtype
from regvit_jax.errors import InputError

_LENGTH = struct.Struct("<Q")
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
_METADATA = "__metadata__"


class SafeTensors(NamedTuple):
    """The tensors of a file by name, and the words that were saved beside them."""

    tensors: dict[str, Stored]
    metadata: dict[str, str]


def is_safetensors(head: bytes) -> bool:
    """Whether a file that starts with these bytes has a safetensors header."""
    return len(head) > _LENGTH.size and head[_LENGTH.size : _LENGTH.size + 1] == b"{"


def read(path: Path) -> SafeTensors:
    """The tensors of a safetensors file, mapped into memory.

    Raises:
      InputError: If the file is damaged or cut short.
    """
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    (length,) = _LENGTH.unpack_from(mapped)
    start = _LENGTH.size + length
    if start > len(mapped):
        raise InputError(
            f"{path} is cut short: its header needs {start} bytes, it has {len(mapped)}. Download "
            "or copy it again."
        )
    try:
        header = json.loads(mapped[_LENGTH.size : start])
        metadata = header.pop(_METADATA, None) or {}
        tensors = {name: _stored(path, mapped, start, entry) for name, entry in header.items()}
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path} is damaged: its header cannot be read ({type(error).__name__}: {error}). "
            "Download or copy it again."
        ) from error
    return SafeTensors(tensors, {k: str(v) for k, v in dict(metadata).items()})


def _stored(path: Path, mapped: mmap.mmap, start: int, entry: Mapping[str, Any]) -> Stored:
    shape, (begin, end) = tuple(entry["shape"]), entry["data_offsets"]
    if not all(type(n) is int and n >= 0 for n in (*shape, begin, end)) or len(shape) > 32:
        raise ValueError(f"a tensor of shape {shape} at {begin} to {end}")
    name = _DTYPES.get(entry["dtype"], str(entry["dtype"]))
    if name not in _DTYPES.values():
        return Stored(shape, name, lambda: np.zeros(0))
    dtype, numel = numpy_dtype(name), 1
    for size in shape:
        numel *= size
    if end - begin != numel * dtype.itemsize:
        raise ValueError(f"a tensor of shape {shape} in {end - begin} bytes")
    if start + end > len(mapped):
        raise InputError(
            f"{path} is cut short: its tensors need {start + end} bytes or more, it has "
            f"{len(mapped)}. Download or copy it again."
        )
    return Stored(shape, name, lambda: mapped_view(mapped, start + begin, shape, dtype))


def write(file: BinaryIO, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes tensors as float32, in their order."""
    header: dict[str, Any] = {_METADATA: dict(metadata)}
    offset = 0
    for name, tensor in tensors.items():
        span = [offset, offset + 4 * tensor.size]
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": span}
        offset = span[1]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the values are aligned
    file.write(_LENGTH.pack(len(text)) + text)
    for tensor in tensors.values():
        file.write(np.ascontiguousarray(tensor, "<f4").data)
