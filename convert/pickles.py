"""What does a pickle of torch hold? Tensors, dictionaries, numbers and text, but nothing that runs.

A pickle is a program. It is carried out by `regvit_jax.convert.machine`; what its names mean is
decided by `regvit_jax.convert.meanings`.
"""

import types
from pickle import UnpicklingError
from typing import Any, NamedTuple

from regvit_jax.convert.machine import Machine, Source
from regvit_jax.convert.meanings import Torch
from regvit_jax.convert.torch_types import Storage
from regvit_jax.errors import InputError

DAMAGED = (
    UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What is raised when the bytes are no pickle, or only part of one."""

MAX_DEPTH = 100
"""Containers inside containers."""
MAX_LEAVES = 10**7
"""Values in a file, those in a container that appears twice counted twice."""


class Loaded(NamedTuple):
    """A pickle's object, with a `Tensor` for every tensor, and the storages it speaks of."""

    content: Any
    storages: dict[str, Storage]
    end: int
    """Where the bytes after the pickle start."""


def load(data: Any, label: str, start: int = 0, end: int | None = None) -> Loaded:
    """The object of a pickle.

    Args:
      data: Bytes, or a mapped file.
      label: What to call the file in an error.
      start: Where in the data the pickle starts.
      end: Where it must have ended.

    Raises:
      InputError: If the pickle is damaged, made to exhaust the memory, or names what runs code.
    """
    source = Source(data, start, len(data) if end is None else end)
    meanings = Torch(label)
    try:
        content = Machine(source, meanings).run()
        _check_size(content)
    except InputError:
        raise
    except DAMAGED as error:
        reason = (str(error).splitlines() or [""])[0][:120]
        raise InputError(
            f"{label} is damaged: its pickle cannot be read ({type(error).__name__}: {reason}). "
            "Download or copy it again."
        ) from error
    return Loaded(content, meanings.storages, source.tell())


def _check_size(content: Any) -> None:
    """Raises if a walk through an object's containers would not end soon."""
    leaves: dict[int, int] = {}
    path: set[int] = set()
    stack = [(content, iter(_inside(content)))]
    counts = [0]
    path.add(id(content))
    while stack:
        value, rest = stack[-1]
        inner = next(rest, stack)
        if inner is stack:
            stack.pop()
            path.discard(id(value))
            count = leaves[id(value)] = counts.pop() + 1
            if counts:
                counts[-1] += count
            if count > MAX_LEAVES:
                raise UnpicklingError("a container that repeats itself, made to exhaust the memory")
        elif type(inner) not in _CONTAINERS:
            counts[-1] += 1
        elif id(inner) in leaves:
            counts[-1] += leaves[id(inner)]
        else:
            if id(inner) in path or len(stack) > MAX_DEPTH:
                raise UnpicklingError("containers inside containers without an end")
            path.add(id(inner))
            counts.append(0)
            stack.append((inner, iter(_inside(inner))))


_CONTAINERS = (dict, list, tuple, types.SimpleNamespace)


def _inside(value: Any) -> Any:
    if type(value) is dict:
        return value.values()
    if type(value) in (list, tuple):
        return value
    return vars(value).values() if type(value) is types.SimpleNamespace else ()
