"""How do boxes of all images come together? LOST inside the one pass over the images of a model."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import einops
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from regvit_jax.analysis.engine.extract import Extractor
from regvit_jax.analysis.engine.subjects import Subject
from regvit_jax.analysis.options import Feature, LostOptions
from regvit_jax.analysis.questions.lost.annotated import Survey
from regvit_jax.analysis.questions.lost.lost import Lost, centred, lost
from regvit_jax.analysis.questions.lost.rules import LostRules, Setting
from regvit_jax.batches import Batch, Batches
from regvit_jax.console import progress
from regvit_jax.errors import InputError
from regvit_jax.model import ViTTrace
from regvit_jax.preprocess import Preprocess
from regvit_jax.source import Source
from regvit_jax.tokens import TokenLayout


class LostRows(NamedTuple):
    """What is kept of each image's trace; s settings, the first with its mask."""

    boxes: Any
    """In patches, (b, s, 4)."""
    seeds: Any
    """Patches, (b, s)."""
    in_mask: Any
    """Whether the seed is in its mask, (b, s)."""
    mask: Any
    """(b, gh, gw)."""
    component: Any
    """(b, gh, gw)."""


class Boxes(NamedTuple):
    """What LOST finds in all images, in patches."""

    indices: Int[np.ndarray, " n"]
    """Of the images in the source, in its order."""
    boxes: Int[np.ndarray, "n s 4"]
    seeds: Int[np.ndarray, "n s"]
    in_mask: Bool[np.ndarray, "n s"]


class ShownMask(NamedTuple):
    """What a figure draws of one image."""

    pixels: np.ndarray
    """What the network saw, (h, w, 3)."""
    mask: Bool[np.ndarray, "gh gw"]
    component: Bool[np.ndarray, "gh gw"]


def patch_features(
    trace: ViTTrace, layout: TokenLayout, layer: int, feature: Feature
) -> Float[Array, "b n d"]:
    """Queries, keys or values of a block's patches, heads side by side.

    They are what the block's fused product gives, with its bias and before any scaling.
    """
    block = trace.blocks[layer]
    if block is None:
        raise ValueError(f"The trace has no block {layer}: it was left out by `layers`.")
    by_head = getattr(block, feature)[:, :, layout.patches]
    return einops.rearrange(by_head, "b k n e -> b n (k e)").astype(jnp.float32)


class LostCollector:
    """LOST's boxes of one model, from what `reduce` leaves of each image."""

    def __init__(
        self, settings: Sequence[Setting], rules: LostRules, k: int, shown: Int[np.ndarray, " m"]
    ) -> None:
        self.settings, self.rules, self.k = tuple(settings), rules, k
        self._shown = set(shown.tolist())
        self._parts: list[Boxes] = []
        self.shown: dict[int, ShownMask] = {}
        """By index in the source."""

    def reduce(self, trace: ViTTrace, layout: TokenLayout) -> LostRows:
        """LOST with every setting; features of the same block are prepared once."""
        found: list[Lost] = []
        for setting in self.settings:
            features = patch_features(trace, layout, setting.layer, setting.feature)
            if self.rules.centre_features:
                features = centred(features)
            found.append(lost(features, layout.grid, setting.gram_bias, self.k))
        return LostRows(
            jnp.stack([one.boxes for one in found], axis=1),
            jnp.stack([one.seeds for one in found], axis=1),
            jnp.stack([one.in_mask for one in found], axis=1),
            found[0].mask,
            found[0].component,
        )

    def add(self, batch: Batch, rows: LostRows) -> None:
        """Keeps the boxes of a batch, and the masks of images that are shown."""
        for i, index in enumerate(batch.indices.tolist()):
            if index in self._shown:
                self.shown[index] = ShownMask(
                    batch.pixels[i, ..., :3].copy(), rows.mask[i].copy(), rows.component[i].copy()
                )
        self._parts.append(Boxes(batch.indices, rows.boxes, rows.seeds, rows.in_mask))

    def boxes(self) -> Boxes:
        """What was found in all images so far.

        Raises:
          InputError: If there were none.
        """
        if not any(len(part.indices) for part in self._parts):
            raise InputError("None of the images can be read.")
        joined = [np.concatenate(columns) for columns in zip(*self._parts, strict=True)]
        order = np.argsort(joined[0])
        return Boxes(*(column[order] for column in joined))


def run_groups(
    subject: Subject,
    options: LostOptions,
    source: Source,
    images: Survey,
    collector: LostCollector,
) -> list[str]:
    """Runs a model over the images, those of one shape together, so that each shape compiles once.

    Returns:
      Messages of the images that turned out unreadable.
    """
    model, params = subject.load(options.seed)
    groups = shape_groups(subject, images, collector.rules)
    parts = [
        Batches(
            source,
            preprocess,
            _even_size(len(indices), options.batch_size),
            indices,
            skip_unreadable=options.skip_unreadable,
        )
        for preprocess, indices in groups.items()
    ]

    def steps() -> Iterator[None]:
        for batches in parts:
            extractor = Extractor(
                model, params, batches.preprocess, batches.batch_size, collector.reduce
            )
            for batch, rows in extractor(batches):
                collector.add(batch, rows)
                yield

    for _ in progress(steps(), sum(map(len, parts)), subject.label):
        pass
    return [message for batches in parts for message in batches.skipped]


def shape_groups(
    subject: Subject, images: Survey, rules: LostRules
) -> dict[Preprocess, Int[np.ndarray, " n"]]:
    """Indices of the images by what becomes of them; few shapes, so few compilations."""
    groups: dict[Preprocess, list[int]] = {}
    for index in images.indices.tolist():
        facts = images.facts[index]
        preprocess = rules.preprocess(subject.preprocess, facts, subject.config.patch_size)
        groups.setdefault(preprocess, []).append(index)
    return {preprocess: np.array(indices) for preprocess, indices in groups.items()}


def _even_size(num_images: int, most: int) -> int:
    """Images of a batch, at most `most`, so that the last one has the least padding."""
    num_batches = -(-num_images // most)
    return -(-num_images // num_batches)
