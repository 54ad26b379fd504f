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
_COUNT = struct.Struct("<q")

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_UTF8 = 0x800
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
        dtype, key = self._dtype(tensor.storage.dtype), tensor.storage.key
        span = self._storages[key]
        if key not in self._checked:
            _check_crc(self.path, self._mapped, span)
            self._checked.add(key)
        offset = span.offset + tensor.offset * dtype.itemsize
        return mapped_view(self._mapped, offset, tensor.shape, dtype, tensor.strides)

    def _dtype(self, name: str) -> np.dtype:
        try:
            return numpy_dtype(name)
        except TypeError:
            raise InputError(f"{self.path} holds values of type {name}, not of float32.") from None


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
    root = next(name[: -len("data.pkl")] for name in spans if name.endswith("/data.pkl"))
    order = spans.get(root + "byteorder")
    if order is not None and _bytes(path, mapped, order) != b"little":
        raise InputError(f"{path} was written on a big-endian machine; save it on another one.")
    entry = spans[root + "data.pkl"]
    _check_crc(path, mapped, entry)
    end = entry.offset + entry.size
    content, storages, stop = pickles.load(mapped, str(path), entry.offset, end)
    if stop != end:
        raise InputError(f"{path} is damaged: bytes follow its pickle. Download or copy it again.")
    found = {key: spans.get(f"{root}data/{key}") for key in storages}
    for key, storage in storages.items():
        span = found[key]
        if span is None or span.size != storage.nbytes:
            raise InputError(
                f"{path} is damaged: storage {key!r} should hold {storage.nbytes} bytes, found "
                f"{span.size if span else 'none'}. Download or copy it again."
            )
    return content, {key: span for key, span in found.items() if span}


def _entries(path: Path, file: io.BufferedReader, mapped: mmap.mmap) -> dict[str, Span]:
    """The archive's entries by name; all of them must be stored as they are."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            if len(entries) != len({info.filename for info in entries}):
                raise zipfile.BadZipFile("two entries have the same name")
            if kind := _other_archive([info.filename for info in entries]):
                raise InputError(f"is {kind}.")
            return {info.filename: _span(info, mapped) for info in entries}
    except InputError as error:
        raise InputError(f"{path} {error}") from None
    except _BROKEN_ZIP as error:
        raise InputError(
            f"{path} is cut short or damaged: it starts as a PyTorch file, but its table of "
            f"contents, at the end, cannot be read ({error}). Download or copy it again."
        ) from error


def _other_archive(names: list[str]) -> str:
    """What kind of zip archive has these entries, and what to do with it; empty for torch's."""
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        return (
            "a TorchScript program, not a checkpoint. Where torch is installed, save its weights: "
            "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')"
        )
    if any(name.endswith("/data.pkl") for name in names):
        return ""
    if any(name.endswith(".weights.h5") for name in names):
        return "a zip archive of Keras, not a checkpoint of a known kind"
    if names and all(name.endswith(".npy") for name in names):
        return (
            "a zip archive of NumPy arrays (.npz), not a checkpoint. Expected the file that "
            "torch.save(model.state_dict()) writes"
        )
    inside = next((n for n in names if n.endswith((".pth", ".pt", ".bin", ".safetensors"))), None)
    return "a zip archive, not a checkpoint. " + (
        f"Unpack it first: it holds {inside[:200]}"
        if inside
        else "Expected the file that torch.save(model.state_dict()) writes"
    )


def _span(info: zipfile.ZipInfo, mapped: mmap.mmap) -> Span:
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise InputError(
            f"has a compressed entry, {info.filename[:200]} ({info.compress_size} bytes that claim "
            f"to be {info.file_size}). torch.save never compresses: it may be made to exhaust "
            "the memory. If you trust it, load and save it again with torch."
        )
    signature, name_size, extra_size = _LOCAL_HEADER.unpack_from(mapped, info.header_offset)
    name_offset = info.header_offset + _LOCAL_HEADER.size
    offset = name_offset + name_size + extra_size
    if signature != ZIP_MAGIC or offset + info.file_size > len(mapped):
        raise zipfile.BadZipFile(f"entry {info.filename[:200]!r} lies outside the file")
    if mapped[name_offset : name_offset + name_size] != info.orig_filename.encode(
        "utf-8" if info.flag_bits & _UTF8 else "cp437"
    ):
        raise zipfile.BadZipFile(f"entry {info.filename[:200]!r} has another name at its place")
    return Span(info.filename, offset, info.file_size, info.CRC)


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
    path: Path, mapped: mmap.mmap, storages: list[pickles.Storage], offset: int
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
