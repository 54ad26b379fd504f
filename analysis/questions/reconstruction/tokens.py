"""Which tokens do probes learn from, and on which are they judged? Patches and their own pixels.

Both parts of the data are read at the same tensor: the stream after a block, before the last
LayerNorm. Of a training image some patches are kept, drawn at random, and sums over all of them; of
a judged image all patches.

Letters: b and m images, n patches of an image, k drawn ones, d channels, v pixel values of a patch.
"""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped, UInt8

from regvit_jax.analysis.engine.columns import Columns
from regvit_jax.analysis.engine.question import Keep
from regvit_jax.analysis.engine.subjects import Images, Subject
from regvit_jax.analysis.questions.reconstruction.equations import NormalEquations
from regvit_jax.analysis.questions.reconstruction.probes import normalised_patches
from regvit_jax.batches import Batch
from regvit_jax.errors import InputError
from regvit_jax.model import DeiT3, ViTTrace
from regvit_jax.patches import patchify
from regvit_jax.tokens import TokenLayout

HELD_OUT = 0.1
"""Share of the training images on which early stopping looks."""


def layer_patches(layer: int) -> Callable[[ViTTrace, TokenLayout], Float[Array, "b n d"]]:
    """A reduction to the patches of one block's output.

    Args:
      layer: Block from 0.
    """

    def reduce(trace: ViTTrace, layout: TokenLayout) -> Float[Array, "b n d"]:
        chosen = trace.blocks[layer]
        assert chosen is not None
        return chosen.tokens[:, layout.patches].astype(jnp.float32)

    return reduce


def normed_patches(trace: ViTTrace, layout: TokenLayout) -> Float[Array, "b n d"]:
    """A reduction to what leaves the last LayerNorm of a network that runs on patches alone."""
    del layout  # it would skip a CLS token that is not there
    return trace.normed


def patch_tokens(subject: Subject, images: Images, layer: int) -> Keep:
    """Keeps all patches of the images: the columns "tokens" (n, d) and "pixels" (n, v), in bytes.

    Args:
      subject: The model.
      images: The images.
      layer: Block from 0 whose output is kept.
    """
    columns = _with_pixels(subject.config.patch_size)
    key = ("patch tokens", layer)
    reduce = layer_patches(layer)
    return Keep(key, images, subject.preprocess, reduce, columns, blocks=(layer,))


def alone_tokens(subject: Subject, images: Images, network: type[DeiT3]) -> Keep:
    """As `patch_tokens`, of what leaves the last LayerNorm of a network of patches alone."""
    columns = _with_pixels(subject.config.patch_size)
    key = ("patch tokens", "normed")
    preprocess = subject.preprocess
    return Keep(key, images, preprocess, normed_patches, columns, blocks=(), network=network)


def _with_pixels(patch_size: int) -> Callable[[Batch, np.ndarray], dict[str, np.ndarray]]:
    def columns(batch: Batch, tokens: np.ndarray) -> dict[str, np.ndarray]:
        return {"tokens": tokens, "pixels": patchify(batch.pixels, patch_size)}

    return columns


def training_tokens(
    subject: Subject, images: Images, layer: int, tokens_per_image: int, seed: int
) -> Keep:
    """Keeps drawn patches as the columns of `TrainingTokens`, and the sums of `NormalEquations`.

    Args:
      subject: The model.
      images: The training images.
      layer: Block from 0 whose output is kept.
      tokens_per_image: Patches drawn of each image.
      seed: Of the draws.
    """
    size, preprocess = subject.config.patch_size, subject.preprocess

    def columns(batch: Batch, tokens: np.ndarray) -> dict[str, np.ndarray]:
        patches = patchify(batch.pixels, size)
        return drawn_tokens(tokens, patches, batch.indices, tokens_per_image, seed)

    def fold(
        before: Mapping[str, np.ndarray], batch: Batch, tokens: np.ndarray
    ) -> Mapping[str, np.ndarray]:
        targets = np.asarray(normalised_patches(patchify(batch.pixels, size), preprocess))
        flat = (x.reshape(-1, x.shape[-1]) for x in (tokens, targets))
        return NormalEquations(before).plus(*flat).arrays

    key = ("reconstruction tokens", layer, tokens_per_image, seed)
    return Keep(key, images, preprocess, layer_patches(layer), columns, fold, blocks=(layer,))


def drawn_tokens(
    tokens: Float[np.ndarray, "b n d"],
    patches: UInt8[np.ndarray, "b n v"],
    indices: Int[np.ndarray, " b"],
    tokens_per_image: int,
    seed: int,
) -> dict[str, Shaped[np.ndarray, "b ..."]]:
    """Some patches of each image: "tokens" (k, d), "pixels" (k, v), and their "cells" (k).

    Which ones depends on the seed and the image's place in its source.
    """
    cells = np.stack([_drawn(i, tokens.shape[1], tokens_per_image, seed) for i in indices.tolist()])
    return {
        "tokens": np.take_along_axis(tokens, cells[:, :, None], axis=1),
        "pixels": np.take_along_axis(patches, cells[:, :, None], axis=1),
        "cells": cells.astype(np.int32),
    }


def _drawn(index: int, num_patches: int, count: int, seed: int) -> Int[np.ndarray, " k"]:
    if count == num_patches:
        return np.arange(num_patches)
    return np.sort(np.random.default_rng((seed, index)).choice(num_patches, count, replace=False))


class TrainingTokens:
    """The tokens that probes learn from, image by image.

    Args:
      columns: What `training_tokens` keeps.
      seed: Of the choice of held-out images.
    """

    def __init__(self, columns: Columns, seed: int) -> None:
        self._columns, self._seed = columns, seed

    @property
    def tokens_per_image(self) -> int:
        return self._columns.mapped("cells").shape[1]

    def rows(self, name: str, images: Int[np.ndarray, " m"]) -> Shaped[np.ndarray, "m k ..."]:
        """A column of some images."""
        return np.array(self._columns.mapped(name)[images])

    def split(self) -> tuple[Int[np.ndarray, " learned"], Int[np.ndarray, " held"]]:
        """The images to learn from, and those held out for early stopping.

        Raises:
          InputError: If there are too few images.
        """
        total = self._columns.num_rows
        if total < 2:
            raise InputError(f"Probes need at least 2 training images, got {total}.")
        order = np.random.default_rng((self._seed, total)).permutation(total)
        num_held = max(1, round(HELD_OUT * total))
        return np.sort(order[num_held:]), np.sort(order[:num_held])
