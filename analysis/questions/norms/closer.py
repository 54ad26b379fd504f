"""What do a few images say that all are too many for? Their tokens, and norms that are planted.

A second, small pass once it is known which patches are outliers: it keeps whole tokens, and runs
the network again with norms planted (`outliers/planted.py`), as a control.

Letters: n images, p patches, d channels.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from regvit_jax.analysis.engine.analysis import Asked, Number, Quantity, Table
from regvit_jax.analysis.engine.columns import Columns
from regvit_jax.analysis.engine.extract import Forward
from regvit_jax.analysis.engine.passes import run_after
from regvit_jax.analysis.engine.question import Keep, Kept
from regvit_jax.analysis.engine.subjects import Subject
from regvit_jax.analysis.outliers import measures
from regvit_jax.analysis.outliers.labels import Labels
from regvit_jax.analysis.outliers.planted import (
    SHARE,
    Control,
    judge_planted,
    places,
    plant,
    planted_block,
)
from regvit_jax.analysis.outliers.streams import NormColumns, token_norms
from regvit_jax.analysis.statistics.bootstrap import Bootstrap, Estimate

NUM_PLANTED = 128
"""Planted patches; as many images as give them (64 of 14 x 14 patches): few prove less."""
CLOSER = Table(
    "closer",
    "Outliers and patches at a closer look, on a few of the images",
    (),
    {
        "per_image": Quantity("outliers in an image, on average"),
        "isolation": Quantity("outliers none of whose neighbours is one", is_share=True),
        "value_ratio": Quantity("norm of outliers' values / of other patches' values"),
        "largest_channels": Quantity(
            "outliers' squared norm in their three largest channels", is_share=True
        ),
        "common_channels": Quantity(
            "of these channels, among the three commonest of all images", is_share=True
        ),
        "effective_rank": Quantity("effective rank of an image's patches, last block"),
        "cls_cosine": Quantity("cosine of CLS and patches before the last LayerNorm"),
        "cls_cosine_normed": Quantity("cosine of CLS and patches after it"),
    },
    on_page=True,
)


class Closer(NamedTuple):
    """What a few images say of one model."""

    numbers: dict[str, Number]
    channels: tuple[int, ...]
    """The commonest of the outliers' largest channels."""
    control: Control | None
    """None for a model of one block, in which nothing can be planted."""


def look_closer(
    subject: Subject, norms: NormColumns, labels: Labels, kept: Kept, asked: Asked
) -> Closer:
    """The numbers of `CLOSER`, and the control."""
    indices = norms.columns.indices
    count = math.ceil(NUM_PLANTED / len(places(norms.layout.grid, SHARE, 0)))
    rows = np.unique(np.linspace(0, len(indices) - 1, count).round().astype(int))
    block = planted_block(subject.config.depth)
    keep = _kept(subject, asked, labels, indices[rows], block)
    columns = run_after("norms", asked.options, subject, {"closer": keep}, kept.folder)["closer"]
    is_outlier = labels.led.is_outlier[np.isin(indices, columns.indices)]
    numbers, channels = _numbers(columns, is_outlier, norms, asked.bootstrap(columns.num_rows))
    control = None
    if block is not None:
        planted = NormColumns(columns, norms.num_layers, norms.layout)
        own = is_outlier if labels.group is not None else np.zeros_like(is_outlier)
        control = judge_planted(planted, block, own)
    return Closer(numbers, channels, control)


def _kept(subject: Subject, asked: Asked, labels: Labels, indices, block: int | None) -> Keep:
    """Tokens and values where outliers are told, and norms of all layers with planted ones."""
    layer = labels.layer
    reader = min(layer, subject.config.depth - 1)  # the block that reads this layer

    def compute(forward: Forward, given: Any) -> Mapping[str, Array]:
        del given
        trace, layout = forward.run(), forward.layout
        blocks = [each for each in trace.blocks if each is not None]
        values = blocks[reader].value[:, :, layout.patches]
        found = {
            "tokens": (blocks[layer - 1].tokens if layer else trace.embedded)[:, layout.patches],
            "values": jnp.sqrt(jnp.square(values).sum(axis=(1, 3))),
            "last": blocks[-1].tokens,
            "normed": trace.normed,
        }
        if block is not None:
            planted = token_norms(forward.run(edit=plant(layout, block)), layout)
            found |= {f"layer_{i}": planted[:, i] for i in range(block + 2, planted.shape[1])}
        return found

    images = asked.images.only(indices)
    return Keep(("closer", layer, block), images, subject.preprocess, compute=compute)


def _numbers(
    columns: Columns, is_outlier, norms: NormColumns, bootstrap: Bootstrap
) -> tuple[dict[str, Number], tuple[int, ...]]:
    layout = norms.layout
    last, normed = columns.read("last"), columns.read("normed")
    massive = measures.massive(columns.read("tokens"), is_outlier)
    by_image = {
        "per_image": measures.number(is_outlier),
        "isolation": measures.isolation(is_outlier, layout.grid),
        "value_ratio": measures.value_ratio(columns.read("values")[..., None], is_outlier),
        "largest_channels": massive.share,
        "effective_rank": measures.effective_rank(last[:, layout.patches]),
    }
    if layout.has_cls:
        for name, tokens in (("cls_cosine", last), ("cls_cosine_normed", normed)):
            cls, patches = tokens[:, layout.cls], tokens[:, layout.patches]
            by_image[name] = measures.cls_cosine(cls.reshape(len(cls), -1), patches)
    numbers: dict[str, Number] = {}
    for name, values in by_image.items():
        known = np.isfinite(values)
        if known.any():
            count = int(known.sum())
            numbers[name] = Bootstrap(count, bootstrap.replicates, bootstrap.seed).mean(
                values[known]
            )
    if np.isfinite(massive.common):
        numbers["common_channels"] = Estimate(massive.common, len(is_outlier))
    return numbers, massive.channels if "largest_channels" in numbers else ()
