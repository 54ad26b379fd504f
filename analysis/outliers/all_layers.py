"""Which patches are a model's outliers, told from their norms after every block?

Letters: b images, t tokens, p patches, d channels.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from regvit_jax.analysis.engine.columns import Columns
from regvit_jax.analysis.engine.question import Keep
from regvit_jax.analysis.engine.subjects import Images
from regvit_jax.analysis.outliers.layers import ModelVerdict, judge_layers
from regvit_jax.analysis.outliers.streams import CONVOLVED, l2_norm
from regvit_jax.analysis.statistics.bootstrap import Bootstrap
from regvit_jax.model import ViTTrace
from regvit_jax.preprocess import Preprocess
from regvit_jax.tokens import TokenLayout


def kept_layers(images: Images, preprocess: Preprocess) -> Keep:
    """Keeps the norms of the patches: "convolved", "layer_0" (before the blocks), "layer_1", ..."""
    return Keep(("patch norms of all layers",), images, preprocess, layer_norms)


def layer_norms(trace: ViTTrace, layout: TokenLayout) -> dict[str, Float[Array, "b p"]]:
    """The columns of `kept_layers`."""
    streams = [trace.embedded, *(block.tokens for block in trace.blocks if block is not None)]
    found = {f"layer_{i}": l2_norm(x[:, layout.patches]) for i, x in enumerate(streams)}
    return found | {CONVOLVED: l2_norm(trace.patch_embed)}


def contrast(tokens: Float[Array, "b t d"], layout: TokenLayout) -> Float[Array, "b t"]:
    """Norms of all tokens, in units of the median of their image's patches."""
    norms = l2_norm(tokens)
    median = jnp.median(norms[:, layout.patches], axis=1, keepdims=True)
    return norms / jnp.maximum(median, 1e-12)


def verdict_of(
    layers: Columns, depth: int, grid: tuple[int, int], bootstrap: Bootstrap
) -> ModelVerdict:
    """Whether there are outliers, from the columns of `kept_layers`."""
    streams = (layers.read(f"layer_{i}") for i in range(depth + 1))
    return judge_layers(streams, grid, layers.read(CONVOLVED), bootstrap)


def cut_of(verdict: ModelVerdict) -> tuple[int, float] | None:
    """After which block outliers are furthest out, and from which multiple of the median norm of
    their image on they are outliers there; None where there are none.
    """
    if verdict.strongest is None:
        return None
    group = verdict.layers[verdict.strongest].group
    assert group is not None
    return verdict.strongest - 1, group.cut_ratio
