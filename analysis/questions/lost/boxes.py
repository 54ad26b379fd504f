"""What does LOST leave of each image? Boxes in patches, kept inside a pass over the images.

Letters: b and n images, s settings, p patches of a grid (gh, gw), d channels.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from regvit_jax.analysis.discovery.features import patch_features
from regvit_jax.analysis.discovery.lost import Lost, centred, lost
from regvit_jax.analysis.engine.question import Keep
from regvit_jax.analysis.engine.subjects import Images
from regvit_jax.analysis.questions.lost.rules import Setting
from regvit_jax.batches import Batch
from regvit_jax.model import ViTTrace
from regvit_jax.preprocess import Preprocess
from regvit_jax.tokens import TokenLayout


def kept_boxes(
    images: Images,
    preprocess: Preprocess,
    settings: Sequence[Setting],
    centre_features: bool,
    k: int,
) -> Keep:
    """Keeps the boxes in images of one shape.

    Columns: "boxes", (s, 4), as (x0, y0, x1, y1), half-open, in patches; "seeds", (s), patches;
    "in_mask", (s), whether the seed is in its mask; "attended", the patch to which CLS attends most
    in the last block, mean over the heads; -1 without CLS.
    """

    def reduce(trace: ViTTrace, layout: TokenLayout) -> dict[str, Array]:
        found = _lost(trace, layout, settings, centre_features, k)
        boxes = {
            name: jnp.stack([getattr(one, name) for one in found], axis=1)
            for name in ("boxes", "seeds", "in_mask")
        }
        return boxes | {"attended": _most_attended(trace, layout)}

    key = ("lost", tuple(settings), centre_features, k)
    blocks = (*(setting.layer for setting in settings), -1)
    return Keep(key, images, preprocess, reduce, blocks=blocks, is_needed=False)


def kept_masks(
    images: Images,
    preprocess: Preprocess,
    settings: Sequence[Setting],
    centre_features: bool,
    k: int,
) -> Keep:
    """Keeps what figures show of images of one shape, by the first setting.

    Columns: "mask" and "component", the seed's piece of it, (gh, gw); "pixels", (h, w, 3).
    """
    first = settings[:1]

    def reduce(trace: ViTTrace, layout: TokenLayout) -> tuple[Array, Array]:
        (found,) = _lost(trace, layout, first, centre_features, k)
        return found.mask, found.component

    def columns(batch: Batch, masks: tuple[np.ndarray, np.ndarray]) -> dict[str, np.ndarray]:
        return {"mask": masks[0], "component": masks[1], "pixels": batch.pixels[..., :3]}

    key, blocks = ("lost masks", *first, centre_features, k), (first[0].layer,)
    return Keep(key, images, preprocess, reduce, columns, blocks=blocks, is_needed=False)


def _most_attended(trace: ViTTrace, layout: TokenLayout) -> Int[Array, " b"]:
    last = trace.blocks[-1]
    assert last is not None
    if not layout.has_cls:
        return jnp.full(last.attn.shape[0], -1)
    maps = layout.special(last.attn)[:, :, 0, layout.patches].mean(axis=1)
    return maps.argmax(axis=-1)


def _lost(
    trace: ViTTrace,
    layout: TokenLayout,
    settings: Sequence[Setting],
    centre_features: bool,
    k: int,
) -> list[Lost]:
    """What LOST finds with every setting."""
    found = []
    for setting in settings:
        features = patch_features(trace, layout, setting.layer, setting.feature)
        features = centred(features) if centre_features else features
        found.append(lost(features, layout.grid, setting.gram_bias, k))
    return found
