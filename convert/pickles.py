"""What may a pickle hold? Tensors, dictionaries, numbers and text, but nothing that runs.

A pickle is a program. This reader knows the few names that a checkpoint needs, gives each of them
a harmless meaning of its own, and refuses all others by name. Tensors come back as a description
of where their values lie in the file; nobody has read them yet.
"""

import collections
import io
import math
import pickle
import pickletools
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from regvit_jax.errors import InputError

STORAGE_TYPES: Mapping[str, str] = {
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "DoubleStorage": "float64",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
"""torch's storage classes, by the NumPy type of their values."""

DAMAGED = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    TypeError,
    ValueError,
)
"""What Python's unpickler raises when the bytes are no pickle, or only part of one."""

# A pickle numbers the objects that it refers back to. The unpickler's table grows to the largest
# number it meets, so a number beyond this would let a small file ask for gigabytes.
_MEMO_LIMIT = 10_000_000
_MEMO_OPERATIONS = ("PUT", "BINPUT", "LONG_BINPUT")


class Storage(NamedTuple):
    """A run of values somewhere in the file."""

    dtype: str
    key: str
    numel: int


class Tensor(NamedTuple):
    """A view of a storage; checked to lie inside it. Offset and strides count values."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Loaded(NamedTuple):
    """A pickle's object, with a `Tensor` for every tensor, and the storages it speaks of."""

    content: Any
    storages: dict[str, Storage]


def load(file: io.BufferedReader | io.BytesIO, label: str) -> Loaded:
    """The next pickle of a file.

    Args:
      file: Stands at the pickle's first byte; afterwards at the byte behind it.
      label: What to call the file in an error.

    Raises:
      InputError: If the pickle is damaged, or asks for anything but what a checkpoint needs.
    """
    start = file.tell()
    try:
        _check_memo(file, label)
        file.seek(start)
        unpickler = _Unpickler(file, label)
        return Loaded(unpickler.load(), unpickler.storages)
    except InputError:
        raise
    except DAMAGED as error:
        reason = (str(error).splitlines() or [""])[0][:120]
        raise InputError(
            f"{label} is damaged: its pickle cannot be read ({type(error).__name__}: {reason}). "
            "Download or copy it again."
        ) from error


class _Call(NamedTuple):
    """Something that a pickle may call; a tuple, so that a pickle cannot change it."""

    function: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)


class _Unpickler(pickle.Unpickler):
    """Python's unpickler, without its access to Python."""

    def __init__(self, file: io.BufferedReader | io.BytesIO, label: str) -> None:
        super().__init__(file, encoding="utf-8")
        self._label = label
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in STORAGE_TYPES:
            return STORAGE_TYPES[name]
        if (module, name) not in _ALLOWED:
            raise InputError(
                f"{self._label} asks for {module}.{name}, which is no part of a checkpoint and "
                "could run code. Nothing was run. If you trust its author, save its state_dict() "
                "alone with torch.save."
            )
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Storage:
        kind, dtype, key, _, numel, *view = pid
        if kind != "storage" or dtype not in STORAGE_TYPES.values() or view not in ([], [None]):
            raise pickle.UnpicklingError(f"unknown kind of storage {dtype!r}")
        if not (_is_count(numel) and isinstance(key, str)):
            raise pickle.UnpicklingError(f"storage {key!r} of {numel!r} values")
        return self.storages.setdefault(key, Storage(dtype, key, numel))


def _check_memo(file: io.BufferedReader | io.BytesIO, label: str) -> None:
    for operation, argument, _ in pickletools.genops(file):
        if operation.name in _MEMO_OPERATIONS and (argument or 0) > _MEMO_LIMIT:
            raise InputError(
                f"{label} is damaged, or made to exhaust the memory: its pickle numbers an object "
                f"{argument}. Download it again from a source that you trust."
            )


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    """A view of a storage, refused if it reaches beyond the storage or repeats its values."""
    sizes = (offset, *shape, *strides)
    if not (isinstance(storage, Storage) and all(map(_is_count, sizes))):
        raise pickle.UnpicklingError("a tensor without a storage, a shape or strides")
    if len(shape) != len(strides) or len(shape) > 32:
        raise pickle.UnpicklingError(f"a tensor of shape {shape} with strides {strides}")
    numel = math.prod(shape)
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if numel > storage.numel or (numel and last >= storage.numel):
        raise pickle.UnpicklingError(
            f"a tensor of shape {tuple(shape)} does not fit into {storage.numel} stored values"
        )
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
    return tensor


class _NumpyType:
    """A NumPy number's type, as far as a pickle may describe it."""

    __slots__ = ("code",)

    def __init__(self, code: str, *_: Any) -> None:
        if np.dtype(code).kind not in "fiub":
            raise pickle.UnpicklingError(f"a NumPy value of type {code!r}")
        self.code = code

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", "|", "="):
            raise pickle.UnpicklingError(f"a NumPy value of byte order {state[1]!r}")


def _numpy_scalar(kind: Any, value: bytes) -> Any:
    return np.frombuffer(value, np.dtype(kind.code), count=1)[0].item()


def _encode(text: str, encoding: str) -> bytes:
    """Protocol 2 has no bytes: it writes them as text."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes as {encoding!r}")
    return text.encode("latin1")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


_ALLOWED: Mapping[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    # A bag of attributes written in C: nothing in it can be called or replaced.
    ("argparse", "Namespace"): types.SimpleNamespace,
    ("torch", "Size"): _Call(tuple),
    ("torch._utils", "_rebuild_tensor"): _Call(_rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _Call(_rebuild_tensor),
    ("torch._utils", "_rebuild_parameter"): _Call(_rebuild_parameter),
    ("numpy", "dtype"): _Call(_NumpyType),
    ("numpy.core.multiarray", "scalar"): _Call(_numpy_scalar),
    ("numpy._core.multiarray", "scalar"): _Call(_numpy_scalar),
    ("_codecs", "encode"): _Call(_encode),
}
