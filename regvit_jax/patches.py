"""How is an image cut into patches, and what does the model's first layer make of them?

Letters: b images, h w pixels, c channels, n patches, v pixel values of a patch, d width of a token.
"""

from typing import Any, TypeVar

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Shaped

from regvit_jax.config import ViTConfig
from regvit_jax.errors import InputError
from regvit_jax.product import product

AnyArray = TypeVar("AnyArray", Array, np.ndarray)


class PatchEmbed(nn.Module):
    """A convolution whose kernel and stride are one patch, as a matrix product."""

    config: ViTConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, images: Float[Array, "b h w c"]) -> Float[Array, "b n d"]:
        size, channels = self.config.patch_size, self.config.num_channels
        dim = self.config.embed_dim
        # torch's default for a convolution, which DeiT leaves as it is.
        uniform = _symmetric_uniform((size * size * channels) ** -0.5)
        kernel = self.param("kernel", uniform, (size, size, channels, dim))
        bias = self.param("bias", uniform, (dim,)) if self.config.patch_bias else None
        patches = patchify(images, size)
        embedded = product(patches, kernel.reshape(size * size * channels, dim), self.dtype)
        return embedded if bias is None else embedded + bias.reshape(1, 1, dim)


def patchify(images: Shaped[AnyArray, "b h w c"], patch_size: int) -> Shaped[AnyArray, "b n v"]:
    """The v = p p c pixel values of each patch, in the order of the patch tokens (row by row).

    On the host for NumPy arrays, of whatever type.
    """
    return einops.rearrange(
        images, "b (gh p) (gw q) c -> b (gh gw) (p q c)", p=patch_size, q=patch_size
    )


def unpatchify(
    patches: Shaped[AnyArray, "b n v"], patch_size: int, grid: tuple[int, int]
) -> Shaped[AnyArray, "b h w c"]:
    """The images that `patchify` cut up; on the host for NumPy arrays, of whatever type."""
    return einops.rearrange(
        patches,
        "b (gh gw) (p q c) -> b (gh p) (gw q) c",
        gh=grid[0],
        gw=grid[1],
        p=patch_size,
        q=patch_size,
    )


def check_images(images: Shaped[Any, "..."], channels: int) -> None:
    """Does nothing if type and shape are those of normalised images; nothing is left under jit.

    Args:
      images: What somebody hands over as images.
      channels: That the model reads.

    Raises:
      InputError: Says what they are, and what to do.
    """
    shape = tuple(np.shape(images))
    expected = f"expected (batch, height, width, {channels})"
    if len(shape) == 3 and channels in (shape[0], shape[2]):
        hint = "images[None]" if shape[2] == channels else "images.transpose(1, 2, 0)[None]"
        raise InputError(
            f"One image of shape {shape} lacks the batch axis; {expected}: use {hint}."
        )
    if len(shape) != 4:
        raise InputError(f"Images of shape {shape} have {len(shape)} axes; {expected}.")
    if shape[1] == channels != shape[3]:
        raise InputError(
            f"Images of shape {shape} look channels first; {expected}: use "
            "images.transpose(0, 2, 3, 1)."
        )
    if shape[3] != channels:
        cure = "let `regvit_jax.load_images` prepare pictures of any mode"
        raise InputError(
            f"Images of shape {shape} have {shape[3]} channels; {expected}"
            f"{f': {cure}' if channels == 3 else ''}."
        )
    dtype = images.dtype if hasattr(images, "dtype") else np.asarray(images).dtype
    if not jnp.issubdtype(dtype, jnp.floating):
        raise InputError(
            f"Images are {dtype}, expected normalised float32: use `regvit_jax.load_images`, or "
            "`Preprocess.normalise` on what `Preprocess.pixels` returns."
        )


def _symmetric_uniform(bound: float):
    def init(rng, shape, dtype=jnp.float32):
        return jax.random.uniform(rng, shape, dtype, -bound, bound)

    return init
