"""What do names and calls in a pickle of torch mean? Nothing that runs.

The few names that weights need have a harmless meaning of our own; those of code that starts
programs or opens files are refused; all others stand for something unread. Tensors come back as a
description of where their values lie in the file.
"""

import math
import re
import types
from collections.abc import Callable, Mapping
from pickle import UnpicklingError
from typing import Any, NamedTuple

import numpy as np

from regvit_jax.convert.machine import Unread, fill, unread
from regvit_jax.convert.torch_types import ITEM_SIZES, STORAGE_TYPES, Storage, Tensor
from regvit_jax.errors import InputError

_NUMPY_NUMBER = re.compile(r"[iu][1248]|f[248]|b1")
_FILES_AND_PROCESSES = re.compile(
    r"(system|popen\d?|exec.*|spawn.*|posix_spawn.*|fork.*|kill.*|remove|unlink|rmdir|rename.*"
    r"|replace|open|putenv|startfile|chmod|chown|link|symlink|truncate|dup2?|write|abort|_exit)\Z"
)
_MODULES_THAT_RUN = (
    *("_pickle", "_posixsubprocess", "asyncio.subprocess", "bdb", "cProfile", "code", "commands"),
    *("ctypes", "imp", "importlib", "marshal", "pdb", "pickle", "pip", "profile", "pty", "runpy"),
    *("shutil", "socket", "subprocess", "sys", "timeit", "trace", "webbrowser"),
)
_RUNS_CODE: Mapping[str, re.Pattern[str]] = {
    **dict.fromkeys(("os", "posix", "nt"), _FILES_AND_PROCESSES),
    **dict.fromkeys(_MODULES_THAT_RUN, re.compile("")),
    **dict.fromkeys(
        ("builtins", "__builtin__", "io", "_io"),
        re.compile(r"(eval|exec|execfile|compile|__import__|open|input|breakpoint|exit|quit)\Z"),
    ),
    "types": re.compile(r"(CodeType|FunctionType|ModuleType)\Z"),
    "torch.hub": re.compile(""),
    "torch": re.compile(r"(load|compile)\Z"),
    "numpy": re.compile(r"(load|fromfile)\Z"),
}
"""Names, by their module, that have no place beside weights: they start programs or open files."""


class _Known(NamedTuple):
    """A name with a meaning of ours; a tuple, so that a pickle cannot change it."""

    function: Callable[..., Any]


class Torch:
    """What names mean in a file of torch."""

    def __init__(self, label: str) -> None:
        self._label = label
        self.storages: dict[str, Storage] = {}
        """Those that tensors have referred to, by key."""
        self._unread: dict[str, Unread] = {}

    def name(self, module: str, name: str) -> Any:
        """What a name stands for: a type of values, a function of ours, or something unread.

        Raises:
          InputError: If it starts programs or opens files.
        """
        if module in ("torch", "torch.storage") and name in STORAGE_TYPES:
            return STORAGE_TYPES[name]
        pattern = _RUNS_CODE.get(module) or _RUNS_CODE.get(module.partition(".")[0])
        if pattern and pattern.match(name):
            raise InputError(
                f"{self._label} asks for {module}.{name[:80]}, which is no part of a checkpoint "
                "and could run code. Nothing was run. If you trust its author, save its "
                "state_dict() alone with torch.save."
            )
        known = _KNOWN.get((module, name))
        kind = _WORDS.get((module, name)) or f"{module}.{name}"
        return self._stand_in(kind) if known is None else known

    def call(self, function: Any, args: tuple[Any, ...], spend: Callable[[int], None]) -> Any:
        """What a call makes; of something unread, nothing else than that."""
        if isinstance(function, Unread):
            return function
        if not isinstance(function, _Known):
            raise UnpicklingError(f"a {type(function).__name__} is called")
        for arg in args:
            if type(arg) in (dict, list, tuple):
                spend(len(arg))
        return function.function(*args)

    def update(self, value: Any, state: Any, spend: Callable[[int], None]) -> None:
        """Gives attributes to an object that has been made."""
        if isinstance(value, types.SimpleNamespace) and type(state) is dict:
            spend(len(state))
            vars(value).update((k, v) for k, v in state.items() if type(k) is str)
        elif isinstance(value, _NumpyType) and type(state) is tuple:
            value.is_native = len(state) > 1 and state[1] in ("<", "|", "=")
        else:
            raise UnpicklingError(f"a {type(value).__name__} is changed")

    def refer(self, pid: Any) -> Any:
        """The storage that a tensor's pickle refers to."""
        if type(pid) is not tuple or len(pid) < 2 or type(pid[0]) is not str:
            raise UnpicklingError("a reference that is no storage")
        if pid[0] == "module" and isinstance(pid[1], Unread):
            return pid[1]
        kind, dtype, key, _, numel, *view = pid
        if kind != "storage" or view not in ([], [None]):
            raise UnpicklingError("an unknown kind of storage")
        if not (_is_count(numel) and type(key) is str and len(key) < 200):
            raise UnpicklingError("a storage without a name or a size")
        if isinstance(dtype, Unread):
            raise InputError(
                f"{self._label} holds values of the unknown type {type(dtype).__name__}. Save the "
                "weights as float32 with torch.save."
            )
        if type(dtype) is not str or dtype not in ITEM_SIZES:
            raise UnpicklingError("a storage without a type")
        storage = Storage(dtype, key, numel)
        if self.storages.setdefault(key, storage).nbytes != storage.nbytes:
            raise UnpicklingError("a storage of two sizes")
        return storage

    def _stand_in(self, kind: str) -> Unread:
        kind = kind[:100] if len(self._unread) < 10_000 else "something"
        if kind not in self._unread:
            self._unread[kind] = unread(kind)
        return self._unread[kind]


def _rebuild_tensor(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    _grad: Any = None,
    _hooks: Any = None,
    pending: Any = None,
) -> Any:
    """A view of a storage, refused if it reaches beyond it.

    What repeats its values, or is still to be negated or conjugated, is not read.
    """
    if isinstance(storage, Unread):
        return storage
    if type(pending) is dict and any(value is not False for value in pending.values()):
        return unread("tensor that is still to be negated or conjugated")
    if type(shape) is not tuple or type(strides) is not tuple or len(shape) > 32:
        raise UnpicklingError("a tensor without a shape or strides")
    if not (isinstance(storage, Storage) and all(map(_is_count, (offset, *shape, *strides)))):
        raise UnpicklingError("a tensor without a storage, a shape or strides")
    if len(shape) != len(strides):
        raise UnpicklingError("a tensor of another number of axes than strides")
    numel = math.prod(shape)
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if numel > storage.numel and last < storage.numel and 0 in strides:
        return unread("expanded tensor, which repeats its values: .contiguous() before saving")
    if numel > storage.numel or (numel and last >= storage.numel):
        raise UnpicklingError(f"a tensor does not fit into {storage.numel} stored values")
    return Tensor(storage, offset, shape, strides)


def _rebuild_any_tensor(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    _grad: Any,
    _hooks: Any,
    dtype: Any,
    pending: Any = None,
) -> Any:
    """A tensor whose storage is bytes; `dtype` is the unread torch.float8_e4m3fn or such."""
    if not isinstance(storage, Storage) or storage.dtype != "bytes":
        raise UnpicklingError("a tensor without a storage of bytes")
    name = type(dtype).__name__.removeprefix("torch.")
    if not isinstance(dtype, Unread) or name not in ITEM_SIZES:
        return dtype if isinstance(dtype, Unread) else unread("tensor of an unknown type")
    typed = Storage(name, storage.key, storage.numel // ITEM_SIZES[name])
    return _rebuild_tensor(typed, offset, shape, strides, pending=pending)


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _rebuild_from_type(function: Any, kind: Any, args: Any, *_: Any) -> Any:
    """A tensor with attributes, which are left away; of a class of its own, it is not read."""
    plain = isinstance(kind, Unread) and type(kind).__name__ in _TENSOR_CLASSES
    if not plain or not isinstance(function, _Known) or type(args) is not tuple:
        return kind if isinstance(kind, Unread) else unread("tensor of an unknown class")
    if function.function not in (_rebuild_tensor, _rebuild_any_tensor, _rebuild_parameter):
        raise UnpicklingError("a tensor that is made by something else")
    return function.function(*args)


_TENSOR_CLASSES = ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")


class _NumpyType:
    """A NumPy number's type, as far as a pickle may describe it."""

    __slots__ = ("code", "is_native")

    def __init__(self, code: str) -> None:
        self.code, self.is_native = code, True


def _numpy_type(code: Any = None, *_: Any) -> Any:
    is_number = type(code) is str and _NUMPY_NUMBER.fullmatch(code)
    return _NumpyType(code) if is_number else unread("numpy.dtype")


def _numpy_scalar(kind: Any = None, value: Any = None, *_: Any) -> Any:
    if isinstance(kind, _NumpyType) and kind.is_native and type(value) is bytes:
        return np.frombuffer(value, np.dtype(kind.code), count=1)[0].item()
    return unread("numpy value")


def _encode(text: Any = None, encoding: Any = None, *_: Any) -> Any:
    """Protocol 2 has no bytes: it writes them as text."""
    if type(text) is not str or encoding != "latin1" or len(text) > 1000:
        return unread("bytes")
    return text.encode("latin1")


def _dictionary(items: Any = (), *_: Any) -> dict[Any, Any]:
    """An ordered dictionary, or one that counts."""
    if type(items) is dict:
        return dict(items)
    if type(items) not in (list, tuple):
        return {}
    if not all(type(item) in (list, tuple) and len(item) == 2 for item in items):
        raise UnpicklingError("a dictionary of something else than pairs")
    made: dict[Any, Any] = {}
    fill(made, [part for item in items for part in item])
    return made


def _size(sizes: Any = (), *_: Any) -> tuple[Any, ...]:
    if type(sizes) not in (list, tuple):
        raise UnpicklingError("a torch.Size of something else than a list")
    return tuple(sizes)


def _namespace(*_: Any) -> types.SimpleNamespace:
    return types.SimpleNamespace()


def _reconstruct(kind: Any = None, *_: Any) -> Any:
    """How protocols before 2 make an object of a class."""
    if isinstance(kind, _Known):
        return kind.function()
    return kind if isinstance(kind, Unread) else unread("object of an unknown class")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


_ARRAY = "NumPy array: torch.from_numpy() before saving"
_WORDS: Mapping[tuple[str, str], str] = {
    ("torch._utils", "_rebuild_qtensor"): "quantised tensor: .dequantize() before saving",
    ("torch._utils", "_rebuild_sparse_tensor"): "sparse tensor: .to_dense() before saving",
    ("torch._utils", "_rebuild_meta_tensor_no_storage"): "meta tensor, which has no values",
    ("torch._utils", "_rebuild_device_tensor_from_numpy"): "tensor of an accelerator: .cpu() "
    "before saving",
    ("numpy.core.multiarray", "_reconstruct"): _ARRAY,
    ("numpy._core.multiarray", "_reconstruct"): _ARRAY,
}
"""What to call values that are not read, and what to do about them."""

_KNOWN: Mapping[tuple[str, str], _Known] = {
    ("collections", "OrderedDict"): _Known(_dictionary),
    ("collections", "Counter"): _Known(_dictionary),
    ("collections", "defaultdict"): _Known(lambda *_: {}),
    ("argparse", "Namespace"): _Known(_namespace),
    ("types", "SimpleNamespace"): _Known(_namespace),
    ("torch", "Size"): _Known(_size),
    ("torch._utils", "_rebuild_tensor"): _Known(_rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _Known(_rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v3"): _Known(_rebuild_any_tensor),
    ("torch._utils", "_rebuild_parameter"): _Known(_rebuild_parameter),
    ("torch._utils", "_rebuild_parameter_with_state"): _Known(_rebuild_parameter),
    ("torch._tensor", "_rebuild_from_type_v2"): _Known(_rebuild_from_type),
    ("numpy", "dtype"): _Known(_numpy_type),
    ("numpy.core.multiarray", "scalar"): _Known(_numpy_scalar),
    ("numpy._core.multiarray", "scalar"): _Known(_numpy_scalar),
    ("_codecs", "encode"): _Known(_encode),
    ("copyreg", "_reconstructor"): _Known(_reconstruct),
    ("copy_reg", "_reconstructor"): _Known(_reconstruct),
}
