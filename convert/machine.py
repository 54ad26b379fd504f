"""What does a pickle describe? Its instructions carried out here, without Python's unpickler.

Python's unpickler imports, calls, hashes and recurses as the file tells it. This machine builds
dictionaries, lists, tuples, numbers and text; what names and calls mean is decided by `Meanings`.
Each instruction costs a fixed amount of time and memory, and there is a limit on all of them.
"""

import functools
import pickletools
from collections.abc import Callable
from pickle import UnpicklingError
from typing import Any, Protocol, runtime_checkable

MAX_STEPS = 3_000_000
"""Instructions and copied elements; 1,000 tensors and their optimiser need 200,000."""
MAX_VALUE = 2**20
"""Bytes of a text; longer ones (arrays beside the weights) are not read."""
MAX_TEXT = 2**28
"""Bytes of all texts."""
MAX_NUMBER = 128
"""Bytes of an integer."""

_LENGTHS = {
    "SHORT_BINSTRING": 1,
    "BINSTRING": 4,
    "SHORT_BINBYTES": 1,
    "BINBYTES": 4,
    "BINBYTES8": 8,
    "BYTEARRAY8": 8,
    "SHORT_BINUNICODE": 1,
    "BINUNICODE": 4,
    "BINUNICODE8": 8,
    "LONG1": 1,
    "LONG4": 4,
}
"""How many bytes say how long an instruction's value is."""
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_NUMBERS = ("INT", "LONG", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT")


class Unread:
    """Something that is not read: everything that a pickle does with it leaves it as it is.

    Every kind is a class of its own, whose name says what the file calls it.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


@runtime_checkable
class Meanings(Protocol):
    """What a pickle's names, calls and references to storages stand for."""

    def name(self, module: str, name: str) -> Any: ...
    def call(self, function: Any, args: tuple[Any, ...], spend: Callable[[int], None]) -> Any: ...
    def update(self, value: Any, state: Any, spend: Callable[[int], None]) -> None: ...
    def refer(self, pid: Any) -> Any: ...


def unread(kind: str) -> Unread:
    """A stand-in for a value of some kind."""
    return _kind(kind[:100])()


@functools.lru_cache(maxsize=20_000)
def _kind(name: str) -> type[Unread]:
    return type(ascii(name)[1:-1], (Unread,), {"__slots__": ()})


class Source:
    """Part of a file; never gives more than there is."""

    def __init__(self, data: Any, start: int, end: int) -> None:
        self._data, self._place, self._end = data, start, end

    def read(self, size: int) -> bytes:
        start = self._place
        self.skip(size)
        return bytes(self._data[start : self._place])

    def readline(self) -> bytes:
        last = min(self._end, self._place + MAX_VALUE)
        end = self._data.find(b"\n", self._place, last)
        if end < 0:
            raise UnpicklingError("a line without an end")
        return self.read(end + 1 - self._place)

    def skip(self, size: int) -> None:
        if not 0 <= size <= self._end - self._place:
            raise EOFError("cut short")
        self._place += size

    def tell(self) -> int:
        return self._place


class Machine:
    """Carries out one pickle."""

    def __init__(self, source: Source, meanings: Meanings) -> None:
        self._source, self._meanings = source, meanings
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._steps, self._text = MAX_STEPS, MAX_TEXT
        self._long, self._odd_name = unread("long data"), unread("huge number")

    def run(self) -> Any:
        """The described object.

        Raises:
          UnpicklingError, or what Python raises on bytes that make no sense.
        """
        read, operations = self._source.read, _OPERATIONS
        while True:
            self._spend(1)
            operation, argument = operations[read(1)]
            if operation == "STOP":
                return self._pop()
            value = argument(self._source) if argument else None
            if operation in _LENGTHS:
                self._stack.append(self._value(operation))
            elif operation in _CONSTANTS:
                self._stack.append(_CONSTANTS[operation])
            elif operation in _NUMBERS:
                self._stack.append(value)
            else:
                _METHODS[operation](self, value)

    def _spend(self, steps: int) -> None:
        self._steps -= steps
        if self._steps < 0:
            raise UnpicklingError(f"more than {MAX_STEPS} instructions, made to exhaust the memory")

    def _pop(self) -> Any:
        return self._stack.pop()

    def _pop_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marked.pop()
        return items

    def _value(self, operation: str) -> Any:
        size = int.from_bytes(self._source.read(_LENGTHS[operation]), "little")
        limit = MAX_NUMBER if operation.startswith("LONG") else min(MAX_VALUE, self._text)
        if size > limit:
            self._source.skip(size)
            return self._odd_name if operation.startswith("LONG") else self._long
        data = self._source.read(size)
        if operation.startswith("LONG"):
            return int.from_bytes(data, "little", signed=True)
        self._text -= size
        return data if "BYTE" in operation else _decoded(data)

    def _unicode(self, value: str) -> None:
        self._stack.append(value)

    def _string(self, _: Any) -> None:
        """Text in quotes, of the oldest protocol; what escapes mean in it is not read."""
        line = self._source.readline()[:-1]
        if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
            raise UnpicklingError("a text without quotes")
        self._stack.append(self._long if b"\\" in line else _decoded(line[1:-1]))

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is list:
            target.extend(items)
        elif not isinstance(target, Unread):
            raise UnpicklingError(f"elements of a {type(target).__name__}")

    def _set(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is dict:
            fill(target, items)
        elif not isinstance(target, Unread):
            raise UnpicklingError(f"entries of a {type(target).__name__}")

    def _append(self, _: Any) -> None:
        self._extend([self._pop()])

    def _appends(self, _: Any) -> None:
        self._extend(self._pop_mark())

    def _setitem(self, _: Any) -> None:
        value, key = self._pop(), self._pop()
        self._set([key, value])

    def _setitems(self, _: Any) -> None:
        self._set(self._pop_mark())

    def _additems(self, _: Any) -> None:
        self._pop_mark()

    def _list(self, _: Any) -> None:
        items = self._pop_mark()  # also changes the stack
        self._stack.append(items)

    def _tuple(self, _: Any) -> None:
        items = self._pop_mark()
        self._stack.append(tuple(items))

    def _dict(self, _: Any) -> None:
        items = self._pop_mark()
        self._stack.append({})
        self._set(items)

    def _frozenset(self, _: Any) -> None:
        self._pop_mark()
        self._stack.append(unread("frozenset"))

    def _short_tuple(self, size: int) -> None:
        if len(self._stack) < size:
            raise UnpicklingError("a tuple of nothing")
        self._stack[-size:] = [tuple(self._stack[-size:])]

    def _mark(self, _: Any) -> None:
        self._marked.append(self._stack)
        self._stack = []

    def _pop_one(self, _: Any) -> None:
        if self._stack:
            self._pop()
        else:
            self._pop_mark()

    def _dup(self, _: Any) -> None:
        self._stack.append(self._stack[-1])

    def _put(self, number: int) -> None:
        self._memo[number] = self._stack[-1]

    def _memoize(self, _: Any) -> None:
        self._put(len(self._memo))

    def _get(self, number: int) -> None:
        self._stack.append(self._memo[number])

    def _name(self, module: Any, name: Any) -> Any:
        if type(module) is not str or type(name) is not str:
            raise UnpicklingError("a name that is no text")
        return self._meanings.name(module, name)

    def _written_name(self) -> Any:
        """A name on two lines, its module first."""
        module, name = (self._source.readline()[:-1].decode() for _ in range(2))
        return self._name(module, name)

    def _global(self, _: Any) -> None:
        self._stack.append(self._written_name())

    def _stack_global(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        self._stack.append(self._name(module, name))

    def _call(self, function: Any, args: Any) -> None:
        if type(args) is not tuple:
            raise UnpicklingError("a call without arguments")
        self._stack.append(self._meanings.call(function, args, self._spend))

    def _reduce(self, _: Any) -> None:
        args, function = self._pop(), self._pop()
        self._call(function, args)

    def _newobj_ex(self, _: Any) -> None:
        _, args, function = self._pop(), self._pop(), self._pop()
        self._call(function, args)

    def _inst(self, _: Any) -> None:
        args = tuple(self._pop_mark())
        self._call(self._written_name(), args)

    def _obj(self, _: Any) -> None:
        function, *args = self._pop_mark()
        self._call(function, tuple(args))

    def _build(self, _: Any) -> None:
        state = self._pop()
        if not isinstance(self._stack[-1], Unread | dict):
            self._meanings.update(self._stack[-1], state, self._spend)

    def _persid(self, value: Any) -> None:
        self._stack.append(self._meanings.refer(value))

    def _binpersid(self, _: Any) -> None:
        self._persid(self._pop())

    def _extension(self, _: Any) -> None:
        self._stack.append(unread("registered extension"))

    def _frame(self, _: Any) -> None:
        pass

    def _empty_list(self, _: Any) -> None:
        self._stack.append([])

    def _empty_dict(self, _: Any) -> None:
        self._stack.append({})

    def _empty_set(self, _: Any) -> None:
        self._stack.append(unread("set"))


def fill(target: dict[Any, Any], items: list[Any]) -> None:
    """Puts keys and values, in turn, into a dictionary.

    Python's hash of a key may recurse for ever, or crash: only texts and small integers are keys;
    in place of another one stands something that equals nothing else.
    """
    if len(items) % 2:
        raise UnpicklingError("a key without a value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        is_plain = type(key) is str or (type(key) in (int, bool) and abs(key) < 2**60)
        target[key if is_plain else unread(f"key that is a {type(key).__name__}")] = value


def _decoded(data: bytes) -> str:
    """Text; what no terminal can show (file names that are not UTF-8) becomes question marks."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("utf-8", "surrogatepass").encode("utf-8", "replace").decode()


_OWN_READERS = (*_LENGTHS, "STRING", "GLOBAL", "INST")

_METHODS: dict[str, Callable[[Machine, Any], None]] = {
    "STRING": Machine._string,
    "UNICODE": Machine._unicode,
    "APPEND": Machine._append,
    "APPENDS": Machine._appends,
    "SETITEM": Machine._setitem,
    "SETITEMS": Machine._setitems,
    "ADDITEMS": Machine._additems,
    "LIST": Machine._list,
    "EMPTY_LIST": Machine._empty_list,
    "TUPLE": Machine._tuple,
    "TUPLE1": lambda machine, _: machine._short_tuple(1),
    "TUPLE2": lambda machine, _: machine._short_tuple(2),
    "TUPLE3": lambda machine, _: machine._short_tuple(3),
    "DICT": Machine._dict,
    "EMPTY_DICT": Machine._empty_dict,
    "EMPTY_SET": Machine._empty_set,
    "FROZENSET": Machine._frozenset,
    "MARK": Machine._mark,
    "POP": Machine._pop_one,
    "POP_MARK": Machine._additems,
    "DUP": Machine._dup,
    "PUT": Machine._put,
    "BINPUT": Machine._put,
    "LONG_BINPUT": Machine._put,
    "MEMOIZE": Machine._memoize,
    "GET": Machine._get,
    "BINGET": Machine._get,
    "LONG_BINGET": Machine._get,
    "GLOBAL": Machine._global,
    "STACK_GLOBAL": Machine._stack_global,
    "REDUCE": Machine._reduce,
    "NEWOBJ": Machine._reduce,
    "NEWOBJ_EX": Machine._newobj_ex,
    "INST": Machine._inst,
    "OBJ": Machine._obj,
    "BUILD": Machine._build,
    "PERSID": Machine._persid,
    "BINPERSID": Machine._binpersid,
    "EXT1": Machine._extension,
    "EXT2": Machine._extension,
    "EXT4": Machine._extension,
    "PROTO": Machine._frame,
    "FRAME": Machine._frame,
}


def _operations() -> dict[bytes, tuple[str, Callable[[Any], Any] | None]]:
    """Every instruction's name, and what reads its argument where that has a bounded length."""
    return {
        operation.code.encode("latin1"): (
            operation.name,
            operation.arg.reader if operation.arg and operation.name not in _OWN_READERS else None,
        )
        for operation in pickletools.opcodes
    }


_OPERATIONS = _operations()
