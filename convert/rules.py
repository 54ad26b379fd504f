"""How does each of our parameters correspond to the tensors of a dialect? One table, both ways.

A rule reads the same in both directions: its transform holds a function and that function's
inverse, so what was imported exports bit for bit.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from convert.dialects import DIALECTS, Dialect
from regvit_jax.config import ViTConfig

Shape = tuple[int, ...]
Arrays = Sequence[np.ndarray]


class Transform(NamedTuple):
    """A function from their arrays to ours, and its inverse."""

    to_ours: Callable[[Arrays], Arrays]
    to_theirs: Callable[[Arrays], Arrays]


class Rule(NamedTuple):
    """Some of our parameters ("/"-joined names with shapes) and the tensors that hold them."""

    ours: Mapping[str, Shape]
    theirs: tuple[str, ...]
    transform: Transform

    def their_shapes(self) -> dict[str, Shape]:
        """Names and shapes of the tensors, from the parameters' shapes."""
        blanks = [np.broadcast_to(np.float32(0), shape) for shape in self.ours.values()]
        found = self.transform.to_theirs(blanks)
        return {name: array.shape for name, array in zip(self.theirs, found, strict=True)}


def _each(function: Callable[[np.ndarray], np.ndarray]) -> Callable[[Arrays], Arrays]:
    return lambda arrays: [function(array) for array in arrays]


def _fold_class_slot(arrays: Arrays) -> Arrays:
    cls_token, pos_embed = arrays
    return cls_token + pos_embed[:, :1], pos_embed[:, 1:]


def _unfold_class_slot(arrays: Arrays) -> Arrays:
    cls_token, pos_embed = arrays
    # Minus zero is the one number whose addition changes nothing, not even the sign of a zero.
    return cls_token, np.concatenate([np.full_like(cls_token, -0.0), pos_embed], axis=1)


def _join(arrays: Arrays) -> Arrays:
    return [np.concatenate(arrays, axis=-1)]


def _cut_in_three(arrays: Arrays) -> Arrays:
    return np.split(arrays[0], 3, axis=-1)


SAME = Transform(_each(lambda x: x), _each(lambda x: x))
DENSE = Transform(_each(np.transpose), _each(np.transpose))
"""(out, in) to (in, out)."""
CONV = Transform(_each(lambda x: x.transpose(2, 3, 1, 0)), _each(lambda x: x.transpose(3, 2, 0, 1)))
"""(out, in, height, width) to (height, width, in, out)."""
CLASS_SLOT = Transform(_fold_class_slot, _unfold_class_slot)
"""CLS and positions that include it, to CLS and positions of the patches."""
JOIN = Transform(_join, _cut_in_three)
"""Three vectors to one."""
JOIN_DENSE = Transform(
    lambda arrays: _join(DENSE.to_ours(arrays)),
    lambda arrays: DENSE.to_theirs(_cut_in_three(arrays)),
)
"""Three dense layers to one."""


def rules(dialect: Dialect, config: ViTConfig) -> Iterator[Rule]:
    """The complete table of a model in a dialect."""
    d, dim = dialect, config.embed_dim
    token, grid = (1, 1, dim), (1, config.grid[0] * config.grid[1], dim)
    if d.class_slot:
        yield Rule({"cls_token": token, "pos_embed": grid}, (d.cls_token, d.pos_embed), CLASS_SLOT)
    else:
        yield _same("cls_token", token, d.cls_token)
        yield _same("pos_embed", grid, d.pos_embed)
    if config.num_registers and d.reg_tokens:
        yield _same("reg_tokens", (1, config.num_registers, dim), d.reg_tokens)
    patch = config.patch_size
    kernel = {"patch_embed/kernel": (patch, patch, 3, dim)}
    yield Rule(kernel, (f"{d.patch_embed}.weight",), CONV)
    yield _same("patch_embed/bias", (dim,), f"{d.patch_embed}.bias")
    for i in range(config.depth):
        yield from _block(dialect, config, f"blocks_{i}", d.block.format(i))
    yield from _norm("norm", dim, d.norm)
    if d.head:
        yield from _dense("head", (dim, config.num_classes), d.head)


def our_shapes(config: ViTConfig) -> dict[str, Shape]:
    """Names and shapes of a model's parameters, without building it."""
    shapes: dict[str, Shape] = {}
    for rule in rules(DIALECTS["timm"], config):
        shapes |= rule.ours
    return shapes


def _block(d: Dialect, config: ViTConfig, ours: str, theirs: str) -> Iterator[Rule]:
    dim, mlp_dim = config.embed_dim, config.mlp_dim
    yield from _norm(f"{ours}/norm1", dim, f"{theirs}.{d.norm1}")
    yield from _dense(f"{ours}/attn/qkv", (dim, 3 * dim), *(f"{theirs}.{name}" for name in d.qkv))
    yield from _dense(f"{ours}/attn/proj", (dim, dim), f"{theirs}.{d.proj}")
    yield from _norm(f"{ours}/norm2", dim, f"{theirs}.{d.norm2}")
    yield from _dense(f"{ours}/mlp/fc1", (dim, mlp_dim), f"{theirs}.{d.fc1}")
    yield from _dense(f"{ours}/mlp/fc2", (mlp_dim, dim), f"{theirs}.{d.fc2}")
    for name, their_name in zip(("ls1", "ls2"), d.layer_scale or (), strict=bool(d.layer_scale)):
        yield _same(f"{ours}/{name}", (dim,), f"{theirs}.{their_name}")


def _same(ours: str, shape: Shape, theirs: str) -> Rule:
    return Rule({ours: shape}, (theirs,), SAME)


def _norm(ours: str, dim: int, theirs: str) -> Iterator[Rule]:
    yield _same(f"{ours}/scale", (dim,), f"{theirs}.weight")
    yield _same(f"{ours}/bias", (dim,), f"{theirs}.bias")


def _dense(ours: str, shape: Shape, *theirs: str) -> Iterator[Rule]:
    """A dense layer that they keep in one piece, or in several."""
    weight, bias = (DENSE, SAME) if len(theirs) == 1 else (JOIN_DENSE, JOIN)
    yield Rule({f"{ours}/kernel": shape}, tuple(f"{name}.weight" for name in theirs), weight)
    yield Rule({f"{ours}/bias": shape[1:]}, tuple(f"{name}.bias" for name in theirs), bias)
