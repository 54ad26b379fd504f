"""Does a model have outlier tokens? The verdicts of its layers, and where they are strongest.

In DeiT-III-B outliers stand out from the third block on, and the bulk nearly reaches them in the
last one: a layer is not the model.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from regvit_jax.analysis.outliers.verdict import Answer, Verdict, judge, members
from regvit_jax.analysis.statistics.bootstrap import Bootstrap


class ModelVerdict(NamedTuple):
    """The verdict on a model."""

    answer: Answer
    """"found" where any block's layer holds outliers."""
    reason: str
    layers: tuple[Verdict, ...]
    """Layer 0 is what enters the first block; layer i + 1 leaves block i."""
    strongest: int | None
    """The layer whose outliers are furthest out; None where none were found."""

    @property
    def strongest_cut(self) -> tuple[int, float] | None:
        """After which block outliers are furthest out, and the multiple of the median norm of their
        image from which on a patch is one there; None where none were found.
        """
        if self.strongest is None:
            return None
        group = self.layers[self.strongest].group
        assert group is not None
        return self.strongest - 1, group.cut_ratio

    def labels(self, norms: Float[np.ndarray, "n p"]) -> Bool[np.ndarray, "n p"]:
        """Which patches are outliers, from the norms of the strongest layer; none if not found."""
        group = None if self.strongest is None else self.layers[self.strongest].group
        return np.zeros(norms.shape, bool) if group is None else members(norms, group.cut_ratio)


def judge_layers(
    layers: Iterable[Float[np.ndarray, "n p"]],
    grid: tuple[int, int],
    pixels: Float[np.ndarray, "n p"] | None = None,
    bootstrap: Bootstrap | None = None,
) -> ModelVerdict:
    """The verdict of every layer, and of the model.

    Args:
      layers: Patch norms: what enters the first block, then what leaves each one.
      grid: Rows and columns of the patches.
      pixels: Norms after the patch convolution.
      bootstrap: Resamples of the images.
    """
    verdicts: list[Verdict] = []
    embedded = None
    for norms in layers:
        verdicts.append(judge(norms, grid, pixels, embedded, bootstrap=bootstrap))
        embedded = norms if embedded is None else embedded
    return of_model(verdicts)


def of_model(layers: Iterable[Verdict]) -> ModelVerdict:
    """The verdict of a model from those of its layers, the first of which decides nothing."""
    layers = tuple(layers)
    found = [i for i, verdict in enumerate(layers) if i and verdict.answer == "found"]
    if not found:
        return ModelVerdict(*_without(layers), layers, None)
    strongest = max(found, key=lambda i: _distance(layers[i]))
    where = f"{_places([i - 1 for i in found])}, strongest at {strongest - 1}"
    if len(found) == 1:
        where = _places([i - 1 for i in found])
    end = "" if layers[-1].answer == "found" else "; gone at the end"
    if layers[-1].answer == "cannot tell" and layers[-1].group is not None:
        end = "; at the end one cannot tell"
    reason = f"found {where}{end}. At block {strongest - 1}: {layers[strongest].reason}"
    return ModelVerdict("found", reason[0].upper() + reason[1:], layers, strongest)


def _distance(verdict: Verdict) -> float:
    return 0.0 if verdict.group is None else verdict.group.peak_ratio


def _without(layers: tuple[Verdict, ...]) -> tuple[Answer, str]:
    """The answer and reason of the last layer that is not sure, or else of the last one."""
    unsure = [i for i, verdict in enumerate(layers) if i and verdict.answer == "cannot tell"]
    if unsure:
        return "cannot tell", f"{_at(unsure[-1], layers)}: {layers[unsure[-1]].reason}"
    last = len(layers) - 1
    return "not found", f"In no block. {_at(last, layers)}: {layers[-1].reason}"


def _at(layer: int, layers) -> str:
    return f"At block {layer - 1}" if layer else "Before the blocks"


def _places(blocks: list[int]) -> str:
    """Runs of blocks in words: "in block 2, from block 5 to block 7"."""
    runs: list[list[int]] = []
    for block in blocks:
        if runs and runs[-1][1] == block - 1:
            runs[-1][1] = block
        else:
            runs.append([block, block])
    words = [f"in block {a}" if a == b else f"from block {a} to block {b}" for a, b in runs]
    return ", ".join(words)
