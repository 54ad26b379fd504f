"""How do two training images become one? Mixup blends them, cutmix pastes a part of one.

Partners lie next to one another in a batch (`regvit_jax.train.batches` orders it so), and a group's
draw follows from seed, step and group: neither devices nor chunks matter while each holds pairs.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from regvit_jax.train.recipe import DataConfig

MIX_STREAM = 0x313C_0000  # beyond the index of any image


class Mix(NamedTuple):
    """How each image is made from itself and its partner."""

    keep: Float[Array, " b"]
    """Share of the image's own label."""
    opacity: Float[Array, " b"]
    """Weight of the image's own pixels outside the box; inside, it is 0."""
    box: Int[Array, "b 4"]
    """Where the partner's pixels are pasted: (x0, y0, x1, y1), half-open; empty for mixup."""


def draw_mixes(rng: Key[Array, ""], groups: Int[Array, " b"], size: int, data: DataConfig) -> Mix:
    """The mix of each image; images of one group share it.

    Args:
      rng: Of the step.
      groups: Of each image: its index in the global batch // the size of a group.
      size: Side of the images, in pixels.
      data: Says what may be drawn.

    Reference: arXiv:1710.09412, arXiv:1905.04899; `timm.data.Mixup` in its mode "batch".
    """
    rng_mix = jax.random.fold_in(rng, MIX_STREAM)
    rngs = jax.vmap(jax.random.fold_in, (None, 0))(rng_mix, groups)
    return jax.vmap(lambda rng: _draw(rng, size, data))(rngs)


def make_mix(
    is_cutmix: Bool[Array, "*b"], share: Float[Array, "*b"], centre: Int[Array, "*b 2"], size: int
) -> Mix:
    """The mix that chance decided on; a box that the edges clip takes a smaller share.

    Args:
      is_cutmix: Paste instead of blend.
      share: Of the image itself, before clipping.
      centre: Of the box (x, y), in pixels.
      size: Side of the images, in pixels.
    """
    side = jnp.floor(size * jnp.sqrt(1.0 - share)).astype(jnp.int32)[..., None]
    corners = jnp.concatenate([centre - side // 2, centre + (side + 1) // 2], axis=-1)
    box = jnp.where(is_cutmix[..., None], corners.clip(0, size), 0)
    area = (box[..., 2] - box[..., 0]) * (box[..., 3] - box[..., 1])
    keep = jnp.where(is_cutmix, 1.0 - area / size**2, share)
    return Mix(keep, jnp.where(is_cutmix, 1.0, share), box)


def mix_images(images: Float[Array, "b h w 3"], mix: Mix) -> Float[Array, "b h w 3"]:
    """Each image mixed with its partner; images 2 i and 2 i + 1 are each other's.

    Args:
      images: Normalised.
      mix: Of each image.
    """
    own = own_share(mix, *images.shape[1:3])[..., None]
    return own * images + (1.0 - own) * swap_partners(images)


def own_share(mix: Mix, height: int, width: int) -> Float[Array, "b h w"]:
    """The part of every pixel that is the image's own, and not its partner's."""
    x, y = jnp.arange(width)[None], jnp.arange(height)[None]
    x0, y0, x1, y1 = (edge[:, None] for edge in mix.box.T)
    is_col, is_row = (x >= x0) & (x < x1), (y >= y0) & (y < y1)
    is_pasted = is_row[:, :, None] & is_col[:, None, :]
    return jnp.where(is_pasted, 0.0, mix.opacity[:, None, None])


def mix_targets(targets: Float[Array, "b c"], mix: Mix) -> Float[Array, "b c"]:
    """The partners' targets in the shares of their pixels."""
    keep = mix.keep[:, None]
    return keep * targets + (1.0 - keep) * swap_partners(targets)


def swap_partners(values: Array) -> Array:
    """For each image its partner's."""
    pairs = values.reshape(-1, 2, *values.shape[1:])
    return pairs[:, ::-1].reshape(values.shape)


def symmetric_beta(
    alpha: Float[Array, "*b"], first: Float[Array, "*b"], second: Float[Array, "*b"]
) -> Float[Array, "*b"]:
    """Beta(alpha, alpha), from two uniform draws: JAX's own takes seconds to compile.

    Reference: Bailey 1994, "Polar generation of random variates with the t-distribution": T with
      2 alpha degrees of freedom gives 1/2 + T / (2 sqrt(2 alpha + T^2)).
    """
    inner, cosine = first ** (1.0 / alpha), jnp.cos(2 * jnp.pi * second)
    return 0.5 + 0.5 * cosine * jnp.sqrt((1.0 - inner) / (inner + (1.0 - inner) * cosine**2))


def _draw(rng: Key[Array, ""], size: int, data: DataConfig) -> Mix:
    kind, first, second, *centre = jax.random.uniform(rng, (5,))
    rate = data.cutmix_rate if data.mixup_alpha and data.cutmix_alpha else data.cutmix_alpha > 0
    is_cutmix = kind < rate
    alpha = jnp.where(is_cutmix, data.cutmix_alpha, data.mixup_alpha)
    pixel = jnp.floor(size * jnp.stack(centre)).astype(jnp.int32)
    return make_mix(is_cutmix, symmetric_beta(alpha, first, second), pixel, size)
