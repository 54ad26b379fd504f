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
from regvit_jax.convert.dialects import Dialect
from regvit_jax.convert.rules import Shape

NUM_HEADS = {192: 3, 384: 6, 512: 8, 768: 12, 1024: 16, 1280: 16, 1536: 24}
"""Attention heads by width, which no tensor tells: 64 channels a head, 80 for the huge variant."""

_DEFAULT = ViTConfig()


def infer(
    dialect: Dialect, shapes: Mapping[str, Shape], known: Mapping[str, Any]
) -> dict[str, Any]:
    """Fields of `ViTConfig`; `num_heads` is None where nothing tells it.

    Args:
      dialect: Whose names the tensors have.
      shapes: Of the tensors.
      known: Fields that are known from elsewhere.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    first, (kernel, scale) = dialect.block.format(0), dialect.layer_parts
    dim = _most_common(
        sizes.get(name, 0)
        for name in (
            dialect.cls_token,
            f"{dialect.norm}.{scale}",
            f"{dialect.norm}.bias",
            f"{first}.{dialect.norm1}.{scale}",
            f"{first}.{dialect.norm2}.bias",
        )
    )
    patch_values = sizes.get(f"{dialect.patch_embed}.{kernel}", 0) // dim
    patch_size = math.isqrt(patch_values // 3) or _DEFAULT.patch_size
    num_positions = sizes.get(dialect.pos_embed, 0) // dim - dialect.class_slot
    num_registers = sizes.get(dialect.reg_tokens or "", 0) // dim
    mlp, mlp_dim = _mlp(dialect, sizes, first, dim)
    return {
        "embed_dim": dim,
        "depth": _depth(dialect, shapes) or _DEFAULT.depth,
        "num_heads": _num_heads(dialect, shapes, dim),
        "patch_size": patch_size,
        # A grid that is no square shows itself as a wrong shape of `pos_embed`.
        "image_size": (math.isqrt(max(num_positions, 0)) or _DEFAULT.grid[0]) * patch_size,
        "num_registers": num_registers,
        "num_classes": _num_classes(dialect, sizes),
        "mlp": mlp,
        "mlp_ratio": _ratio(mlp_dim, dim),
        "layer_scale": _has_layer_scale(dialect, shapes),
        "layer_norm_epsilon": dialect.layer_norm_epsilon,
        "pos_resampling": dialect.resampling(num_registers),
        **({name: known[name] for name in known if name != "mlp" or mlp != "swiglu"}),
    }


def _most_common(values: Iterable[int]) -> int:
    counts = collections.Counter(value for value in values if value)
    return counts.most_common(1)[0][0] if counts else _DEFAULT.embed_dim


def _depth(dialect: Dialect, names: Iterable[str]) -> int:
    """Number of blocks that any tensor names."""
    pattern = re.compile(re.escape(dialect.block).replace(r"\{\}", r"(\d+)") + r"\.")
    return len({match[1] for match in map(pattern.match, names) if match})


def _num_heads(dialect: Dialect, shapes: Mapping[str, Shape], dim: int) -> int | None:
    if dialect.layout == "torch":
        return NUM_HEADS.get(dim)
    return shapes.get(f"{dialect.block.format(0)}.{dialect.qkv[0]}.bias", (0,))[0] or None


def _num_classes(dialect: Dialect, sizes: Mapping[str, int]) -> int:
    if dialect.head is None:
        return 0
    silent = 0 if "head" in dialect.may_lack else _DEFAULT.num_classes
    return sizes.get(f"{dialect.head}.bias", silent)


def _mlp(dialect: Dialect, sizes: Mapping[str, int], block: str, dim: int) -> tuple[MlpKind, int]:
    """Kind and hidden width: a gated MLP has twice as many units as its second layer reads."""
    kernel, _ = dialect.layer_parts
    for fc1, fc2 in filter(None, (dialect.mlp_layers, dialect.gated_layers)):
        units = sizes.get(f"{block}.{fc1}.bias", 0)
        mlp_dim = sizes.get(f"{block}.{fc2}.{kernel}", 0) // dim
        if dialect.gated_layers and mlp_dim and units == 2 * mlp_dim:
            return "swiglu", mlp_dim
        if units or mlp_dim:
            return dialect.non_linearity, units or mlp_dim
    return dialect.non_linearity, 4 * dim


def _ratio(mlp_dim: int, dim: int) -> float:
    """The ratio from which `ViTConfig` finds the same width again."""
    ratio = mlp_dim / dim
    return ratio if int(dim * ratio) == mlp_dim else math.nextafter(ratio, math.inf)


def _has_layer_scale(dialect: Dialect, names: Iterable[str]) -> bool:
    if not dialect.layer_scale:
        return False
    return "layer_scale" not in dialect.may_lack or any(
        name.endswith(dialect.layer_scale) for name in names
    )
