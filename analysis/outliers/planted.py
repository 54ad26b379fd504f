"""Can the detector see? A positive control: the same model with norms planted into its stream."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from regvit_jax.analysis.outliers.layers import of_model
from regvit_jax.analysis.outliers.streams import NormColumns
from regvit_jax.analysis.outliers.verdict import Verdict, judge
from regvit_jax.edits import Change
from regvit_jax.tokens import TokenLayout

SHARE, TIMES = 0.01, 2.5
"""Share of the patches, and their norm in units of the image's median, as in DeiT-III-B."""


class Control(NamedTuple):
    """What became of planted norms."""

    block: int
    """After which they were planted, from 0."""
    share: float
    """Share of the patches."""
    times: float
    answer: str
    """Whether the rule finds a group in the layers after that block: "found" or "not found"."""
    seen: float
    """Share of the planted patches that are members of the group found, in [0, 1]."""
    num_images: int

    @property
    def sentence(self) -> str:
        """For readers."""
        head = (
            f"The detector's control: {100 * self.share:.1f} % of the patches of "
            f"{self.num_images} images, planted at {self.times:g} x the median after block "
            f"{self.block}: {self.answer}"
        )
        if self.answer == "found":
            return f"{head} ({100 * self.seen:.0f} % of them). It can see such a group here."
        return f"{head}. It cannot see such a group here, so that “not found” says little."


def planted_block(depth: int) -> int | None:
    """After which block norms are planted: in the middle; None where no later block shows them."""
    return None if depth < 2 else depth // 2 - 1


def judge_planted(norms: NormColumns, block: int, own: Bool[np.ndarray, "n p"]) -> Control:
    """Whether planted norms are found in the layers after their block.

    Args:
      norms: Of a pass with `plant` as its edit.
      block: After which it planted.
      own: Patches that are outliers without it; they count as long as their image's median, so
        that what is found is what was planted.
    """
    grid, layers = norms.layout.grid, range(block + 2, norms.last + 1)
    here = places(grid, SHARE, 0)
    others = own.copy()
    others[:, here] = False
    streams = [_evened(norms.patches(layer), others) for layer in layers]
    verdicts = [judge(stream, grid) for stream in streams]
    model = of_model([Verdict("not found", "", None), *verdicts])
    share, seen = len(here) / (grid[0] * grid[1]), 0.0
    if model.strongest is not None:
        seen = float(model.labels(streams[model.strongest - 1])[:, here].mean())
    answer = "found" if model.answer == "found" else "not found"  # they are there for sure
    return Control(block, share, TIMES, answer, seen, norms.num_images)


def _evened(norms: Float[np.ndarray, "n p"], others: Bool[np.ndarray, "n p"]):
    return np.where(others, np.median(norms, axis=1, keepdims=True), norms).astype(np.float32)


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
