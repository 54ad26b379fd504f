"""Which tokens of an image are probed? One vector of each kind, a random one anew in every draw.

What an outlier is, and in which layer, depends on the norms of all training images, so it is known
only after the pass over them. Until then columns keep of every image CLS, the registers, the mean
patch, the patches that are among the largest of any layer (all that can be outliers: a tenth of the
patches) and some random ones (to draw normal patches from), and of the first few of the largest a
neighbour and what they were after block 0, as controls; for the small variant with five draws this
is 95 kB an image.

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
from regvit_jax.analysis.outliers.streams import l2_norm
from regvit_jax.analysis.outliers.verdict import MAX_SHARE
from regvit_jax.batches import Batch
from regvit_jax.model import ViTTrace
from regvit_jax.preprocess import Preprocess
from regvit_jax.tokens import TokenLayout

Stream = Literal["normed", "last"]
WithoutOutlier = Literal["skip", "largest"]

CLS, MEAN_PATCH, NORMAL, OUTLIER = "cls", "mean_patch", "normal_patch", "outlier_patch"
BESIDE, NEIGHBOUR, EARLY = "normal_patch_beside", "outliers_neighbour", "outlier_in_block_0"
"""Controls of the outlier, on the images that have one: a normal patch, a neighbour of an outlier,
and the same patch after block 0."""
DRAWN = (NORMAL, OUTLIER, BESIDE)
WITH_OUTLIER = (OUTLIER, BESIDE, NEIGHBOUR, EARLY)
MEAN_REGISTER, CLS_REGISTER = "mean_register", "cls_and_mean_register"
_MIN_LARGEST = 8
_NUM_CONTROLS = 8
_SPARE = 4  # random patches kept for every normal one that is drawn: outliers are among them


class ProbedTokens(NamedTuple):
    """What is read of the trace of a batch."""

    tokens: Float[Array, "b t d"]
    """CLS, if there is one, registers, patches."""
    mean_patch: Float[Array, "b d"]
    prominence: Float[Array, "b p"]
    """How far in front the patches come by their norm, in any layer."""
    early: Float[Array, "b p d"]
    """The patches after block 0."""


def probed_tokens(stream: Stream) -> Callable[[ViTTrace, TokenLayout], ProbedTokens]:
    """A reduction to what can be probed, after ("normed") or before ("last") the last LayerNorm."""

    def reduce(trace: ViTTrace, layout: TokenLayout) -> ProbedTokens:
        first, last = trace.blocks[0], trace.blocks[-1]
        assert first is not None
        assert last is not None
        tokens = trace.normed if stream == "normed" else last.tokens
        patches = tokens[:, layout.patches]
        if layout.registers_last:
            tokens = jnp.concatenate([layout.special(tokens), patches], axis=1)
        streams = [block.tokens[:, layout.patches] for block in trace.blocks if block]
        norms = jnp.stack([l2_norm(stream) for stream in streams], axis=1)
        early = first.tokens[:, layout.patches]
        return ProbedTokens(tokens, patches.mean(axis=1), prominence(norms), early)

    return reduce


def prominence(norms: Float[Array, "b l p"]) -> Float[Array, "b p"]:
    """Minus the best place of each patch in any layer, equals in the order of the last one."""
    places = jnp.argsort(jnp.argsort(-norms, axis=-1), axis=-1)
    return -(places.min(axis=1) + places[:, -1] / (1 + norms.shape[-1]))


def probe_tokens(
    images: Images,
    preprocess: Preprocess,
    patch_size: int,
    stream: Stream,
    draws: int,
    seed: int,
) -> Keep:
    """Keeps what can be probed of every image, as the columns of `TokenStore`.

    Args:
      images: The images.
      preprocess: What becomes of them.
      patch_size: Of the model.
      stream: The tokens after ("normed") or before ("last") the last LayerNorm.
      draws: How often random patches are drawn.
      seed: Of these draws; each image has its own by its place in the source.
    """

    def columns(batch: Batch, reduced: ProbedTokens) -> dict[str, np.ndarray]:
        size = preprocess.width // patch_size
        return kept_tokens(batch.indices, reduced, size, draws, seed)

    key = ("probe tokens", stream, draws, seed)
    return Keep(key, images, preprocess, probed_tokens(stream), columns)


def kept_tokens(
    indices: Int[np.ndarray, " b"], reduced: ProbedTokens, row_size: int, draws: int, seed: int
) -> dict[str, Shaped[np.ndarray, "b ..."]]:
    """The places of the kept patches (b, k), and all kept vectors (b, 2 + r + k + 2 c, d).

    Args:
      indices: Of the images.
      reduced: Of the same images.
      row_size: Patches in a row of the grid.
      draws: How often random patches are drawn.
      seed: Of these draws.
    """
    tokens, ahead = np.asarray(reduced.tokens), np.asarray(reduced.prominence)
    num_patches = ahead.shape[1]
    first = tokens.shape[1] - num_patches
    largest = np.argsort(-ahead, axis=1, kind="stable")[:, : _num_largest(num_patches)]
    drawn = [_generator(seed, i, 0).permutation(num_patches) for i in indices.tolist()]
    places = np.concatenate([largest, np.stack(drawn)[:, : _SPARE * draws]], axis=1)
    patches = np.take_along_axis(tokens[:, first:], places[..., None], axis=1)
    mean = np.asarray(reduced.mean_patch)[:, None]
    controls = largest[:, :_NUM_CONTROLS]
    beside = controls + np.where(controls % row_size < row_size - 1, 1, -1)
    beside = np.clip(beside, 0, num_patches - 1)
    neighbours = np.take_along_axis(tokens[:, first:], beside[..., None], axis=1)
    early = np.take_along_axis(np.asarray(reduced.early), controls[..., None], axis=1)
    parts = [tokens[:, :first], mean, patches, neighbours, early]
    vectors = np.concatenate(parts, axis=1)
    return {"places": places.astype(np.int32), "vectors": vectors.astype(np.float32)}


def kind_names(num_registers: int, has_cls: bool = True) -> list[str]:
    """The kinds of token that a model has."""
    kinds = [CLS] if has_cls else []
    kinds += [MEAN_PATCH, NORMAL, OUTLIER, BESIDE, NEIGHBOUR, EARLY]
    kinds += [f"register_{i}" for i in range(num_registers)]
    if num_registers > 1:
        kinds.append(MEAN_REGISTER)
    return [*kinds, CLS_REGISTER] if num_registers and has_cls else kinds


class TokenStore:
    """The tokens of one model and part of the data that a probe may need.

    Args:
      tokens: What `probe_tokens` keeps.
      norms: Of the patches of the same images, in the layer that tells outliers.
      is_outlier: Which of them are outliers.
      num_registers: Of the model.
      seed: Of the draws.
      has_cls: Whether the model has a CLS token.
    """

    def __init__(
        self,
        tokens: Columns,
        norms: Float[np.ndarray, "n p"],
        is_outlier: Bool[np.ndarray, "n p"],
        num_registers: int,
        seed: int,
        has_cls: bool = True,
    ) -> None:
        self._tokens, self._norms, self._seed = tokens, norms, seed
        self._num_registers, self._has_cls = num_registers, has_cls
        self._first_patch = has_cls + num_registers + 1  # after the mean patch
        self._num_largest = _num_largest(norms.shape[1])
        places = tokens.read("places")
        kept = np.take_along_axis(is_outlier, places, axis=1)
        self._among_largest = kept[:, : self._num_largest]
        self._is_normal = ~kept[:, self._num_largest :]
        self._first_control = self._first_patch + places.shape[1]
        self._num_controls = min(_NUM_CONTROLS, self._num_largest)
        self.share_beyond_kept = float(
            (self._among_largest.sum(axis=1) < is_outlier.sum(axis=1)).mean()
        )
        """Share of images with outliers that were not kept."""

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

    def features(self, kind: str, draw: int) -> Float[np.ndarray, "n d"]:
        """One vector of every image.

        Args:
          kind: One of `kind_names`.
          draw: Which of the draws, for random patches. An image without an outlier gives its
            largest patch, see `has`.
        """
        if kind == CLS_REGISTER:
            return np.concatenate([self.features(k, draw) for k in (CLS, MEAN_REGISTER)], axis=1)
        vectors: Any = self._tokens.mapped("vectors")  # only what is indexed is read
        if kind == MEAN_REGISTER:
            return np.array(vectors[:, self._has_cls : self._first_patch - 1].mean(axis=1))
        slots: dict[str, Any] = {CLS: 0, MEAN_PATCH: self._first_patch - 1}
        slots |= {f"register_{i}": self._has_cls + i for i in range(self._num_registers)}
        if kind in slots:
            return np.array(vectors[:, slots[kind]])
        return np.array(vectors[np.arange(self.num_images), self._slot(kind, draw)])

    def has(self, kind: str) -> Bool[np.ndarray, " n"]:
        """Whether an image has such a token."""
        has_outlier, has_normal = (
            np.any(self._among_largest, axis=1),
            np.any(self._is_normal, axis=1),
        )
        has_control = np.any(self._among_largest[:, : self._num_controls], axis=1)
        known = {OUTLIER: has_outlier, NORMAL: has_normal, BESIDE: has_outlier & has_normal}
        known |= dict.fromkeys((NEIGHBOUR, EARLY), has_control)
        return known.get(kind, np.ones(self.num_images, bool))

    def _slot(self, kind: str, draw: int) -> Int[np.ndarray, " n"]:
        """Place of a patch in the record."""
        if kind in (NORMAL, BESIDE):
            return self._normal_slot(draw)
        if kind == OUTLIER:
            return self._first_patch + self._outlier(self._among_largest, draw)
        place = self._outlier(self._among_largest[:, : self._num_controls], draw)
        return self._first_control + place + (self._num_controls if kind == EARLY else 0)

    def _outlier(self, among: Bool[np.ndarray, "n k"], draw: int) -> Int[np.ndarray, " n"]:
        """Place among the largest of one of the image's outliers, each as likely as the others.

        Without any, of the largest patch.
        """
        order = np.argsort(~among, axis=1, kind="stable")  # outliers first
        count = np.maximum(among.sum(axis=1), 1)
        drawn = [_generator(self._seed, i, 1 + draw).random() for i in self.indices.tolist()]
        chosen = (np.array(drawn) * count).astype(int)
        place = np.take_along_axis(order, chosen[:, None], axis=1)[:, 0]
        places = self._tokens.read("places")[:, : among.shape[1]]
        largest = np.take_along_axis(self._norms, places, axis=1).argmax(axis=1)
        return np.where(among.any(axis=1), place, largest)

    def _normal_slot(self, draw: int) -> Int[np.ndarray, " n"]:
        """Place in the record of a random patch that is no outlier, another one in each draw."""
        order = np.argsort(~self._is_normal, axis=1, kind="stable")  # as they were drawn
        count = np.maximum(self._is_normal.sum(axis=1), 1)
        place = np.take_along_axis(order, (draw % count)[:, None], axis=1)[:, 0]
        return self._first_patch + self._num_largest + place


def _num_largest(num_patches: int) -> int:
    """How many of the largest patches of an image are kept."""
    return min(num_patches, max(_MIN_LARGEST, round(num_patches * MAX_SHARE)))


def _generator(seed: int, index: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng((seed, index, purpose))
