"""How does each of our parameters correspond to the tensors of a dialect? One table, both ways.

A rule reads the same in both directions: its transform holds a function and that function's
inverse, so what was imported exports bit for bit.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from regvit_jax.config import ViTConfig
from regvit_jax.convert.dialects import DIALECTS, Dialect

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

    def inside(self, ours: str, theirs: str) -> "Rule":
        """The same rule, with prefixes before all names."""
        return Rule(
            {ours + name: shape for name, shape in self.ours.items()},
            tuple(theirs + name for name in self.theirs),
            self.transform,
        )


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
"""Three vectors, or kernels (in, out), to one."""


def chain(first: Transform, second: Transform) -> Transform:
    """The transform that applies `first` to their arrays, then `second`."""
    return Transform(
        lambda arrays: second.to_ours(first.to_ours(arrays)),
        lambda arrays: first.to_theirs(second.to_theirs(arrays)),
    )


def reshape(theirs: Shape, ours: Shape) -> Transform:
    """Axes split by them and merged by us, or the other way round."""
    return Transform(_each(lambda x: x.reshape(ours)), _each(lambda x: x.reshape(theirs)))


class Layout(NamedTuple):
    """How a program stores each kind of tensor."""

    dense: Transform
    conv: Transform
    qkv: Transform
    qkv_bias: Transform
    proj: Transform
    positions: Transform


def _layout(dialect: Dialect, config: ViTConfig) -> Layout:
    if dialect.layout == "flax":
        return _flax_layout(config)
    split = len(dialect.qkv) == 3
    qkv, qkv_bias = (chain(DENSE, JOIN), JOIN) if split else (DENSE, SAME)
    return Layout(DENSE, CONV, qkv, qkv_bias, DENSE, SAME)


def _flax_layout(config: ViTConfig) -> Layout:
    """That of Flax modules with an axis of heads; positions are a grid."""
    dim, heads, width = config.embed_dim, config.num_heads, config.head_dim
    rows, cols = config.grid
    return Layout(
        dense=SAME,
        conv=SAME,
        qkv=chain(reshape((dim, heads, width), (dim, dim)), JOIN),
        qkv_bias=chain(reshape((heads, width), (dim,)), JOIN),
        proj=reshape((heads, width, dim), (dim, dim)),
        positions=reshape((rows, cols, dim), (1, rows * cols, dim)),
    )


def rules(dialect: Dialect, config: ViTConfig) -> Iterator[Rule]:
    """The complete table of a model in a dialect."""
    d, dim, layout = dialect, config.embed_dim, _layout(dialect, config)
    token, grid = (1, 1, dim), (1, config.grid[0] * config.grid[1], dim)
    if d.class_slot:
        yield Rule({"cls_token": token, "pos_embed": grid}, (d.cls_token, d.pos_embed), CLASS_SLOT)
    else:
        yield Rule({"cls_token": token}, (d.cls_token,), SAME)
        yield Rule({"pos_embed": grid}, (d.pos_embed,), layout.positions)
    if config.num_registers and d.reg_tokens:
        yield Rule({"reg_tokens": (1, config.num_registers, dim)}, (d.reg_tokens,), SAME)
    kernel = {"patch_embed/kernel": (config.patch_size, config.patch_size, 3, dim)}
    yield Rule(kernel, (f"{d.patch_embed}.{d.layer_parts[0]}",), layout.conv)
    yield Rule({"patch_embed/bias": (dim,)}, (f"{d.patch_embed}.bias",), SAME)
    block = list(_block(dialect, config, layout))
    for i in range(config.depth):
        yield from (rule.inside(f"blocks_{i}/", f"{d.block.format(i)}.") for rule in block)
    yield from _norm(d, "norm", dim, d.norm)
    if config.num_classes and d.head:
        yield from _dense(d, "head", (dim, config.num_classes), (d.head,), layout.dense)


def our_shapes(config: ViTConfig) -> dict[str, Shape]:
    """Names and shapes of a model's parameters, without building it."""
    shapes: dict[str, Shape] = {}
    for rule in rules(DIALECTS["timm"], config):
        shapes |= rule.ours
    return shapes


def _block(d: Dialect, config: ViTConfig, layout: Layout) -> Iterator[Rule]:
    """The rules of one block, with names inside the block."""
    dim, units, (fc1, fc2) = config.embed_dim, config.mlp_dim, d.mlp_layers
    if config.mlp == "swiglu":
        units, (fc1, fc2) = 2 * config.mlp_dim, d.gated_layers or d.mlp_layers
    yield from _norm(d, "norm1", dim, d.norm1)
    yield from _dense(d, "attn/qkv", (dim, 3 * dim), d.qkv, layout.qkv, layout.qkv_bias)
    yield from _dense(d, "attn/proj", (dim, dim), (d.proj,), layout.proj)
    yield from _norm(d, "norm2", dim, d.norm2)
    yield from _dense(d, "mlp/fc1", (dim, units), (fc1,), layout.dense)
    yield from _dense(d, "mlp/fc2", (config.mlp_dim, dim), (fc2,), layout.dense)
    if config.layer_scale and d.layer_scale:
        for ours, theirs in zip(("ls1", "ls2"), d.layer_scale, strict=True):
            yield Rule({ours: (dim,)}, (theirs,), SAME)


def _norm(d: Dialect, ours: str, dim: int, theirs: str) -> Iterator[Rule]:
    yield Rule({f"{ours}/scale": (dim,)}, (f"{theirs}.{d.layer_parts[1]}",), SAME)
    yield Rule({f"{ours}/bias": (dim,)}, (f"{theirs}.bias",), SAME)


def _dense(
    d: Dialect,
    ours: str,
    shape: Shape,
    theirs: tuple[str, ...],
    kernel: Transform,
    bias: Transform = SAME,
) -> Iterator[Rule]:
    """A dense layer that they keep in one piece, or in several."""
    names = tuple(f"{name}.{d.layer_parts[0]}" for name in theirs)
    yield Rule({f"{ours}/kernel": shape}, names, kernel)
    yield Rule({f"{ours}/bias": shape[1:]}, tuple(f"{name}.bias" for name in theirs), bias)
