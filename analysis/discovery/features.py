"""Which features of patches tell where an object is?"""

from typing import Literal

import einops
import jax.numpy as jnp
from jaxtyping import Array, Float

from regvit_jax.analysis.engine.subjects import Subject
from regvit_jax.model import ViTTrace
from regvit_jax.tokens import TokenLayout

Feature = Literal["query", "key", "value"]

FEATURE_RULE = (
    "Values for DeiT, keys for DINO and DINOv2, unless --feature names another: the choice of "
    "arXiv:2309.16588 for supervised and of arXiv:2109.14279 for self-supervised models, made "
    "before any score was seen."
)


def default_feature(subject: Subject) -> Feature:
    """The feature that `FEATURE_RULE` chooses."""
    family = str(subject.info.source.get("family", ""))
    is_headless_dino = subject.config.patch_size == 14 and not subject.config.num_classes
    return "key" if "dino" in family or is_headless_dino else "value"


def patch_features(
    trace: ViTTrace, layout: TokenLayout, layer: int, feature: Feature
) -> Float[Array, "b p d"]:
    """Queries, keys or values of a block's patches, heads side by side.

    They are what the block's fused product gives, with its bias and before any scaling.
    """
    block = trace.blocks[layer]
    if block is None:
        raise ValueError(f"The trace has no block {layer}: it was left out by `layers`.")
    by_head = getattr(block, feature)[:, :, layout.patches]
    return einops.rearrange(by_head, "b k p e -> b p (k e)").astype(jnp.float32)
