"""Which configuration do the tensors of a dialect speak of?

Sizes follow from how many values a tensor holds, whatever its axes: a tensor with the right number
of values in another shape is then the only one that is reported. Where tensors are silent, because
they are missing, the values are DeiT-III's.
"""

import collections
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from regvit_jax.config import MlpKind, ViTConfig
from regvit_jax.convert.dialect import Dialect, Part
from regvit_jax.convert.transforms import Shape

NUM_HEADS = {
    **{192: 3, 256: 4, 320: 5, 384: 6, 512: 8, 640: 10, 768: 12, 832: 13, 896: 14},
    **{1024: 16, 1152: 16, 1280: 16, 1536: 24},
}
"""Attention heads by width, which no tensor tells: 64 channels a head, but for 1152 and 1280."""

_DEFAULT = ViTConfig()
_READ_ELSEWHERE = ("grid", "pooling")
"""What a family fixes and is no field, or one under conditions."""


def infer(
    dialect: Dialect, shapes: Mapping[str, Shape], known: Mapping[str, Any]
) -> dict[str, Any]:
    """Fields of `ViTConfig`; `num_heads` is None where nothing tells it.

    Args:
      dialect: Whose names the tensors have.
      shapes: Of the tensors.
      known: Fields that are known from elsewhere; "grid" for rows and columns of positions.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    first = dialect.block.format(0)
    dim = _width(dialect, sizes, first)
    parts = _parts(dialect, shapes, first)
    num_registers = sizes.get(dialect.reg_tokens or "", 0) // dim
    mlp, mlp_dim = _mlp(dialect, sizes, first, dim)
    num_classes = _num_classes(dialect, sizes, dim) if parts["head"] else 0
    heads = known.get("num_heads") or _num_heads(dialect, shapes, dim)
    fields = {
        "embed_dim": dim,
        "depth": _depth(dialect, shapes) or _DEFAULT.depth,
        "num_heads": heads,
        "num_registers": num_registers,
        "num_classes": num_classes,
        "mlp": mlp,
        "mlp_ratio": _ratio(mlp_dim, dim),
        "head_width": _head_width(dialect, sizes, first, dim, heads),
        "layer_scale": parts["layer_scale"],
        "class_token": parts["cls_token"],
        "pos_embed": parts["pos_embed"],
        "patch_bias": parts["patch_bias"],
        "norm_pre": parts["norm_pre"],
        "qkv_bias": parts["qkv_bias"],
        "qk_norm": parts["qk_norm"],
        "pooled_norm": parts["fc_norm"],
        "pooling": "patches"
        if parts["fc_norm"]
        else dialect.pooling(parts["cls_token"], num_classes),
        "layer_norm_epsilon": dialect.layer_norm_epsilon,
        "pos_resampling": dialect.resampling(num_registers),
        **_patches(dialect, shapes, sizes, dim, known.get("grid")),
        **{name: value for name, value in dialect.fixed.items() if name not in _READ_ELSEWHERE},
    }
    if not num_classes:
        fields.pop("head", None)
    untold = {"grid", "mlp"} if mlp == "swiglu" else {"grid"}
    return fields | {name: value for name, value in known.items() if name not in untold}


def _width(dialect: Dialect, sizes: Mapping[str, int], block: str) -> int:
    """Width of a token: what most of the vectors say."""
    scale, bias = dialect.layer_parts[1], "bias"
    norms = [(dialect.norm, scale), (dialect.norm, bias), (dialect.fc_norm, scale)]
    norms += [(f"{block}.{dialect.norm1}", scale), (f"{block}.{dialect.norm2}", bias)]
    names = [dialect.tensor(name, part) for name, part in norms if name]
    counts = collections.Counter(
        sizes[name] for name in (dialect.cls_token, *names) if name and sizes.get(name)
    )
    return counts.most_common(1)[0][0] if counts else _DEFAULT.embed_dim


def _parts(dialect: Dialect, names: Iterable[str], block: str) -> dict[Part, bool]:
    """Which parts the model has: those of the family, unless they are optional and not there."""
    ends = tuple(f".{name}" for name in dialect.layer_scale or ())
    places: dict[Part, tuple[str, ...]] = {
        "head": (f"{dialect.head}.", dialect.projection or ""),
        "cls_token": (dialect.cls_token or "",),
        "pos_embed": (dialect.pos_embed or "",),
        "patch_bias": (dialect.tensor(dialect.patch_embed, "bias"),),
        "norm_pre": (f"{dialect.norm_pre}.",),
        "fc_norm": (f"{dialect.fc_norm}.",),
    }
    inside: dict[Part, tuple[str, ...]] = {
        "layer_scale": ends,
        "qkv_bias": tuple(f".{name}" for name in _bias_names(dialect)),
        "qk_norm": tuple(f".{name}.{dialect.layer_parts[1]}" for name in dialect.qk_norm or ()),
    }
    found = dict(dialect.has)
    for part in dialect.may_lack:
        if part in inside:
            found[part] &= any(name.endswith(inside[part]) for name in names)
        else:
            starts = tuple(start for start in places[part] if start and start != "None.")
            found[part] &= any(name.startswith(starts) for name in names)
    return found


def _bias_names(dialect: Dialect) -> tuple[str, ...]:
    """Names of the biases of query, key and value, inside a block."""
    if dialect.qkv_bias:
        return tuple(name for name in dialect.qkv_bias if name)
    return tuple(dialect.tensor(name, "bias") for name in dialect.qkv)


def _patches(
    dialect: Dialect,
    shapes: Mapping[str, Shape],
    sizes: Mapping[str, int],
    dim: int,
    grid: tuple[int, int] | None,
) -> dict[str, int | None]:
    """Patch size, channels, and the sides of the images whose positions are there."""
    name = dialect.matrix(dialect.patch_embed)
    channels = _channels(shapes.get(name, ()), dialect.layout)
    patch_size = math.isqrt(sizes.get(name, 0) // dim // channels) or _DEFAULT.patch_size
    positions = sizes.get(dialect.pos_embed or "", 0) // dim - dialect.class_slot
    if dialect.register_slots:
        positions -= sizes.get(dialect.reg_tokens or "", 0) // dim
    # A grid that is no square shows itself as a wrong shape of `pos_embed`.
    side = math.isqrt(max(positions, 0)) or _DEFAULT.grid[0]
    rows, cols = grid or dialect.fixed.get("grid") or (side, side)
    return {
        "patch_size": patch_size,
        "num_channels": channels,
        "image_size": rows * patch_size,
        "image_width": None if rows == cols else cols * patch_size,
    }


def _channels(shape: Shape, layout: str) -> int:
    """Channels of the images; 3 where the patch convolution's shape is none."""
    if len(shape) != 4:
        return 3
    *sides, channels = (*shape[2:], shape[1]) if layout == "torch" else shape[:3]
    return channels if sides[0] == sides[1] else 3


def _depth(dialect: Dialect, names: Iterable[str]) -> int:
    """Number of blocks that any tensor names."""
    pattern = re.compile(re.escape(dialect.block).replace(r"\{\}", r"(\d+)") + r"\.")
    return len({match[1] for match in map(pattern.match, names) if match})


def _num_heads(dialect: Dialect, shapes: Mapping[str, Shape], dim: int) -> int | None:
    block = dialect.block.format(0)
    if dialect.layout == "flax":
        return shapes.get(f"{block}.{dialect.qkv[0]}.bias", (0,))[0] or None
    if dialect.qk_norm:  # as wide as a head
        width = math.prod(shapes.get(f"{block}.{dialect.qk_norm[0]}.weight", ()))
        if width > 1 and dim % width == 0:
            return dim // width
    return dialect.heads.get(dim) or NUM_HEADS.get(dim)


def _head_width(
    dialect: Dialect, sizes: Mapping[str, int], block: str, dim: int, heads: int | None
) -> int | None:
    """Where attention is wider or narrower than a token: channels of a head."""
    inner = sizes.get(f"{block}.{dialect.matrix(dialect.proj)}", 0) // dim
    both = sum(sizes.get(f"{block}.{dialect.matrix(name)}", 0) for name in dialect.qkv)
    is_usual = inner in (0, dim) or both != 3 * inner * dim
    return None if is_usual or not heads or inner % heads else inner // heads


def _num_classes(dialect: Dialect, sizes: Mapping[str, int], dim: int) -> int:
    if dialect.projection:
        return sizes.get(dialect.projection, 0) // dim
    if dialect.fixed.get("head") == "projection":
        return sizes.get(dialect.matrix(dialect.head or ""), 0) // dim
    silent = 0 if "head" in dialect.may_lack else _DEFAULT.num_classes
    return sizes.get(f"{dialect.head}.bias", silent)


def _mlp(dialect: Dialect, sizes: Mapping[str, int], block: str, dim: int) -> tuple[MlpKind, int]:
    """Kind and hidden width: a gated MLP has twice as many units as its second layer reads."""
    for *firsts, fc2 in filter(None, (dialect.gated_layers, dialect.mlp_layers)):
        units = sum(sizes.get(f"{block}.{fc1}.bias", 0) for fc1 in firsts)
        mlp_dim = sizes.get(f"{block}.{dialect.matrix(fc2)}", 0) // dim
        if dialect.gated_layers and mlp_dim and units == 2 * mlp_dim:
            return "swiglu", mlp_dim
        if len(firsts) == 1 and (units or mlp_dim):
            return dialect.non_linearity, units or mlp_dim
    return dialect.non_linearity, 4 * dim


def _ratio(mlp_dim: int, dim: int) -> float:
    """The ratio from which `ViTConfig` finds the same width again."""
    ratio = mlp_dim / dim
    return ratio if int(dim * ratio) == mlp_dim else math.nextafter(ratio, math.inf)
