"""Which tokens of an image are probed? One vector of each kind, a random one anew in every draw.

What an outlier is depends on the norms of all training images, so it is known only after the pass
over them. Until then a temporary file keeps of every image CLS, the registers, the mean patch, its
largest patches (all that can be outliers: a tenth of the patches) and some random ones (to draw
normal patches from); for the small variant with five draws this is 70 kB an image.

Letters: b and n images, t tokens, p patches, r registers, d channels.
"""

from collections.abc import Callable
from types import TracebackType
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from regvit_jax.analysis.engine.store import ColumnStore
from regvit_jax.analysis.outliers.definitions import is_above
from regvit_jax.analysis.outliers.verdict import MAX_SHARE
from regvit_jax.analysis.questions.norms.norms import l2_norm, last_norms
from regvit_jax.batches import Batch
from regvit_jax.model import ViTTrace
from regvit_jax.tokens import TokenLayout

Stream = Literal["normed", "last"]
WithoutOutlier = Literal["skip", "largest"]

CLS, MEAN_PATCH, NORMAL, OUTLIER = "cls", "mean_patch", "normal_patch", "outlier_patch"
MEAN_REGISTER, CLS_REGISTER = "mean_register", "cls_and_mean_register"
_MIN_LARGEST = 8
_SPARE = 4  # random patches kept for every normal one that is drawn: outliers are among them


class ProbedTokens(NamedTuple):
    """What is read of the trace of a batch."""

    tokens: Float[Array, "b t d"]
    mean_patch: Float[Array, "b d"]
    norms: Float[Array, "b p"]
    """Of the patches, before the last LayerNorm whatever is probed."""
    convolved: Float[Array, "b p"]
    """Of the same patches after the patch convolution."""


def probed_tokens(stream: Stream) -> Callable[[ViTTrace, TokenLayout], ProbedTokens]:
    """A reduction to what can be probed, after ("normed") or before ("last") the last LayerNorm."""

    def reduce(trace: ViTTrace, layout: TokenLayout) -> ProbedTokens:
        last = trace.blocks[-1]
        assert last is not None
        tokens = trace.normed if stream == "normed" else last.tokens
        return ProbedTokens(
            tokens,
            tokens[:, layout.patches].mean(axis=1),
            last_norms(trace, layout),
            l2_norm(trace.patch_embed),
        )

    return reduce


def kind_names(num_registers: int, has_cls: bool = True) -> list[str]:
    """The kinds of token that a model has."""
    kinds = [MEAN_PATCH, NORMAL, OUTLIER, *(f"register_{i}" for i in range(num_registers))]
    if num_registers > 1:
        kinds.append(MEAN_REGISTER)
    if not has_cls:
        return kinds
    return [CLS, *kinds, CLS_REGISTER] if num_registers else [CLS, *kinds]


class TokenStore:
    """The tokens of one model and split that a probe may need, image by image, in a file.

    Args:
      layout: Of the model's tokens.
      dim: Their width.
      draws: How often random patches are drawn.
      seed: Of these draws; each image has its own by its place in the source.
    """

    def __init__(self, layout: TokenLayout, dim: int, draws: int, seed: int) -> None:
        self.layout, self.dim, self.draws, self.seed = layout, dim, draws, seed
        num_patches = layout.num_patches
        self._num_largest = min(num_patches, max(_MIN_LARGEST, round(num_patches * MAX_SHARE)))
        self._num_random = min(num_patches, _SPARE * draws)
        self._first_patch = layout.num_specials + 1
        num_kept = self._num_largest + self._num_random
        self._columns = ColumnStore(
            {
                "index": (1, np.int64),
                "label": (1, np.int64),
                "norms": (num_patches, np.float32),
                "convolved": (num_patches, np.float32),
                "places": (num_kept, np.int32),
                "vectors": ((self._first_patch + num_kept) * dim, np.float32),
            }
        )

    def __enter__(self) -> "TokenStore":
        self._columns.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._columns.close()

    def add(self, batch: Batch, reduced: ProbedTokens) -> None:
        """Takes in one batch."""
        norms, tokens = np.asarray(reduced.norms), np.asarray(reduced.tokens)
        largest = np.argsort(-norms, axis=1, kind="stable")[:, : self._num_largest]
        drawn = [self._generator(i, 0).permutation(norms.shape[1]) for i in batch.indices.tolist()]
        places = np.concatenate([largest, np.stack(drawn)[:, : self._num_random]], axis=1)
        patches = np.take_along_axis(tokens[:, self.layout.patches], places[..., None], axis=1)
        others = self.layout.special(tokens)
        mean = np.asarray(reduced.mean_patch)[:, None]
        self._columns.append(
            {
                "index": batch.indices,
                "label": batch.labels,
                "norms": norms,
                "convolved": np.asarray(reduced.convolved),
                "places": places,
                "vectors": np.concatenate([others, mean, patches], axis=1),
            }
        )

    @property
    def kinds(self) -> list[str]:
        return kind_names(self.layout.num_registers, self.layout.has_cls)

    @property
    def num_images(self) -> int:
        return self._columns.num_rows

    @property
    def indices(self) -> Int[np.ndarray, " n"]:
        """Places of the images in the source."""
        return self._columns.read("index")[:, 0]

    @property
    def labels(self) -> Int[np.ndarray, " n"]:
        return self._columns.read("label")[:, 0]

    @property
    def norms(self) -> Float[np.ndarray, "n p"]:
        """Of all patches of all images, before the last LayerNorm."""
        return self._columns.read("norms")

    @property
    def convolved(self) -> Float[np.ndarray, "n p"]:
        """Of the same patches after the patch convolution."""
        return self._columns.read("convolved")

    def features(self, kind: str, draw: int, cut: float) -> Float[np.ndarray, "n d"]:
        """One vector of every image.

        Args:
          kind: One of `kind_names`.
          draw: Which of the draws, for random patches.
          cut: Norm above which a patch is an outlier. An image that has none gives its largest
            patch, see `has_outlier`.
        """
        if kind == CLS_REGISTER:
            parts = [self.features(k, draw, cut) for k in (CLS, MEAN_REGISTER)]
            return np.concatenate(parts, axis=1)
        if kind == MEAN_REGISTER:
            registers = slice(self.layout.has_cls, self.layout.num_specials)
            return self._vectors()[:, registers].mean(axis=1)
        if kind == OUTLIER:
            return self._vectors()[np.arange(self.num_images), self._outlier_slot(draw, cut)]
        if kind == NORMAL:
            return self._vectors()[np.arange(self.num_images), self._normal_slot(draw, cut)]
        slots = {CLS: 0, MEAN_PATCH: self.layout.num_specials}
        first = int(self.layout.has_cls)
        slots |= {f"register_{i}": first + i for i in range(self.layout.num_registers)}
        return np.array(self._vectors()[:, slots[kind]])

    def has_outlier(self, cut: float) -> Bool[np.ndarray, " n"]:
        """Whether an image has a patch of larger norm."""
        return np.any(is_above(self.norms, cut), axis=1)

    def has_normal(self, cut: float) -> Bool[np.ndarray, " n"]:
        """Whether an image has a random patch to draw that is no outlier."""
        return np.any(~is_above(self._norms_of_kept()[:, self._num_largest :], cut), axis=1)

    def share_beyond_kept(self, cut: float) -> float:
        """Share of images with more outliers than are kept: theirs are drawn from the largest."""
        return float((is_above(self.norms, cut).sum(axis=1) > self._num_largest).mean())

    def _outlier_slot(self, draw: int, cut: float) -> Int[np.ndarray, " n"]:
        """Place in the record of one of the image's outliers, each as likely as the others."""
        above = is_above(self._norms_of_kept()[:, : self._num_largest], cut)
        count = np.maximum(above.sum(axis=1), 1)  # sorted: outliers are the first
        uniform = np.array([self._generator(i, 1 + draw).random() for i in self.indices.tolist()])
        return self._first_patch + (uniform * count).astype(int)

    def _normal_slot(self, draw: int, cut: float) -> Int[np.ndarray, " n"]:
        """Place in the record of a random patch that is no outlier, another one in each draw."""
        normal = ~is_above(self._norms_of_kept()[:, self._num_largest :], cut)
        order = np.argsort(~normal, axis=1, kind="stable")  # normal ones first, as they were drawn
        count = np.maximum(normal.sum(axis=1), 1)
        place = np.take_along_axis(order, (draw % count)[:, None], axis=1)[:, 0]
        return self._first_patch + self._num_largest + place

    def _norms_of_kept(self) -> Float[np.ndarray, "n k"]:
        return np.take_along_axis(self.norms, self._columns.read("places"), axis=1)

    def _vectors(self) -> Float[np.ndarray, "n slots d"]:
        """What is kept of every image; only what is indexed is read."""
        return self._columns.mapped("vectors").reshape(self.num_images, -1, self.dim)

    def _generator(self, index: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, index, purpose))
