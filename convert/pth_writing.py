"""How is a PyTorch file written without PyTorch? As a zip archive with a pickle of our own.

The pickle is put together by hand, because Python's pickler refuses to name classes that it cannot
import. `torch.load(weights_only=True)` and `torch.load(mmap=True)` read the result.
"""

import struct
import zipfile
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np

# Values start at multiples of this many bytes, as in torch's own files.
_ALIGNMENT = 64
_HEADER_SIZE = 30
_PADDING = struct.Struct("<2sH")

_PROTO_2, _STOP = b"\x80\x02", b"."
_MARK, _TUPLE, _EMPTY_TUPLE = b"(", b"t", b")"
_EMPTY_DICT, _SETITEMS = b"}", b"u"
_REDUCE, _PERSISTENT_ID, _FALSE = b"R", b"Q", b"\x89"


def write(file: BinaryIO, tensors: Mapping[str, np.ndarray], wrapper: str | None = None) -> None:
    """Writes what `torch.save` would of named float32 tensors.

    Args:
      file: Where to write, from its start.
      tensors: In the order to write them.
      wrapper: Put the tensors into a dictionary under this name.
    """
    with zipfile.ZipFile(file, "w") as archive:
        _add(file, archive, "data.pkl", _pickle(tensors, wrapper))
        _add(file, archive, "byteorder", b"little")
        for key, tensor in enumerate(tensors.values()):
            values = np.ascontiguousarray(tensor, "<f4")
            _add(file, archive, f"data/{key}", values.reshape(-1).view(np.uint8).data)
        _add(file, archive, "version", b"3\n")


def _add(file: BinaryIO, archive: zipfile.ZipFile, name: str, data: bytes | memoryview) -> None:
    """Adds an entry, uncompressed and aligned by an extra field that readers skip."""
    entry = zipfile.ZipInfo(f"archive/{name}")
    start = file.tell() + _HEADER_SIZE + len(entry.filename) + _PADDING.size
    padding = -start % _ALIGNMENT
    entry.extra = _PADDING.pack(b"FB", padding) + b"Z" * padding
    archive.writestr(entry, data)


def _pickle(tensors: Mapping[str, np.ndarray], wrapper: str | None) -> bytes:
    items = (
        _text(name) + _tensor(str(key), tensor.shape)
        for key, (name, tensor) in enumerate(tensors.items())
    )
    state = _ordered_dict() + _MARK + b"".join(items) + _SETITEMS
    if wrapper is not None:
        state = _EMPTY_DICT + _MARK + _text(wrapper) + state + _SETITEMS
    return _PROTO_2 + state + _STOP


def _tensor(key: str, shape: tuple[int, ...]) -> bytes:
    strides = [int(np.prod(shape[axis + 1 :])) for axis in range(len(shape))]
    numel = int(np.prod(shape))
    storage = _tuple(
        _text("storage"), _global("torch", "FloatStorage"), _text(key), _text("cpu"), _int(numel)
    )
    arguments = _tuple(
        storage + _PERSISTENT_ID,
        _int(0),
        _tuple(*map(_int, shape)),
        _tuple(*map(_int, strides)),
        _FALSE,  # requires_grad
        _ordered_dict(),  # hooks
    )
    return _global("torch._utils", "_rebuild_tensor_v2") + arguments + _REDUCE


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _ordered_dict() -> bytes:
    return _global("collections", "OrderedDict") + _EMPTY_TUPLE + _REDUCE


def _tuple(*items: bytes) -> bytes:
    return _MARK + b"".join(items) + _TUPLE


def _text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _int(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)
