"""How do rotary positions turn queries and keys? Each family's rule, on the grid of patches.

Channels are turned in pairs: the first half of the pairs by an angle that grows with the row of a
patch, the second half by one that grows with its column. Tokens without a place on the grid do not
turn.

Letters: b images, k heads, t tokens, e width of a head.
"""

from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64

from regvit_jax.config import Rope, ViTConfig
from regvit_jax.tokens import TokenLayout


class Turn(NamedTuple):
    """Cosines and sines of all angles, as constants."""

    cos: Float[np.ndarray, "t e"]
    sin: Float[np.ndarray, "t e"]
    pairs: Literal["halves", "neighbours"]
    """Whether a channel's partner is half a head away, or beside it."""


class Rule(NamedTuple):
    """One published way of giving angles to patches."""

    is_centred: bool
    """Whether coordinates are centres of patches from -1 to 1, or indices from 0 as though the grid
    were that of `ViTConfig.grid`."""
    pairs: Literal["halves", "neighbours"]
    unit: float
    """Radians that the fastest pair turns for a coordinate of 1."""


RULES: dict[Rope, Rule] = {
    "centred": Rule(True, "halves", unit=2 * np.pi),
    "scaled": Rule(False, "neighbours", unit=1.0),
}
"""DINOv3's; that of timm's sbb models and ViT-5.

Reference: `rope_position_encoding.py` of facebookresearch/dinov3; `RotaryEmbeddingCat` of timm;
`rope.py` of wangf3014/ViT-5.
"""


def turn_of(config: ViTConfig, layout: TokenLayout) -> Turn | None:
    """The rotation of every token of a sequence; None for a model without rotary positions."""
    if config.rope == "none":
        return None
    rule = RULES[config.rope]
    angles = np.zeros((layout.num_tokens, config.head_dim // 2))
    angles[layout.patches] = _angles(rule, layout.grid, config.grid, config.rope_base, config)
    if config.register_rope_base:
        side = int(np.sqrt(config.num_registers))
        angles[layout.registers] = _angles(
            rule, (side, side), (side, side), config.register_rope_base, config
        )
    both = np.tile(angles, (1, 2)) if rule.pairs == "halves" else np.repeat(angles, 2, axis=1)
    return Turn(np.cos(both).astype(np.float32), np.sin(both).astype(np.float32), rule.pairs)


def turned(x: Float[Array, "b k t e"], turn: Turn) -> Float[Array, "b k t e"]:
    """Queries or keys, every pair of channels turned by its angle."""
    if turn.pairs == "halves":
        first, second = jnp.split(x, 2, axis=-1)
        partners = jnp.concatenate([-second, first], axis=-1)
    else:
        partners = jnp.stack([-x[..., 1::2], x[..., ::2]], axis=-1).reshape(x.shape)
    cos, sin = (jnp.asarray(part)[None, None] for part in (turn.cos, turn.sin))
    return x * cos + partners * sin


def _angles(
    rule: Rule, grid: tuple[int, int], trained: tuple[int, int], base: float, config: ViTConfig
) -> Float64[np.ndarray, "n pairs"]:
    """Angles of each patch, row by row: half the pairs for one axis, half for the other."""
    count = config.head_dim // 4
    frequencies = rule.unit * base ** -(np.arange(count) / count)
    axes = [_coordinates(rule, *sizes) for sizes in zip(grid, trained, strict=True)]
    places = np.meshgrid(*axes, indexing="ij")
    return np.concatenate([place.reshape(-1, 1) * frequencies for place in places], axis=1)


def _coordinates(rule: Rule, size: int, trained: int) -> Float64[np.ndarray, " size"]:
    """Along one axis."""
    if rule.is_centred:
        return 2 * (np.arange(size) + 0.5) / size - 1
    return np.arange(size) * (trained / size)
