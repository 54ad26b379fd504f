"""How is a PyTorch file read without PyTorch? Both of its formats, mapped into memory.

Since torch 1.6 the file is a zip archive: `data.pkl` describes the objects, `data/KEY` holds the
values of a storage, uncompressed. Before, it was a row of pickles followed by the storages.
"""

import io
import mmap
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from regvit_jax.convert import pickles
from regvit_jax.convert.stored import Stored, mapped_view, numpy_dtype
from regvit_jax.errors import InputError

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""A pickle of torch's own magic number, 0x1950a86a20f9469cfc6c."""

# In the old format, a storage starts with its number of values.
_COUNT_SIZE = 8

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_BROKEN_ZIP = (
    zipfile.BadZipFile,
    EOFError,
    LookupError,
    NotImplementedError,
    OverflowError,
    ValueError,
    struct.error,
)


class Span(NamedTuple):
    """Where an entry's bytes lie in the file; `crc` is 0 where the writer left it out."""

    name: str
    offset: int
    size: int
    crc: int = 0


class PthFile:
    """The objects of a PyTorch file, and the values of their tensors on demand."""

    def __init__(
        self, path: Path, mapped: mmap.mmap, content: Any, storages: Mapping[str, Span]
    ) -> None:
        self.path = path
        self.content = content
        """The saved object, with a `pickles.Tensor` for every tensor."""
        is_zip = mapped[:4] == ZIP_MAGIC
        self.format = "PyTorch file" if is_zip else "PyTorch file (written before torch 1.6)"
        self._mapped, self._storages = mapped, storages
        self._checked: set[str] = set()

    def stored(self, tensor: pickles.Tensor) -> Stored:
        """A tensor of `content`, still unread."""
        return Stored(tensor.shape, tensor.storage.dtype, lambda: self._array(tensor))

    def _array(self, tensor: pickles.Tensor) -> np.ndarray:
        """A view of the file, whose checksum is compared when a storage is first read."""
        dtype, key = numpy_dtype(tensor.storage.dtype), tensor.storage.key
        span = self._storages[key]
        if key not in self._checked:
            _check_crc(self.path, self._mapped, span)
            self._checked.add(key)
        offset = span.offset + tensor.offset * dtype.itemsize
        return mapped_view(self._mapped, offset, tensor.shape, dtype, tensor.strides)


def read(path: Path) -> PthFile:
    """The objects of a PyTorch file, whichever of the two formats it has.

    Raises:
      InputError: If the file is damaged, cut short, compressed, or asks to run code.
    """
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        reader = _read_zip if mapped[:4] == ZIP_MAGIC else _read_legacy
        return PthFile(path, mapped, *reader(path, file, mapped))


def _read_zip(
    path: Path, file: io.BufferedReader, mapped: mmap.mmap
) -> tuple[Any, dict[str, Span]]:
    spans = _entries(path, file, mapped)
    root = next((name[: -len("data.pkl")] for name in spans if name.endswith("/data.pkl")), None)
    if root is None or root + "constants.pkl" in spans:
        kind = "a zip archive" if root is None else "a TorchScript program"
        raise InputError(
            f"{path} is {kind}, not a checkpoint. Expected the file that "
            "torch.save(model.state_dict()) writes."
        )
    order = spans.get(root + "byteorder")
    if order is not None and _bytes(path, mapped, order) != b"little":
        raise InputError(f"{path} was written on a big-endian machine; save it on another one.")
    pickle = io.BytesIO(_bytes(path, mapped, spans[root + "data.pkl"]))
    content, storages = pickles.load(pickle, str(path))
    found = {key: spans.get(f"{root}data/{key}") for key in storages}
    for key, storage in storages.items():
        span, size = found[key], storage.numel * numpy_dtype(storage.dtype).itemsize
        if span is None or span.size < size:
            raise InputError(
                f"{path} is damaged: storage {key!r} should hold {size} bytes, found "
                f"{span.size if span else 'none'}. Download or copy it again."
            )
    return content, {key: span for key, span in found.items() if span}


def _entries(path: Path, file: io.BufferedReader, mapped: mmap.mmap) -> dict[str, Span]:
    """The archive's entries by name; all of them must be stored as they are."""
    try:
        with zipfile.ZipFile(file) as archive:
            return {info.filename: _span(info, mapped) for info in archive.infolist()}
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except _BROKEN_ZIP as error:
        raise InputError(
            f"{path} is cut short or damaged: it starts as a PyTorch file, but its table of "
            f"contents, at the end, cannot be read ({error}). Download or copy it again."
        ) from error


def _span(info: zipfile.ZipInfo, mapped: mmap.mmap) -> Span:
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise InputError(
            f"the entry {info.filename} is compressed ({info.compress_size} bytes that claim to be "
            f"{info.file_size}). torch.save never compresses: the file may be made to exhaust the "
            "memory. If you trust it, load and save it again with torch."
        )
    signature, name_size, extra_size = _LOCAL_HEADER.unpack_from(mapped, info.header_offset)
    offset = info.header_offset + _LOCAL_HEADER.size + name_size + extra_size
    if signature != ZIP_MAGIC or offset + info.file_size > len(mapped):
        raise zipfile.BadZipFile(f"entry {info.filename} lies outside the file")
    return Span(info.filename, offset, info.file_size, info.CRC)


def _read_legacy(
    path: Path, file: io.BufferedReader, mapped: mmap.mmap
) -> tuple[Any, dict[str, Span]]:
    file.seek(len(LEGACY_MAGIC))
    label = str(path)
    protocol = pickles.load(file, label).content
    if protocol != 1001:
        raise InputError(f"{path} is a PyTorch file of unknown version {protocol!r}, not 1001.")
    pickles.load(file, label)  # the writing machine's byte order and sizes of C types
    content, storages = pickles.load(file, label)
    keys, spans, offset = pickles.load(file, label).content, {}, file.tell()
    if not isinstance(keys, list) or set(keys) != storages.keys():
        raise InputError(f"{path} is damaged: its list of storages does not match its tensors.")
    for key in keys:
        size = storages[key].numel * numpy_dtype(storages[key].dtype).itemsize
        spans[key] = Span(key, offset + _COUNT_SIZE, size)
        offset = spans[key].offset + size
    if offset > len(mapped):
        raise InputError(
            f"{path} is cut short: its tensors need {offset} bytes, it has {len(mapped)}. Download "
            "or copy it again."
        )
    return content, spans


def _bytes(path: Path, mapped: mmap.mmap, span: Span) -> bytes:
    _check_crc(path, mapped, span)
    return mapped[span.offset : span.offset + span.size]


def _check_crc(path: Path, mapped: mmap.mmap, span: Span) -> None:
    with memoryview(mapped)[span.offset : span.offset + span.size] as view:
        if span.crc and zlib.crc32(view) != span.crc:
            raise InputError(
                f"{path} is damaged: the checksum of {span.name} does not match. Download or copy "
                "it again."
            )
