"""Which tokens of an image are probed? One vector of each kind, a random one anew in every draw.

What an outlier is depends on the norms of all training images, so it is known only after the pass
over them. Until then columns keep of every image CLS, the registers, the mean patch, its largest
patches (all that can be outliers: a tenth of the patches) and some random ones (to draw normal
patches from); for the small variant with five draws this is 70 kB an image.

Letters: b and n images, t tokens, p patches, r registers, d channels, k kept patches.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from regvit_jax.analysis.engine.columns import Columns
from regvit_jax.analysis.engine.question import Keep
from regvit_jax.analysis.engine.subjects import Images
from regvit_jax.analysis.outliers.definitions import is_above
from regvit_jax.analysis.outliers.labels import CONVOLVED, LAST, last_norms
from regvit_jax.analysis.outliers.verdict import MAX_SHARE
from regvit_jax.batches import Batch
from regvit_jax.model import ViTTrace
from regvit_jax.preprocess import Preprocess
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
    """CLS, if there is one, registers, patches."""
    mean_patch: Float[Array, "b d"]
    norms: Float[Array, "b p"]
    """Norms of the patches, before the last LayerNorm whatever is probed."""


def probed_tokens(stream: Stream) -> Callable[[ViTTrace, TokenLayout], ProbedTokens]:
    """A reduction to what can be probed, after ("normed") or before ("last") the last LayerNorm."""

    def reduce(trace: ViTTrace, layout: TokenLayout) -> ProbedTokens:
        last = trace.blocks[-1]
        assert last is not None
        tokens = trace.normed if stream == "normed" else last.tokens
        patches = tokens[:, layout.patches]
        if layout.registers_last:
            tokens = jnp.concatenate([layout.special(tokens), patches], axis=1)
        return ProbedTokens(tokens, patches.mean(axis=1), last_norms(trace, layout))

    return reduce


def probe_tokens(
    images: Images, preprocess: Preprocess, stream: Stream, draws: int, seed: int
) -> Keep:
    """Keeps what can be probed of every image, as the columns of `TokenStore`.

    Args:
      images: The images.
      preprocess: What becomes of them.
      stream: The tokens after ("normed") or before ("last") the last LayerNorm.
      draws: How often random patches are drawn.
      seed: Of these draws; each image has its own by its place in the source.
    """

    def columns(batch: Batch, reduced: ProbedTokens) -> dict[str, np.ndarray]:
        return kept_tokens(batch.indices, reduced, draws, seed)

    key = ("probe tokens", stream, draws, seed)
    return Keep(key, images, preprocess, probed_tokens(stream), columns, blocks=(-1,))


def kept_tokens(
    indices: Int[np.ndarray, " b"], reduced: ProbedTokens, draws: int, seed: int
) -> dict[str, Shaped[np.ndarray, "b ..."]]:
    """The places of the kept patches (b, k), and all kept vectors (b, 2 + r + k, d)."""
    tokens, norms = np.asarray(reduced.tokens), np.asarray(reduced.norms)
    num_patches = norms.shape[1]
    first = tokens.shape[1] - num_patches
    largest = np.argsort(-norms, axis=1, kind="stable")[:, : _num_largest(num_patches)]
    drawn = [_generator(seed, i, 0).permutation(num_patches) for i in indices.tolist()]
    places = np.concatenate([largest, np.stack(drawn)[:, : _SPARE * draws]], axis=1)
    patches = np.take_along_axis(tokens[:, first:], places[..., None], axis=1)
    mean = np.asarray(reduced.mean_patch)[:, None]
    vectors = np.concatenate([tokens[:, :first], mean, patches], axis=1)
    return {"places": places.astype(np.int32), "vectors": vectors.astype(np.float32)}


def kind_names(num_registers: int, has_cls: bool = True) -> list[str]:
    """The kinds of token that a model has."""
    kinds = [CLS] if has_cls else []
    kinds += [MEAN_PATCH, NORMAL, OUTLIER, *(f"register_{i}" for i in range(num_registers))]
    if num_registers > 1:
        kinds.append(MEAN_REGISTER)
    return [*kinds, CLS_REGISTER] if num_registers and has_cls else kinds


class TokenStore:
    """The tokens of one model and part of the data that a probe may need.

    Args:
      tokens: What `probe_tokens` keeps.
      norms: What `patch_norms` keeps of the same images.
      num_registers: Of the model.
      seed: Of the draws.
      has_cls: Whether the model has a CLS token.
    """

    def __init__(
        self, tokens: Columns, norms: Columns, num_registers: int, seed: int, has_cls: bool = True
    ) -> None:
        self._tokens, self._norms, self._seed = tokens, norms, seed
        self._num_registers, self._has_cls = num_registers, has_cls
        self._first_patch = has_cls + num_registers + 1  # after the mean patch
        self._num_largest = _num_largest(norms.mapped(LAST).shape[1])

    @property
    def kinds(self) -> list[str]:
        return kind_names(self._num_registers, self._has_cls)

    @property
    def num_images(self) -> int:
        return self._tokens.num_rows

    @property
    def indices(self) -> Int[np.ndarray, " n"]:
        """Places of the images in the source."""
        return self._tokens.indices

    @property
    def labels(self) -> Int[np.ndarray, " n"]:
        return self._tokens.labels

    @property
    def norms(self) -> Float[np.ndarray, "n p"]:
        """Norms of all patches of all images, before the last LayerNorm."""
        return self._norms.read(LAST)

    @property
    def convolved(self) -> Float[np.ndarray, "n p"]:
        """Norms of the same patches after the patch convolution."""
        return self._norms.read(CONVOLVED)

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
        vectors: Any = self._tokens.mapped("vectors")  # only what is indexed is read
        if kind == MEAN_REGISTER:
            return np.array(vectors[:, self._has_cls : self._first_patch - 1].mean(axis=1))
        if kind == OUTLIER:
            return np.array(vectors[np.arange(self.num_images), self._outlier_slot(draw, cut)])
        if kind == NORMAL:
            return np.array(vectors[np.arange(self.num_images), self._normal_slot(draw, cut)])
        slots = {CLS: 0, MEAN_PATCH: self._first_patch - 1}
        slots |= {f"register_{i}": self._has_cls + i for i in range(self._num_registers)}
        return np.array(vectors[:, slots[kind]])

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
        drawn = [_generator(self._seed, i, 1 + draw).random() for i in self.indices.tolist()]
        return self._first_patch + (np.array(drawn) * count).astype(int)

    def _normal_slot(self, draw: int, cut: float) -> Int[np.ndarray, " n"]:
        """Place in the record of a random patch that is no outlier, another one in each draw."""
        normal = ~is_above(self._norms_of_kept()[:, self._num_largest :], cut)
        order = np.argsort(~normal, axis=1, kind="stable")  # normal ones first, as they were drawn
        count = np.maximum(normal.sum(axis=1), 1)
        place = np.take_along_axis(order, (draw % count)[:, None], axis=1)[:, 0]
        return self._first_patch + self._num_largest + place

    def _norms_of_kept(self) -> Float[np.ndarray, "n k"]:
        return np.take_along_axis(self.norms, self._tokens.read("places"), axis=1)


def _num_largest(num_patches: int) -> int:
    """How many of the largest patches of an image are kept."""
    return min(num_patches, max(_MIN_LARGEST, round(num_patches * MAX_SHARE)))


def _generator(seed: int, index: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng((seed, index, purpose))
