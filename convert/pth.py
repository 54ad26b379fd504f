"""How is a PyTorch file read without PyTorch? Both of its formats, mapped into memory.

Since torch 1.6 the file is a zip archive: `data.pkl` describes the objects, `data/KEY` holds the
values of a storage, as they are unless another program has packed the archive anew. Before, it was
a row of pickles followed by the storages.
"""

import io
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from regvit_jax.convert import archive, pickles
from regvit_jax.convert.archive import ZIP_MAGIC, Span
from regvit_jax.convert.stored import Stored, mapped_view, numpy_dtype, view
from regvit_jax.convert.torch_types import Storage, Tensor
from regvit_jax.errors import InputError

LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""A pickle of torch's own magic number, 0x1950a86a20f9469cfc6c."""

# In the old format, a storage starts with its number of values.
_COUNT = struct.Struct("<q")

_MAX_PICKLE = 2**28
"""Bytes of the unpacked description of the objects; of 1,000 tensors it has 100,000."""


class PthFile:
    """The objects of a PyTorch file, and the values of their tensors on demand."""

    def __init__(
        self, path: Path, mapped: mmap.mmap, content: Any, storages: Mapping[str, Span]
    ) -> None:
        self.path = path
        self.content = content
        """The saved object, with a `Tensor` for every tensor."""
        is_zip = mapped[:4] == ZIP_MAGIC
        self.format = "PyTorch file" if is_zip else "PyTorch file (written before torch 1.6)"
        self._mapped, self._storages = mapped, storages
        self._checked: set[str] = set()
        self._unpacked = ("", b"")

    def stored(self, tensor: Tensor) -> Stored:
        """A tensor of `content`, still unread."""
        return Stored(tensor.shape, tensor.storage.dtype, lambda: self._array(tensor))

    def _array(self, tensor: Tensor) -> np.ndarray:
        """A view of the file, whose checksum is compared when a storage is first read."""
        dtype, key = self._dtype(tensor.storage.dtype), tensor.storage.key
        span, skipped = self._storages[key], tensor.offset * dtype.itemsize
        if span.packed_size is not None:
            if self._unpacked[0] != key:  # several tensors of one storage follow each other
                self._unpacked = (key, archive.unpacked(self.path, self._mapped, span))
            return view(self._unpacked[1], skipped, tensor.shape, dtype, tensor.strides)
        if key not in self._checked:
            archive.check_crc(self.path, self._mapped, span)
            self._checked.add(key)
        offset = span.offset + skipped
        return mapped_view(self._mapped, offset, tensor.shape, dtype, tensor.strides)

    def _dtype(self, name: str) -> np.dtype:
        try:
            return numpy_dtype(name)
        except TypeError:
            raise InputError(f"{self.path} holds values of type {name}, not of float32.") from None


def read(path: Path) -> PthFile:
    """The objects of a PyTorch file, whichever of the two formats it has.

    Raises:
      InputError: If the file is damaged, cut short, made to exhaust the memory, or asks to run
        code.
    """
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        reader = _read_zip if mapped[:4] == ZIP_MAGIC else _read_legacy
        return PthFile(path, mapped, *reader(path, file, mapped))


def _read_zip(
    path: Path, file: io.BufferedReader, mapped: mmap.mmap
) -> tuple[Any, dict[str, Span]]:
    spans = archive.entries(path, file, mapped)
    root = archive.root(path, spans)
    order = spans.get(root + "byteorder")
    if order is not None and archive.content(path, mapped, order) != b"little":
        raise InputError(f"{path} was written on a big-endian machine; save it on another one.")
    content, storages = _described(path, mapped, spans[root + "data.pkl"])
    found = {key: spans.get(f"{root}data/{key}") for key in storages}
    for key, storage in storages.items():
        span = found[key]
        if span is None or span.size != storage.nbytes:
            raise InputError(
                f"{path} is damaged: storage {key!r} should hold {storage.nbytes} bytes, found "
                f"{span.size if span else 'none'}. Download or copy it again."
            )
    return content, {key: span for key, span in found.items() if span}


def _described(path: Path, mapped: mmap.mmap, entry: Span) -> tuple[Any, dict[str, Any]]:
    """The objects, and the storages of their tensors."""
    if entry.packed_size is not None:
        if entry.size > _MAX_PICKLE:
            raise InputError(
                f"{path} describes its tensors in {entry.size} bytes; made to exhaust the memory?"
            )
        data = archive.unpacked(path, mapped, entry)
        content, storages, stop = pickles.load(data, str(path))
        left = len(data) - stop
    else:
        archive.check_crc(path, mapped, entry)
        end = entry.offset + entry.size
        content, storages, stop = pickles.load(mapped, str(path), entry.offset, end)
        left = end - stop
    if left:
        raise InputError(f"{path} is damaged: bytes follow its pickle. Download or copy it again.")
    return content, storages


def _read_legacy(
    path: Path, file: io.BufferedReader, mapped: mmap.mmap
) -> tuple[Any, dict[str, Span]]:
    label = str(path)
    protocol = pickles.load(mapped, label, len(LEGACY_MAGIC))
    if type(protocol.content) is not int or protocol.content != 1001:
        raise InputError(f"{path} is a PyTorch file of an unknown version, not 1001.")
    machine = pickles.load(mapped, label, protocol.end)
    if type(machine.content) is not dict or machine.content.get("little_endian") is not True:
        raise InputError(f"{path} was written on a big-endian machine; save it on another one.")
    content, storages, end = pickles.load(mapped, label, machine.end)
    keys, _, offset = pickles.load(mapped, label, end)
    is_list = type(keys) is list and all(type(key) is str for key in keys)
    if not is_list or sorted(keys) != sorted(storages):
        raise InputError(f"{path} is damaged: its list of storages does not match its tensors.")
    return content, _legacy_spans(path, mapped, [storages[key] for key in keys], offset)


def _legacy_spans(
    path: Path, mapped: mmap.mmap, storages: list[Storage], offset: int
) -> dict[str, Span]:
    """Where storages lie, each behind its number of values, up to the very end of the file."""
    spans = {}
    for storage in storages:
        if offset + _COUNT.size + storage.nbytes > len(mapped):
            raise InputError(
                f"{path} is cut short: its tensors need {offset + _COUNT.size + storage.nbytes} "
                f"bytes or more, it has {len(mapped)}. Download or copy it again."
            )
        (count,) = _COUNT.unpack_from(mapped, offset)
        if count != storage.numel:
            raise InputError(
                f"{path} is damaged: {count} values are written where {storage.numel} were "
                "expected; bytes are missing or too many. Download or copy it again."
            )
        spans[storage.key] = Span(storage.key, offset + _COUNT.size, storage.nbytes)
        offset += _COUNT.size + storage.nbytes
    if offset != len(mapped):
        raise InputError(
            f"{path} is damaged: {len(mapped) - offset} bytes follow its tensors. Download or copy "
            "it again."
        )
    return spans
