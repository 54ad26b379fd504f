"""How is a safetensors file read and written? A length, a JSON header, then the values.

Reference: the format's description in the README of huggingface/safetensors.
"""

import json
import math
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from regvit_jax.convert.stored import Stored, mapped_view, numpy_dtype
from regvit_jax.errors import InputError
from regvit_jax.strict_json import expect, parse_json

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
_BITS = {
    **{"BOOL": 8, "I8": 8, "U8": 8, "I16": 16, "U16": 16, "I32": 32, "U32": 32, "I64": 64},
    **{"U64": 64, "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64},
    **{"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8},
    **{"F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8},
}
"""The length of a value of each type that the format has."""
_METADATA = "__metadata__"
_MAX_HEADER = 100_000_000
"""Bytes, as in the format's own library."""


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
      InputError: If the file is damaged or cut short, or its tensors leave out, share or repeat
        any byte.
    """
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if len(mapped) < _LENGTH.size:
        raise InputError(f"{path} is cut short: it has {len(mapped)} bytes. Download it again.")
    (length,) = _LENGTH.unpack_from(mapped)
    start = _LENGTH.size + length
    if start > len(mapped):
        raise InputError(
            f"{path} is cut short: its header needs {start} bytes, it has {len(mapped)}. Download "
            "or copy it again."
        )
    if length > _MAX_HEADER:
        raise InputError(f"{path} has a header of {length} bytes; at most {_MAX_HEADER} are read.")
    header = _header(mapped[_LENGTH.size : start], f"{path} is damaged: its header")
    words = _texts(header.pop(_METADATA, None), f"{path} is damaged: {_METADATA}")
    entries = {name: _entry(entry, f"{path} is damaged: {name}") for name, entry in header.items()}
    _check_tiling(path, entries, len(mapped) - start)
    return SafeTensors({n: _stored(mapped, start, e) for n, e in entries.items()}, words)


class _Entry(NamedTuple):
    """A tensor of the header: its bytes lie from `begin` to `end`, counted from the first value."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def _header(text: bytes, label: str) -> dict[str, Any]:
    """The JSON object at the start; only what the format's own library reads too."""
    header = parse_json(text, label)
    if not text.startswith(b"{"):
        raise InputError(f"{label} does not start with a bracket. Download or copy it again.")
    try:
        json.dumps(header, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise InputError(f"{label} holds half of a character. Download it again.") from None
    return header


def _texts(value: Any, label: str) -> dict[str, str]:
    if value is None:
        return {}
    return {k: expect(v, str, f"{label}: {k}") for k, v in expect(value, dict, label).items()}


def _entry(value: Any, label: str) -> _Entry:
    """An entry of the header; raises unless it is as long as its shape and type say."""
    entry = expect(value, dict, label)
    if entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise InputError(f"{label} needs dtype, shape and data_offsets, and nothing else.")
    dtype = expect(entry["dtype"], str, f"{label}: dtype")
    if dtype not in _BITS:
        raise InputError(f"{label} has values of the unknown type {dtype[:40]!r}.")
    shape = tuple(_sizes(entry["shape"], f"{label}: shape"))
    begin, end, *more = (*_sizes(entry["data_offsets"], f"{label}: data_offsets"), -1, -1)
    if len(shape) > 32 or len(more) != 2:
        raise InputError(f"{label} has {len(shape)} axes and {len(more)} offsets, expected 2.")
    if (end - begin) * 8 != math.prod(shape) * _BITS[dtype]:
        raise InputError(f"{label}: {dtype} of shape {shape} does not fill bytes {begin} to {end}.")
    return _Entry(dtype, shape, begin, end)


def _sizes(value: Any, label: str) -> list[int]:
    sizes = expect(value, list, label)
    if not all(type(size) is int and 0 <= size < 2**62 for size in sizes):
        raise InputError(f"{label} holds something else than sizes.")
    return sizes


def _check_tiling(path: Path, entries: Mapping[str, _Entry], size: int) -> None:
    """Raises unless every byte of the values belongs to one tensor."""
    place = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != place:
            raise InputError(
                f"{path} is damaged: {name} starts at byte {entry.begin} of the values, expected "
                f"{place}. Download or copy it again."
            )
        place = entry.end
    if place > size:
        raise InputError(
            f"{path} is cut short: its tensors need {place} bytes, it has {size}. Download or copy "
            "it again."
        )
    if place < size:
        raise InputError(
            f"{path} is damaged: {size - place} bytes follow its tensors. Download or copy it "
            "again."
        )


def _stored(mapped: mmap.mmap, start: int, entry: _Entry) -> Stored:
    name = _DTYPES.get(entry.dtype, entry.dtype)
    if entry.dtype not in _DTYPES:
        return Stored(entry.shape, name, lambda: np.zeros(0))
    dtype = numpy_dtype(name)
    return Stored(
        entry.shape, name, lambda: mapped_view(mapped, start + entry.begin, entry.shape, dtype)
    )


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
