"""Unsupervised object discovery from patch similarity (LOST): one box per image, without labels.

Patches of the background resemble many others, patches of an object few. The patch that resembles
the fewest is the seed; the most lonely patches that resemble it join it; every patch that resembles
these on the whole is in the mask; the box goes round the seed's piece of the mask.

Letters: b images, n patches of a grid (gh, gw), d channels.

Reference: arXiv:2109.14279; `object_discovery.lost` of valeoai/LOST, which leaves the order among
equal degrees to chance. Here the lowest index is first.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from regvit_jax.errors import InputError

NUM_LONELY = 100
"""Patches of lowest degree that may join the seed.  Reference: `--k_patches` of valeoai/LOST."""

_BLOCK_ROWS = 520  # of the Gram matrix, squared: a block of 1 MB stays in a CPU's cache


class Lost(NamedTuple):
    """What LOST finds in each image."""

    boxes: Int[Array, "b 4"]
    """(x0, y0, x1, y1), half-open, in patches."""
    seeds: Int[Array, " b"]
    """Index of the seed among the patches."""
    degrees: Int[Array, "b n"]
    """How many other patches each patch resembles."""
    mask: Bool[Array, "b gh gw"]
    """Patches that resemble the seed and those that joined it."""
    component: Bool[Array, "b gh gw"]
    """The piece of the mask that holds the seed: what the box goes round."""
    in_mask: Bool[Array, " b"]
    """Whether the seed is in its own mask. Where it is not, the box is the seed's patch."""


def lost(
    features: Float[Array | np.ndarray, "b n d"],
    grid: tuple[int, int],
    bias: Float[Array, ""] | float = 0.0,
    k: int = NUM_LONELY,
) -> Lost:
    """One box for each image, in patches.

    Two patches resemble each other if the product of their features plus `bias` is positive. Each
    step follows the published algorithm with the bias added to its Gram matrix A:

    1. A patch's degree is the number of other patches q with A[p, q] > 0.
    2. The seed is the patch of lowest degree; among equals, the first.
    3. Of the k patches of lowest degree, those with A[seed, q] > 0 join the seed.
    4. The mask is where the sum of their rows of A is positive.
    5. The box goes round the seed's connected component (4 neighbours) of the mask.

    Args:
      features: Of the patches, row by row; no CLS or registers. Not changed in any way.
      grid: Rows and columns of patches.
      bias: Added to the Gram matrix.
      k: Patches that may join the seed; all if there are fewer.

    It compiles once for each shape of the features, and may be called inside `jax.jit`.

    Raises:
      InputError: If the grid does not hold the patches, or k is less than 1.
    """
    num_patches = features.shape[1]
    if grid[0] * grid[1] != num_patches:
        raise InputError(
            f"A grid of {grid[0]} x {grid[1]} holds {grid[0] * grid[1]} patches, got features of "
            f"{num_patches}. CLS and registers must be left out."
        )
    if k < 1:
        raise InputError(f"k must be at least 1, got {k}.")
    return _lost(features, grid, bias, min(k, num_patches))


def centred(features: Float[Array | np.ndarray, "b n d"]) -> Float[Array, "b n d"]:
    """Features without their mean over the image's patches, each of length 1.

    Reference: the study's LOST notebooks; the published algorithm changes nothing.
    """
    features = jnp.asarray(features)
    features = features - features.mean(axis=1, keepdims=True)
    length = jnp.sqrt(jnp.sum(jnp.square(features), axis=-1, keepdims=True))
    return features / jnp.maximum(length, 1e-12)  # torch's `normalize`


@functools.partial(jax.jit, static_argnames="grid")
def _lost(features, grid: tuple[int, int], bias, k) -> Lost:
    def find(image):
        return _find(image.astype(jnp.float32), grid, jnp.asarray(bias, jnp.float32), k)

    # Batched products are slower on a CPU: a fifth of the whole at 28 x 37 patches.
    if jax.default_backend() == "cpu":
        return lax.map(find, features)
    return jax.vmap(find)(features)


def _find(features, grid: tuple[int, int], bias, k) -> Lost:
    """LOST on one image; the results lack the axis of images."""
    degrees = _degrees(features, bias)
    seed, sums = _expand(features, degrees, bias, k)
    mask = (sums > 0).reshape(grid)
    at_seed = (jnp.arange(grid[0] * grid[1]) == seed).reshape(grid)
    component = at_seed | _connected(at_seed & mask, mask)
    return Lost(_box(component), seed, degrees, mask, component, jnp.any(at_seed & mask))


def _degrees(features, bias):
    """How many other patches each patch resembles.

    A is symmetric: only the blocks on and above its diagonal are formed, one at a time. Each counts
    for its rows, and mirrored for its columns.
    """
    num_patches, dim = features.shape
    num_blocks = -(-num_patches // _BLOCK_ROWS)
    size = -(-num_patches // num_blocks)
    padded = jnp.pad(features, ((0, num_blocks * size - num_patches), (0, 0)))
    places = jnp.arange(size, dtype=jnp.int32)

    def add_block(degrees, block):
        first, second = size * block
        rows, cols = (lax.dynamic_slice(padded, (at, 0), (size, dim)) for at in (first, second))
        row, col = (first + places)[:, None], (second + places)[None]
        is_pair = (row != col) & (row < num_patches) & (col < num_patches)
        alike = (_product(rows, cols.T) + bias > 0) & is_pair
        mirrored = jnp.where(first == second, 0, jnp.sum(alike, axis=0, dtype=jnp.int32))
        degrees = _add_at(degrees, first, jnp.sum(alike, axis=1, dtype=jnp.int32))
        return _add_at(degrees, second, mirrored), None

    blocks = jnp.stack(jnp.triu_indices(num_blocks), axis=1).astype(jnp.int32)
    return lax.scan(add_block, jnp.zeros(padded.shape[0], jnp.int32), blocks)[0][:num_patches]


def _add_at(totals, start, values):
    """The totals with values added from `start` on."""
    before = lax.dynamic_slice(totals, (start,), values.shape)
    return lax.dynamic_update_slice(totals, before + values, (start,))


def _expand(features, degrees, bias, k):
    """The seed, and for every patch the sum of A over the patches that joined the seed.

    That sum is the patch's product with the sum of their features: no row of A is formed again.
    """
    num_patches = features.shape[0]
    order = degrees * num_patches + jnp.arange(num_patches)  # unlike: ties by index
    is_lonely = order <= jnp.sort(order)[k - 1]
    seed = jnp.argmin(order)
    joins = is_lonely & (_product(features, features[seed]) + bias > 0)
    joined = _product(joins.astype(features.dtype), features)
    return seed, _product(features, joined) + bias * jnp.sum(joins)


def _product(first, second):
    """A product in float32 on every device; what is above 0 must not hang on TF32."""
    return jnp.matmul(first, second, precision="highest")


def _connected(reached, mask):
    """The parts of the mask that `reached` touches, one neighbour in row or column at a time."""

    def grow(state):
        before, _ = state
        wide = jnp.pad(before, 1)
        around = wide[2:, 1:-1] | wide[:-2, 1:-1] | wide[1:-1, 2:] | wide[1:-1, :-2]
        after = before | (around & mask)
        return after, jnp.any(after != before)

    return lax.while_loop(lambda state: state[1], grow, (reached, jnp.array(True)))[0]


def _box(component):
    """The tight box of a component, half-open."""
    rows, cols = jnp.any(component, axis=1), jnp.any(component, axis=0)
    return jnp.stack([jnp.argmax(cols), jnp.argmax(rows), _end(cols), _end(rows)])


def _end(present):
    return present.shape[0] - jnp.argmax(present[::-1])
