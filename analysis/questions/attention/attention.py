"""Where do CLS and the registers look, and how much of their attention do patches get?

A query's attention is one row of a block's softmax: it adds up to 1 over CLS, registers and
patches. A map is the part of a row that falls on the patches, on their grid, not renormalised.
Letters: b images, l blocks, k heads, q = 1 + r queries (CLS, then the registers), n patches.
"""

import dataclasses
import itertools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from regvit_jax.analysis.engine.columns import Columns
from regvit_jax.analysis.engine.question import Keep
from regvit_jax.analysis.engine.subjects import Images
from regvit_jax.analysis.statistics.bootstrap import Bootstrap, Estimate
from regvit_jax.checkpoint import Params
from regvit_jax.model import ViTTrace
from regvit_jax.preprocess import Preprocess
from regvit_jax.tokens import TokenLayout

MEASURES = {
    "entropy": "entropy of the attention on patches, in units of log n (1: even)",
    "largest_weight": "largest attention weight on one patch",
    "largest_times_even": "largest attention on a patch, in units of even attention",
    "mass_cls": "share of the attention on CLS",
    "mass_registers": "share of the attention on the registers",
    "mass_patches": "share of the attention on the patches",
}


def attention_rows(images: Images, preprocess: Preprocess, layer: int) -> Keep:
    """Keeps the measures of all blocks, and the head-averaged maps of one.

    Columns: each of `MEASURES`, (l, q); "similarity", (l, 2); "maps", (q, n), the attention on
    patches in the block `layer`; "received", (n), what each patch gets there. For the small variant
    they are 6 kB an image on disk.
    """

    def reduce(trace: ViTTrace, layout: TokenLayout) -> dict[str, Array]:
        rows = _rows(trace, layout)
        mean = jnp.stack([row.mean(axis=1) for row in rows], axis=1)
        similarity = register_similarity(mean[..., layout.registers, layout.patches])
        maps = mean[:, layer, :, layout.patches]
        kept = {"similarity": similarity, "maps": maps}
        return measures(mean, layout) | kept | {"received": received(trace, layout, layer)}

    return Keep(("attention", layer), images, preprocess, reduce)


def received(trace: ViTTrace, layout: TokenLayout, layer: int) -> Float[Array, "b n"]:
    """What every patch gets of the attention of all tokens, mean over queries and heads."""
    block = trace.blocks[layer]
    assert block is not None
    return block.attn[..., layout.patches].mean(axis=(1, 2))


def attention_maps(images: Images, preprocess: Preprocess, layer: int) -> Keep:
    """Keeps the maps of every head in one block, as the column "maps", (k, q, n)."""

    def reduce(trace: ViTTrace, layout: TokenLayout) -> dict[str, Array]:
        return {"maps": _rows(trace, layout)[layer][..., layout.patches]}

    return Keep(("attention maps", layer), images, preprocess, reduce, is_needed=False)


def _rows(trace: ViTTrace, layout: TokenLayout) -> list[Float[Array, "b k q t"]]:
    """The attention of CLS and the registers, block by block."""
    return [layout.special(block.attn) for block in trace.blocks if block]


def measures(
    rows: Float[Array, "b l q t"], layout: TokenLayout
) -> dict[str, Float[Array, "b l q"]]:
    """The numbers of `MEASURES`, of every query in every block."""
    on_patches = rows[..., layout.patches]
    mass = on_patches.sum(axis=-1)
    share = on_patches / jnp.maximum(mass, 1e-12)[..., None]
    entropy = -(share * jnp.log(jnp.maximum(share, 1e-12))).sum(axis=-1)
    return {
        "entropy": entropy / max(np.log(layout.num_patches), 1e-12),
        "largest_weight": on_patches.max(axis=-1),
        "largest_times_even": share.max(axis=-1) * layout.num_patches,
        "mass_cls": rows[..., layout.cls].sum(axis=-1),
        "mass_registers": rows[..., layout.registers].sum(axis=-1),
        "mass_patches": mass,
    }


def register_similarity(maps: Float[Array, "b l r n"]) -> Float[Array, "b l 2"]:
    """Mean over pairs of registers of their maps' cosine, plain and after removing each mean.

    Attention is never negative, so the plain cosine (the study's) is high by construction.
    """
    if maps.shape[-2] < 2:
        return jnp.zeros((*maps.shape[:2], 2))
    centred = maps - maps.mean(axis=-1, keepdims=True)
    return jnp.stack([_mean_pair_cosine(maps), _mean_pair_cosine(centred)], axis=-1)


def _mean_pair_cosine(maps):
    length = jnp.sqrt(jnp.square(maps).sum(axis=-1, keepdims=True))
    unit = maps / jnp.maximum(length, 1e-12)
    cosines = jnp.einsum("blrn,blsn->blrs", unit, unit, precision="highest")
    first, second = np.triu_indices(maps.shape[-2], k=1)
    return cosines[..., first, second].mean(axis=-1)


def embedding_similarity(params: Params) -> float | None:
    """Mean cosine of the pairs of learned register embeddings; None below two registers."""
    if "reg_tokens" not in params:
        return None
    tokens = np.asarray(params["reg_tokens"], np.float64)[0]
    if len(tokens) < 2:
        return None
    unit = tokens / np.maximum(np.linalg.norm(tokens, axis=1, keepdims=True), 1e-12)
    return float(
        np.mean([unit[i] @ unit[j] for i, j in itertools.combinations(range(len(unit)), 2)])
    )


@dataclasses.dataclass(frozen=True)
class AttentionSummary:
    """All that is reported on the attention of one model."""

    num_images: int
    queries: list[str]
    measures: dict[str, list[list[Estimate]]]
    """By measure, block and query."""
    register_maps: list[tuple[Estimate, Estimate]] | None
    """By block: cosine and centred cosine of the register maps; None below two registers."""
    register_embeddings: float | None
    """Mean pairwise cosine of the register embeddings."""
    average_map: np.ndarray
    """Average map of the chosen block, (q, gh, gw)."""


def summarise_attention(
    rows: Columns,
    layout: TokenLayout,
    register_embeddings: float | None,
    bootstrap: Bootstrap,
) -> AttentionSummary:
    """Means over the images with intervals.

    Args:
      rows: What `attention_rows` keeps.
      layout: Of the tokens.
      register_embeddings: Mean pairwise cosine of the register embeddings.
      bootstrap: Of the images.
    """
    similarity = None
    if layout.num_registers > 1:
        similarity = [(row[0], row[1]) for row in _means(rows.read("similarity"), bootstrap)]
    queries = list(layout.special_names)
    return AttentionSummary(
        num_images=rows.num_rows,
        queries=queries,
        measures={name: _means(rows.read(name), bootstrap) for name in MEASURES},
        register_maps=similarity,
        register_embeddings=register_embeddings,
        average_map=_average_map(rows).reshape(len(queries), *layout.grid),
    )


def cls_maps(rows: Columns) -> Float[np.ndarray, "n p"]:
    """CLS's attention on every patch in the chosen block, mean over the heads."""
    return np.array(rows.mapped("maps")[:, 0])


def compared_features(rows: Columns, num_registers: int) -> dict[str, Float[np.ndarray, " n"]]:
    """For every image: what models are compared by in the last block.

    Args:
      rows: What `attention_rows` keeps.
      num_registers: Two or more have maps that can be alike.
    """
    found = {f"cls_{name}": np.array(rows.mapped(name)[:, -1, 0]) for name in MEASURES}
    if num_registers > 1:
        cosines = np.array(rows.mapped("similarity")[:, -1])
        found |= {"register_maps_cosine": cosines[:, 0]}
        found |= {"register_maps_centred_cosine": cosines[:, 1]}
    return found


def _average_map(rows: Columns) -> Float[np.ndarray, "q n"]:
    """The mean over the images of the head-averaged maps."""
    sums = [maps.sum(axis=0, dtype=np.float64) for (maps,) in rows.blocks("maps")]
    return np.sum(sums, axis=0) / rows.num_rows


def _means(values: Float[np.ndarray, "n l q"], bootstrap: Bootstrap) -> list[list[Estimate]]:
    num_layers, num_queries = values.shape[1:]
    flat = bootstrap.statistic(values.reshape(len(values), -1), lambda means: means)
    return [flat[i * num_queries : (i + 1) * num_queries] for i in range(num_layers)]
