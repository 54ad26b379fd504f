"""How are position embeddings carried over to another grid of patches?"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64

from regvit_jax.config import PosResampling

# DINO and DINOv2 without registers ask for a size a tenth of a patch larger, against rounding.
# Reference: `interpolate_pos_encoding` of facebookresearch/dinov2.
DINO_OFFSET = 0.1

# The free parameter of the cubic kernel: torch sharpens unless it antialiases.
CUBIC_SHARP, CUBIC_ANTIALIAS = -0.75, -0.5


def resample_pos_embed(
    pos_embed: Float[Array | np.ndarray, "1 n d"],
    grid: tuple[int, int],
    target: tuple[int, int],
    rule: PosResampling = "antialias",
) -> Float[Array | np.ndarray, "1 m d"]:
    """Position embeddings for a `target` grid (rows, columns), by bicubic interpolation.

    Args:
      pos_embed: Embeddings of the patches, row by row; no entry for CLS or registers.
      grid: Rows and columns of `pos_embed`.
      target: Rows and columns wanted.
      rule: "antialias" is timm's rule and that of DINOv2 with registers; "plain" has no
        antialiasing (DeiT-III's fine-tuning code); "offset" has none either and scales by
        (target + 0.1) / grid (DINO, DINOv2 without registers).

    Reference: `torch.nn.functional.interpolate(mode="bicubic")`.
    """
    if grid == target:
        return pos_embed
    offset = DINO_OFFSET if rule == "offset" else 0.0
    rows, cols = (
        jnp.asarray(_cubic_weights(have, want, (want + offset) / have, rule == "antialias"))
        for have, want in zip(grid, target, strict=True)
    )
    image = pos_embed.reshape(*grid, pos_embed.shape[-1]).astype(jnp.float32)
    image = jnp.einsum("ag,bh,ghd->abd", rows, cols, image, precision="highest")
    return image.reshape(1, target[0] * target[1], -1).astype(pos_embed.dtype)


def _cubic_weights(
    size: int, target: int, scale: float, antialias: bool
) -> Float64[np.ndarray, "target size"]:
    """What each of `size` samples contributes to each of `target` resampled ones."""
    width = max(1.0, 1.0 / scale) if antialias else 1.0
    # Single precision here is torch's: its rounding of the coordinates is 10 x our own error.
    centers = np.float32(1 / scale) * np.arange(0.5, target, dtype=np.float32) - np.float32(0.5)
    weights = np.zeros((target, size))
    for row, center in zip(weights, centers, strict=True):
        if antialias:  # taps beyond the edge are left out, the others normalised
            row += _cubic((np.arange(size) - center) / width, CUBIC_ANTIALIAS)
            row /= row.sum()
        else:  # taps beyond the edge repeat the edge
            taps = np.floor(center) + np.arange(-1, 3)
            indices = taps.clip(0, size - 1).astype(int)
            np.add.at(row, indices, _cubic(taps - center, CUBIC_SHARP))
    return weights


def _cubic(distance: Float64[np.ndarray, " n"], a: float) -> Float64[np.ndarray, " n"]:
    """Keys' cubic convolution kernel.  Reference: doi:10.1109/TASSP.1981.1163711."""
    x = np.abs(distance)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
