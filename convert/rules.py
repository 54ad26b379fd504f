"""How does each of our parameters correspond to the tensors of a dialect? One table, both ways.

A rule reads the same in both directions (`regvit_jax.convert.transforms`), so what was imported
exports bit for bit.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from regvit_jax.config import ViTConfig
from regvit_jax.convert import transforms
from regvit_jax.convert.dialect import Dialect
from regvit_jax.convert.dialects import DIALECTS
from regvit_jax.convert.transforms import (
    CONV,
    DENSE,
    JOIN2,
    JOIN3,
    SAME,
    Shape,
    Transform,
    chain,
    reshape,
)


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


class Layout(NamedTuple):
    """How a program stores each kind of tensor."""

    dense: Transform
    conv: Transform
    qkv: Transform
    qkv_bias: Transform
    proj: Transform


def rules(dialect: Dialect, config: ViTConfig) -> Iterator[Rule]:
    """The complete table of a model in a dialect."""
    layout = _layout(dialect, config)
    yield from _first(dialect, config, layout)
    block = list(_block(dialect, config, layout))
    for i in range(config.depth):
        prefix = f"{dialect.block.format(i)}."
        yield from (rule.inside(f"blocks_{i}/", prefix) for rule in block)
    yield from _last(dialect, config, layout)


def their_shapes(dialect: Dialect, config: ViTConfig) -> dict[str, Shape]:
    """Names and shapes of all tensors of a model in a dialect."""
    layout = _layout(dialect, config)
    shapes = _shapes(_first(dialect, config, layout))
    block = _shapes(_block(dialect, config, layout))
    for i in range(config.depth):
        prefix = dialect.block.format(i)
        shapes |= {f"{prefix}.{name}": shape for name, shape in block.items()}
    return shapes | _shapes(_last(dialect, config, layout))


def _shapes(table: Iterator[Rule]) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    for rule in table:
        shapes |= rule.their_shapes()
    return shapes


def _first(d: Dialect, config: ViTConfig, layout: Layout) -> Iterator[Rule]:
    """The rules of what comes before the blocks."""
    dim = config.embed_dim
    yield from _tokens(d, config)
    size = (config.patch_size, config.patch_size, config.num_channels, dim)
    yield Rule({"patch_embed/kernel": size}, (d.matrix(d.patch_embed),), layout.conv)
    if config.patch_bias:
        yield Rule({"patch_embed/bias": (dim,)}, (d.tensor(d.patch_embed, "bias"),), SAME)
    if config.norm_pre and d.norm_pre:
        yield from _norm(d, config, "norm_pre", dim, d.norm_pre)


def _last(d: Dialect, config: ViTConfig, layout: Layout) -> Iterator[Rule]:
    """The rules of what comes after them."""
    dim = config.embed_dim
    if config.pooled_norm:
        yield from _norm(d, config, "fc_norm", dim, d.fc_norm or d.norm)
    else:
        yield from _norm(d, config, "norm", dim, d.norm)
    yield from _head(d, config, layout)


def our_shapes(config: ViTConfig) -> dict[str, Shape]:
    """Names and shapes of a model's parameters, without building it."""
    shapes: dict[str, Shape] = {}
    for rule in rules(_ANY, config):
        shapes |= rule.ours
    return shapes


_ANY = dataclasses.replace(DIALECTS["timm"], norm_pre="norm_pre")
"""Has a name for every part."""


def _tokens(d: Dialect, config: ViTConfig) -> Iterator[Rule]:
    """CLS, registers and positions, which some families keep in one another."""
    dim, (rows, cols), registers = config.embed_dim, config.grid, config.num_registers
    ours: dict[str, Shape] = {}
    theirs: dict[str, Shape] = {}
    if config.class_token and d.cls_token:
        ours["cls_token"] = (1, 1, dim)
        theirs[d.cls_token] = (dim,) if d.flat_tokens else (1, 1, dim)
    if registers and d.reg_tokens:
        ours["reg_tokens"] = theirs[d.reg_tokens] = (1, registers, dim)
    if config.pos_embed and d.pos_embed:
        ours["pos_embed"] = (1, rows * cols, dim)
        slots = [
            name
            for name, has_slot in (
                ("cls_token", d.class_slot),
                ("reg_tokens", d.register_slots),
            )
            if has_slot and name in ours
        ]
        count = rows * cols + sum(ours[name][1] for name in slots)
        batch = () if d.flat_tokens else (1,)
        theirs[d.pos_embed] = (rows, cols, dim) if d.has_grid else (*batch, count, dim)
    else:
        slots = []
    if not ours:
        return
    shaped = transforms.reshape_each(list(theirs.values()), _as_ours(ours, slots))
    folded = transforms.fold([name in slots for name in ours], [s[1] for s in ours.values()])
    yield Rule(ours, tuple(theirs), chain(shaped, folded) if slots else shaped)


def _as_ours(ours: Mapping[str, Shape], slots: list[str]) -> list[Shape]:
    """Shapes before the positions' slots are folded away."""
    extra = sum(ours[name][1] for name in slots)
    return [
        (1, shape[1] + (extra if name == "pos_embed" else 0), shape[2])
        for name, shape in ours.items()
    ]


def _block(d: Dialect, config: ViTConfig, layout: Layout) -> Iterator[Rule]:
    """The rules of one block, with names inside the block."""
    dim, inner = config.embed_dim, config.num_heads * config.head_dim
    yield from _norm(d, config, "norm1", dim, d.norm1)
    matrices = tuple(map(d.matrix, d.qkv))
    yield Rule({"attn/qkv/kernel": (dim, 3 * inner)}, matrices, layout.qkv)
    if config.qkv_bias and d.qkv_bias is not None:
        yield _qkv_bias(d, inner, layout)
    if config.qk_norm and d.qk_norm:
        for ours, theirs in zip(("q_norm", "k_norm"), d.qk_norm, strict=True):
            yield from _norm(d, config, f"attn/{ours}", config.head_dim, theirs)
    yield from _dense(d, "attn/proj", (inner, dim), d.proj, layout.proj)
    yield from _norm(d, config, "norm2", dim, d.norm2)
    yield from _mlp(d, config, layout)
    if config.layer_scale and d.layer_scale:
        for ours, theirs in zip(("ls1", "ls2"), d.layer_scale, strict=True):
            yield Rule({ours: (dim,)}, (theirs,), SAME)


def _qkv_bias(d: Dialect, inner: int, layout: Layout) -> Rule:
    ours = {"attn/qkv/bias": (3 * inner,)}
    if d.qkv_bias:  # names of their own
        names = tuple(name for name in d.qkv_bias if name)
        return Rule(ours, names, transforms.WITHOUT_KEY if len(names) == 2 else JOIN3)
    names = tuple(d.tensor(name, "bias") for name in d.qkv)
    if d.key_mask:
        return Rule(ours, (*names, d.key_mask), transforms.MASKED_KEY)
    return Rule(ours, names, layout.qkv_bias)


def _mlp(d: Dialect, config: ViTConfig, layout: Layout) -> Iterator[Rule]:
    dim, units = config.embed_dim, config.mlp_dim
    if config.mlp != "swiglu":
        fc1, fc2 = d.mlp_layers
        yield from _dense(d, "mlp/fc1", (dim, units), fc1, layout.dense)
        yield from _dense(d, "mlp/fc2", (units, dim), fc2, layout.dense)
        return
    *gates, fc2 = d.gated_layers or d.mlp_layers
    join = len(gates) > 1
    kernel = chain(layout.dense, JOIN2) if join else layout.dense
    yield Rule({"mlp/fc1/kernel": (dim, 2 * units)}, tuple(map(d.matrix, gates)), kernel)
    biases = tuple(d.tensor(name, "bias") for name in gates)
    yield Rule({"mlp/fc1/bias": (2 * units,)}, biases, JOIN2 if join else SAME)
    yield from _dense(d, "mlp/fc2", (units, dim), fc2, layout.dense)


def _head(d: Dialect, config: ViTConfig, layout: Layout) -> Iterator[Rule]:
    shape = (config.num_pooled, config.num_classes)
    if not config.num_classes:
        return
    if d.projection:
        yield Rule({"head/kernel": shape}, (d.projection,), SAME)
    elif d.head and config.head == "projection":
        yield Rule({"head/kernel": shape}, (d.matrix(d.head),), layout.dense)
    elif d.head:
        yield from _dense(d, "head", shape, d.head, layout.dense)


def _norm(d: Dialect, config: ViTConfig, ours: str, dim: int, theirs: str) -> Iterator[Rule]:
    yield Rule({f"{ours}/scale": (dim,)}, (d.tensor(theirs, d.layer_parts[1]),), SAME)
    if config.norm == "layer":
        yield Rule({f"{ours}/bias": (dim,)}, (d.tensor(theirs, "bias"),), SAME)


def _dense(d: Dialect, ours: str, shape: Shape, theirs: str, kernel: Transform) -> Iterator[Rule]:
    """A dense layer with its bias."""
    yield Rule({f"{ours}/kernel": shape}, (d.matrix(theirs),), kernel)
    yield Rule({f"{ours}/bias": shape[1:]}, (d.tensor(theirs, "bias"),), SAME)


def _layout(dialect: Dialect, config: ViTConfig) -> Layout:
    if dialect.layout == "flax":
        return _flax_layout(config)
    split = len(dialect.qkv) == 3
    qkv, qkv_bias = (chain(DENSE, JOIN3), JOIN3) if split else (DENSE, SAME)
    return Layout(DENSE, CONV, qkv, qkv_bias, DENSE)


def _flax_layout(config: ViTConfig) -> Layout:
    """That of Flax modules with an axis of heads."""
    dim, heads, width = config.embed_dim, config.num_heads, config.head_dim
    inner = heads * width
    return Layout(
        dense=SAME,
        conv=SAME,
        qkv=chain(reshape((dim, heads, width), (dim, inner)), JOIN3),
        qkv_bias=chain(reshape((heads, width), (inner,)), JOIN3),
        proj=reshape((heads, width, dim), (inner, dim)),
    )
