"""How are parameters read that Flax serialised with msgpack, as deit3-jax does?

The file is one tree of named values. An array in it is an extension that holds, again in msgpack,
its shape, the name of its type and its bytes; arrays above 1 GiB are written in pieces. Arrays are
mapped, not copied; everything has a length that must fit, so that shifted bytes do not load.

Reference: the format's description in msgpack/msgpack; `flax/serialization.py` of google/flax.
"""

import math
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from regvit_jax.convert.machine import unread
from regvit_jax.convert.stored import Stored, mapped_view, numpy_dtype
from regvit_jax.convert.torch_types import ITEM_SIZES
from regvit_jax.errors import InputError

MAX_VALUES = 300_000
"""Values and names of a tree; 1,000 tensors and their optimiser need 20,000."""
MAX_DEPTH = 32
"""Trees inside trees."""
MAX_TEXT = 2**16
"""Bytes of a text; of a longer one, only its length is read."""

_ARRAY, _COMPLEX, _SCALAR = 1, 2, 3
"""Flax's extensions."""
_IN_PIECES = "__msgpack_chunked_array__"
_FIXED_NUMBERS = {
    **{0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q"},
    **{0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"},
}
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_LENGTHS = {
    **{0xC4: ("bytes", ">B"), 0xC5: ("bytes", ">H"), 0xC6: ("bytes", ">I")},
    **{0xD9: ("text", ">B"), 0xDA: ("text", ">H"), 0xDB: ("text", ">I")},
    **{0xC7: ("extension", ">B"), 0xC8: ("extension", ">H"), 0xC9: ("extension", ">I")},
    **{0xDC: ("list", ">H"), 0xDD: ("list", ">I"), 0xDE: ("tree", ">H"), 0xDF: ("tree", ">I")},
}
"""What a first byte announces, and how its length is written."""


class _Damage(Exception):
    """Why bytes are no such file."""


class _Run(NamedTuple):
    """Bytes that are left where they are."""

    start: int
    size: int


def is_flax(head: bytes) -> bool:
    """Whether a file that starts with these bytes is a tree in msgpack."""
    return head[:1] in (b"\xde", b"\xdf") or b"\x81" <= head[:1] <= b"\x8f"


def read(path: Path) -> dict[str, Any]:
    """The tree of a msgpack file, with a `Stored` for each array; lists are trees of "0", "1", ...

    Raises:
      InputError: If the file is damaged, cut short, or made to exhaust the memory.
    """
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    reader = _Reader(mapped)
    try:
        tree = reader.value(0)
        if type(tree) is not dict:
            raise _Damage("it holds no tree")
        if reader.place != len(mapped):
            raise _Damage(f"{len(mapped) - reader.place} bytes follow its tree")
    except _Damage as error:
        raise InputError(
            f"{path} is damaged: it is no Flax msgpack file ({error}; read up to byte "
            f"{reader.place} of {len(mapped)}). Download or copy it again."
        ) from None
    return tree


class _Reader:
    """Reads one value after the other, and never beyond the end."""

    def __init__(self, mapped: mmap.mmap) -> None:
        self._mapped = mapped
        self._end = len(mapped)
        self.place = 0
        self._left = MAX_VALUES

    def value(self, depth: int) -> Any:
        """The value that starts here; bytes as a `_Run`."""
        self._left -= 1
        if self._left < 0:
            raise _Damage(f"more than {MAX_VALUES} values")
        first = self._take(1)[0]
        if first < 0x80 or first >= 0xE0:
            return first if first < 0x80 else first - 256
        if first in _CONSTANTS:
            return _CONSTANTS[first]
        if first in _FIXED_NUMBERS:
            return self._number(_FIXED_NUMBERS[first])
        kind, size = self._announced(first)
        if kind == "bytes":
            return self._skip(size)
        if kind == "text":
            return self._text(size)
        if kind == "extension":
            return self._extension(size)
        if depth >= MAX_DEPTH:
            raise _Damage(f"trees inside trees, more than {MAX_DEPTH}")
        return self._tree(size, depth) if kind == "tree" else self._list(size, depth)

    def _announced(self, first: int) -> tuple[str, int]:
        """What follows a first byte: its kind and its length."""
        if first < 0xC0:
            kind, bits = (
                ("tree", 4) if first < 0x90 else ("list", 4) if first < 0xA0 else ("text", 5)
            )
            return kind, first & (2**bits - 1)
        if 0xD4 <= first <= 0xD8:
            return "extension", 2 ** (first - 0xD4)
        if first not in _LENGTHS:
            raise _Damage("a byte that starts no value")
        kind, length = _LENGTHS[first]
        return kind, self._number(length)

    def _tree(self, size: int, depth: int) -> Any:
        tree: dict[str, Any] = {}
        for _ in range(size):
            name = self.value(depth + 1)
            if type(name) is not str:
                raise _Damage("a name that is no text")
            if name in tree:
                raise _Damage(f"the name {name[:80]!r} twice")
            tree[name] = _plain(self.value(depth + 1))
        return _joined(tree) if _IN_PIECES in tree else tree

    def _list(self, size: int, depth: int) -> Any:
        if size > self._left:
            raise _Damage(f"a list of {size} values")
        values = [_plain(self.value(depth + 1)) for _ in range(size)]
        if any(isinstance(value, dict | Stored) for value in values):
            return {str(index): value for index, value in enumerate(values)}
        return values

    def _text(self, size: int) -> Any:
        if size > MAX_TEXT:
            self._skip(size)
            return unread("long text")
        try:
            return self._take(size).decode()
        except UnicodeDecodeError:
            raise _Damage("a text that is not UTF-8") from None

    def _extension(self, size: int) -> Any:
        (code,) = struct.unpack(">b", self._take(1))
        if code not in (_ARRAY, _SCALAR):
            self._skip(size)
            return unread("complex number" if code == _COMPLEX else "unknown extension")
        self._check(size)
        outer, self._end = self._end, self.place + size
        array = self._array()
        if self.place != self._end:
            raise _Damage("an array that is shorter than its place")
        self._end = outer
        return array

    def _array(self) -> Stored:
        """An array: a list of three, its shape, the name of its type and its bytes."""
        if self._take(1) != b"\x93":
            raise _Damage("an array without shape, type and values")
        shape, name, values = (
            self.value(MAX_DEPTH - 1),
            self.value(MAX_DEPTH),
            self.value(MAX_DEPTH),
        )
        if isinstance(name, _Run):
            name = self._mapped[name.start : name.start + min(name.size, 40)].decode("latin1")
        if not _is_shape(shape) or type(name) is not str or not isinstance(values, _Run):
            raise _Damage("an array without shape, type and values")
        if name not in ITEM_SIZES:
            raise _Damage(f"values of the unknown type {name[:40]!r}")
        if math.prod(shape) * ITEM_SIZES[name] != values.size:
            raise _Damage(f"{values.size} bytes for {name} of shape {tuple(shape)}")
        return self._stored(tuple(shape), name, values.start)

    def _stored(self, shape: tuple[int, ...], name: str, start: int) -> Stored:
        try:
            dtype = numpy_dtype(name)
        except TypeError:  # refused by its name, where a weight is expected
            return Stored(shape, name, lambda: np.zeros(0))
        return Stored(shape, name, lambda: mapped_view(self._mapped, start, shape, dtype))

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _take(self, size: int) -> bytes:
        run = self._skip(size)
        return self._mapped[run.start : run.start + size]

    def _skip(self, size: int) -> _Run:
        self._check(size)
        self.place += size
        return _Run(self.place - size, size)

    def _check(self, size: int) -> None:
        if size > self._end - self.place:
            raise _Damage("cut short" if self._end == len(self._mapped) else "an array cut short")


def _plain(value: Any) -> Any:
    """A value of a tree; bytes are none, though msgpack allows it: they are a shifted array's."""
    if isinstance(value, _Run):
        raise _Damage("bytes that are no array")
    return value


def _is_shape(value: Any) -> bool:
    """Whether a value is a list of few sizes."""
    is_list = type(value) is list and len(value) <= 32
    return is_list and all(type(size) is int and 0 <= size < 2**62 for size in value)


def _joined(tree: Mapping[str, Any]) -> Stored:
    """An array that was written in pieces."""
    shape, pieces = _in_order(tree.get("shape")), _in_order(tree.get("chunks"))
    names = {piece.dtype for piece in pieces if isinstance(piece, Stored)}
    if not _is_shape(shape) or len(names) != 1 or not all(map(_is_piece, pieces)):
        raise _Damage("an array in pieces that do not fit")
    if math.prod(shape) != sum(piece.shape[0] for piece in pieces):
        raise _Damage(f"pieces that do not fill the shape {tuple(shape)}")
    return Stored(
        tuple(shape),
        names.pop(),
        lambda: np.concatenate([piece.read() for piece in pieces]).reshape(shape),
    )


def _is_piece(value: Any) -> bool:
    return isinstance(value, Stored) and len(value.shape) == 1


def _in_order(tree: Any) -> list[Any]:
    """The values of a tree of "0", "1", ...; empty if it is none."""
    is_counted = type(tree) is dict and all(str(i) in tree for i in range(len(tree)))
    return [tree[str(i)] for i in range(len(tree))] if is_counted else []
