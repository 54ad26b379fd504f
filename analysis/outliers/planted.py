"""Can the detector see? A positive control: the same model with norms planted into its stream."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from regvit_jax.edits import Change
from regvit_jax.tokens import TokenLayout

SHARE, TIMES = 0.02, 4.0
"""Share of the patches, and their norm in units of the image's median."""


def plant(
    layout: TokenLayout, block: int, share: float = SHARE, times: float = TIMES, seed: int = 0
) -> Change:
    """An edit for `trace`: after a block, patches at some places of every image are made longer.

    A trace records what a block leaves before the edit: the next block's output is the first to
    show it. The places are the same in all images, drawn so that none lies beside another.

    Args:
      layout: Of the model's tokens.
      block: After which block, from 0.
      share: Of the patches; at least one.
      times: Their norm in units of the median norm of their image's patches.
      seed: Of the places.
    """
    is_planted = np.zeros(layout.num_tokens, bool)
    patches = np.arange(layout.num_tokens)[layout.patches]
    is_planted[patches[places(layout.grid, share, seed)]] = True
    column = jnp.asarray(is_planted)[None, :, None]

    def edit(index: int, tokens: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        if index != block:
            return tokens
        lengths = jnp.linalg.norm(tokens.astype(jnp.float32), axis=-1, keepdims=True)
        median = jnp.median(lengths[:, layout.patches], axis=1, keepdims=True)
        factors = times * median / jnp.maximum(lengths, 1e-12)
        return jnp.where(column, tokens * factors.astype(tokens.dtype), tokens)

    return edit


def places(grid: tuple[int, int], share: float, seed: int) -> list[int]:
    """Patches of which none lies beside another: so many as the share says, at least one."""
    wanted = max(1, round(share * grid[0] * grid[1]))
    chosen: list[int] = []
    for place in np.random.default_rng(seed).permutation(grid[0] * grid[1]).tolist():
        row, column = divmod(place, grid[1])
        apart = [abs(row - p // grid[1]) + abs(column - p % grid[1]) > 1 for p in chosen]
        if all(apart):
            chosen.append(place)
        if len(chosen) == wanted:
            break
    return sorted(chosen)
