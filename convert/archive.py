"""What does torch's zip archive hold, and where? Entries stored as they are, or deflated.

torch.save stores; programs that pack an archive anew deflate, which torch.load reads too.
"""

import io
import mmap
import struct
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from regvit_jax.errors import InputError
from regvit_jax.unpacking import exhausts_memory

ZIP_MAGIC = b"PK\x03\x04"

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_ENCRYPTED, _UTF8 = 0x1, 0x800
_BROKEN_ZIP = (
    zipfile.BadZipFile,
    EOFError,
    LookupError,
    OverflowError,
    RuntimeError,  # of zipfile, for a version of the format that it does not know
    ValueError,
    struct.error,
)


class Span(NamedTuple):
    """Where an entry's bytes lie in the file; `crc` is 0 where the writer left it out."""

    name: str
    offset: int
    size: int
    crc: int = 0
    packed_size: int | None = None
    """Bytes in the file where they are deflated."""


def entries(path: Path, file: io.BufferedReader, mapped: mmap.mmap) -> dict[str, Span]:
    """Where the archive's entries lie, by name.

    Raises:
      InputError: If it is damaged, no archive of torch's, or unpacks to far more than it is.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            found = archive.infolist()
            if len(found) != len({info.filename for info in found}):
                raise zipfile.BadZipFile("two entries have the same name")
            if kind := _other_archive([info.filename for info in found]):
                raise InputError(f"is {kind}.")
            _check_growth(found, len(mapped))
            return {info.filename: _span(info, mapped) for info in found}
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
    if any(
        name.endswith(("/archive_format", "/serialized_exported_program.json")) for name in names
    ):
        return (
            "a program of torch.export, not a checkpoint. Where torch is installed, save its "
            "weights: torch.save(torch.export.load(FILE).state_dict, 'weights.pth')"
        )
    if any(f"/{name}".endswith("/data.pkl") for name in names):
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
    if info.flag_bits & _ENCRYPTED:
        raise InputError("is encrypted. Unpack it with its password, and zip it again without one.")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(
            f"is packed by method {info.compress_type}, which torch does not read either. Unpack "
            "it, and zip the folder again without compression: zip -0 -r FILE FOLDER."
        )
    is_packed = info.compress_type == zipfile.ZIP_DEFLATED
    if not is_packed and info.compress_size != info.file_size:
        raise zipfile.BadZipFile(f"entry {info.filename[:200]!r} has two sizes")
    signature, name_size, extra_size = _LOCAL_HEADER.unpack_from(mapped, info.header_offset)
    name_offset = info.header_offset + _LOCAL_HEADER.size
    offset = name_offset + name_size + extra_size
    if signature != ZIP_MAGIC or offset + info.compress_size > len(mapped):
        raise zipfile.BadZipFile(f"entry {info.filename[:200]!r} lies outside the file")
    if mapped[name_offset : name_offset + name_size] != info.orig_filename.encode(
        "utf-8" if info.flag_bits & _UTF8 else "cp437"
    ):
        raise zipfile.BadZipFile(f"entry {info.filename[:200]!r} has another name at its place")
    packed_size = info.compress_size if is_packed else None
    return Span(info.filename, offset, info.file_size, info.CRC, packed_size)


def _check_growth(found: list[zipfile.ZipInfo], size: int) -> None:
    """Raises if a small archive would unpack to much."""
    unpacked = sum(info.file_size for info in found)
    if exhausts_memory(unpacked, size):
        raise InputError(
            f"unpacks from {size} to {unpacked} bytes: it may be made to exhaust the memory. If "
            "you trust it, load and save it again with torch, which never compresses."
        )


def root(path: Path, names: Iterable[str]) -> str:
    """The folder of the archive that holds the objects, with its slash."""
    ends = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(ends) > 1:
        raise InputError(f"{path} holds more than one checkpoint: {', '.join(ends[:3])[:300]}.")
    return ends[0].removesuffix("data.pkl")


def content(path: Path, mapped: mmap.mmap, span: Span) -> bytes:
    """What an entry holds, compared with its checksum."""
    if span.packed_size is not None:
        return unpacked(path, mapped, span)
    check_crc(path, mapped, span)
    return mapped[span.offset : span.offset + span.size]


def unpacked(path: Path, mapped: mmap.mmap, span: Span) -> bytes:
    """What a deflated entry holds; never more than it says."""
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        with memoryview(mapped)[span.offset : span.offset + (span.packed_size or 0)] as packed:
            data = inflate.decompress(packed, span.size + 1)
    except zlib.error as error:
        raise InputError(
            f"{path} is damaged: {span.name} cannot be unpacked ({error}). Download or copy it "
            "again."
        ) from error
    if len(data) != span.size or not inflate.eof or inflate.unused_data:
        raise InputError(
            f"{path} is damaged: {span.name} does not unpack to {span.size} bytes. Download or "
            "copy it again."
        )
    _compare_crc(path, data, span)
    return data


def check_crc(path: Path, mapped: mmap.mmap, span: Span) -> None:
    """Raises if an entry that is stored as it is does not fit its checksum."""
    with memoryview(mapped)[span.offset : span.offset + span.size] as stored:
        _compare_crc(path, stored, span)


def _compare_crc(path: Path, data: bytes | memoryview, span: Span) -> None:
    if span.crc and zlib.crc32(data) != span.crc:
        raise InputError(
            f"{path} is damaged: the checksum of {span.name} does not match. Download or copy it "
            "again."
        )
