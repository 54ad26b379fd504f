"""How do arrays of other programs become ours, and ours theirs? Functions with their inverses."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from regvit_jax.errors import InputError

Shape = tuple[int, ...]
Arrays = Sequence[np.ndarray]


class Transform(NamedTuple):
    """A function from their arrays to ours, and its inverse."""

    to_ours: Callable[[Arrays], Arrays]
    to_theirs: Callable[[Arrays], Arrays]


def chain(first: Transform, second: Transform) -> Transform:
    """The transform that applies `first` to their arrays, then `second`."""
    return Transform(
        lambda arrays: second.to_ours(first.to_ours(arrays)),
        lambda arrays: first.to_theirs(second.to_theirs(arrays)),
    )


def reshape(theirs: Shape, ours: Shape) -> Transform:
    """Axes split by them and merged by us, or the other way round."""
    return Transform(_each(lambda x: x.reshape(ours)), _each(lambda x: x.reshape(theirs)))


def reshape_each(theirs: Sequence[Shape], ours: Sequence[Shape]) -> Transform:
    """The same, of several arrays with shapes of their own."""

    def into(shapes: Sequence[Shape]) -> Callable[[Arrays], Arrays]:
        return lambda arrays: [x.reshape(s) for x, s in zip(arrays, shapes, strict=True)]

    return Transform(into(ours), into(theirs))


def fold(has_slot: Sequence[bool], counts: Sequence[int]) -> Transform:
    """Tokens and positions that start with entries for some of them, to tokens that include these.

    Args:
      has_slot: Of each array, whether the positions have entries for it; positions are the last.
      counts: Tokens of each array.
    """

    def to_ours(arrays: Arrays) -> Arrays:
        *tokens, positions = arrays
        folded, start = [], 0
        for array, slot, count in zip(tokens, has_slot, counts, strict=False):
            entries = positions[:, start : start + count]
            folded.append(array + entries if slot else array)
            start += count if slot else 0
        return [*folded, positions[:, start:]]

    def to_theirs(arrays: Arrays) -> Arrays:
        *tokens, positions = arrays
        # Minus zero is the one number whose addition changes nothing, not even the sign of a zero.
        blanks = [
            np.full_like(array, -0.0) for array, slot in zip(tokens, has_slot, strict=False) if slot
        ]
        return [*tokens, np.concatenate([*blanks, positions], axis=1)]

    return Transform(to_ours, to_theirs)


def _each(function: Callable[[np.ndarray], np.ndarray]) -> Callable[[Arrays], Arrays]:
    return lambda arrays: [function(array) for array in arrays]


def _join(arrays: Arrays) -> Arrays:
    return [np.concatenate(arrays, axis=-1)]


def _cut(count: int) -> Callable[[Arrays], Arrays]:
    return lambda arrays: np.split(arrays[0], count, axis=-1)


def _with_zero_key(arrays: Arrays) -> Arrays:
    query, value = arrays
    return [np.concatenate([query, np.zeros_like(query), value])]


def _without_key(arrays: Arrays) -> Arrays:
    query, key, value = np.split(arrays[0], 3)
    _check_no_key(key)
    return [query, value]


def _masked(arrays: Arrays) -> Arrays:
    bias, mask = arrays
    if not np.isin(mask, (0, 1)).all():
        raise InputError(
            "A mask of the biases of query, key and value (bias_mask) holds other numbers than 0 "
            "and 1: the file was saved before its weights were loaded. Save it again."
        )
    return [np.where(mask == 0, np.zeros_like(bias), bias)]


def _with_mask(arrays: Arrays) -> Arrays:
    query, key, _ = np.split(arrays[0], 3)
    _check_no_key(key)
    ones = np.ones_like(query)
    return [arrays[0], np.concatenate([ones, np.zeros_like(key), ones])]


def _check_no_key(key: np.ndarray) -> None:
    if np.any(key):
        raise InputError(
            "The model has biases of keys that are not zero; this family has no place for them."
        )


SAME = Transform(_each(lambda x: x), _each(lambda x: x))
DENSE = Transform(_each(np.transpose), _each(np.transpose))
"""(out, in) to (in, out)."""
CONV = Transform(_each(lambda x: x.transpose(2, 3, 1, 0)), _each(lambda x: x.transpose(3, 2, 0, 1)))
"""(out, in, height, width) to (height, width, in, out)."""
JOIN3 = Transform(_join, _cut(3))
"""Three vectors, or kernels (in, out), to one."""
JOIN2 = Transform(_join, _cut(2))
"""Two of them."""
WITHOUT_KEY = Transform(_with_zero_key, _without_key)
"""Biases of query and value, to one with zeros for keys between them."""
MASKED_KEY = Transform(_masked, _with_mask)
"""A bias and its mask of zeros and ones, to their product."""
