"""Where do CLS and the registers look, and how much of their attention do patches get?

A query's attention is one row of a block's softmax: it adds up to 1 over CLS, registers and
patches. A map is the part of a row that falls on the patches, on their grid, not renormalised.
Letters: b images, l blocks, k heads, q = 1 + r queries (CLS, then the registers), n patches.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from regvit_jax.analysis.questions.attention.on_outliers import OutlierMass, OutlierMassStore
from regvit_jax.analysis.questions.norms.norms import last_norms
from regvit_jax.analysis.statistics.bootstrap import Bootstrap, Estimate
from regvit_jax.checkpoint import Params
from regvit_jax.config import ViTConfig
from regvit_jax.model import ViTTrace
from regvit_jax.tokens import TokenLayout

MEASURES = {
    "entropy": "entropy of the attention on patches, in units of log n (1: even)",
    "largest_weight": "largest attention weight on one patch",
    "mass_cls": "share of the attention on CLS",
    "mass_registers": "share of the attention on the registers",
    "mass_patches": "share of the attention on the patches",
}

COMPARED_DEFINITION = "quantile_98"
"""Of an outlier, where models are compared: of each one as many patches."""


class Rows(NamedTuple):
    """What is kept of the attention of a batch."""

    measures: Mapping[str, Float[Array, "b l q"]]
    """Of the head-averaged rows of each block."""
    similarity: Float[Array, "b l 2"]
    """Mean cosine, and mean centred cosine, of the pairs of register maps; 0 below 2 registers."""
    maps: Float[Array, "b k q n"]
    """Attention on patches in the chosen block, head by head."""
    norms: Float[Array, "b n"]
    """Of the patches after the last block."""


def attention_rows(layer: int) -> Callable[[ViTTrace, TokenLayout], Rows]:
    """A reduction that measures all blocks and keeps the maps of one.

    Args:
      layer: Block whose maps are kept, from 0.
    """

    def reduce(trace: ViTTrace, layout: TokenLayout) -> Rows:
        rows = [layout.special(block.attn) for block in trace.blocks if block]
        mean = jnp.stack([row.mean(axis=1) for row in rows], axis=1)
        return Rows(
            measures(mean, layout),
            register_similarity(mean[..., layout.registers, layout.patches]),
            rows[layer][..., layout.patches],
            last_norms(trace, layout),
        )

    return reduce


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


def query_names(config: ViTConfig) -> list[str]:
    """What the rows of attention are called: CLS, then the registers."""
    return ["CLS", *(f"register {i}" for i in range(config.num_registers))]


class Accumulator:
    """Adds up the attention of a data set: a few numbers an image, and one average map.

    CLS's maps and the norms wait in files, 1.6 kB an image for the small variant, until `close`.
    """

    def __init__(self) -> None:
        self._measures: list[Any] = []
        self._similarity: list[Any] = []
        self._map_sum: Any = 0.0
        self._outliers: OutlierMassStore | None = None
        self.num_images = 0

    def __enter__(self) -> "Accumulator":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._outliers is not None:
            self._outliers.close()

    def add(self, rows: Rows) -> None:
        """Takes in one batch."""
        self._measures.append(rows.measures)
        self._similarity.append(rows.similarity)
        mean = np.asarray(rows.maps).mean(axis=1)
        self._map_sum = self._map_sum + mean.sum(axis=0, dtype=np.float64)
        if self._outliers is None:
            self._outliers = OutlierMassStore(mean.shape[-1])
        self._outliers.add(np.asarray(rows.norms), mean[:, 0])
        self.num_images += rows.maps.shape[0]

    def per_image(self, measure: str) -> Float[np.ndarray, "n l q"]:
        """One measure of all images."""
        return np.concatenate([batch[measure] for batch in self._measures])

    def similarity(self) -> Float[np.ndarray, "n l 2"]:
        """Register-map similarity of all images."""
        return np.concatenate(self._similarity)

    @property
    def outliers(self) -> OutlierMassStore:
        """Norms of the patches, and how much of CLS's attention each gets."""
        assert self._outliers is not None
        return self._outliers

    def average_map(self) -> Float[np.ndarray, "q n"]:
        """The mean over the images of the head-averaged maps."""
        return self._map_sum / self.num_images


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
    outlier_mass: dict[str, OutlierMass]
    """By definition of an outlier: CLS's attention on them, in the chosen block."""
    average_map: np.ndarray
    """Of the chosen block, (q, gh, gw)."""


def summarise_attention(
    accumulator: Accumulator,
    layout: TokenLayout,
    queries: Sequence[str],
    register_embeddings: float | None,
    bootstrap: Bootstrap,
) -> AttentionSummary:
    """Means over the images with intervals."""
    by_measure = {name: _means(accumulator.per_image(name), bootstrap) for name in MEASURES}
    similarity = None
    if layout.num_registers > 1:
        similarity = [(row[0], row[1]) for row in _means(accumulator.similarity(), bootstrap)]
    return AttentionSummary(
        num_images=accumulator.num_images,
        queries=list(queries),
        measures=by_measure,
        register_maps=similarity,
        register_embeddings=register_embeddings,
        outlier_mass=accumulator.outliers.summarise(bootstrap),
        average_map=accumulator.average_map().reshape(len(queries), *layout.grid),
    )


def compared_features(
    accumulator: Accumulator, masses: Float[np.ndarray, "n 2"], num_registers: int
) -> dict[str, Float[np.ndarray, " n"]]:
    """Of every image: what models are compared by; all but the outliers' in the last block.

    Args:
      accumulator: The images.
      masses: CLS's attention on outliers and on all patches.
      num_registers: Two or more have maps that can be alike.
    """
    found = {f"cls_{name}": accumulator.per_image(name)[:, -1, 0] for name in MEASURES}
    found["cls_mass_outliers"] = masses[:, 0]
    if num_registers > 1:
        cosines = accumulator.similarity()[:, -1]
        found |= {"register_maps_cosine": cosines[:, 0]}
        found |= {"register_maps_centred_cosine": cosines[:, 1]}
    return found


def _means(values: Float[np.ndarray, "n l q"], bootstrap: Bootstrap) -> list[list[Estimate]]:
    num_layers, num_queries = values.shape[1:]
    flat = bootstrap.statistic(values.reshape(len(values), -1), lambda means: means)
    return [flat[i * num_queries : (i + 1) * num_queries] for i in range(num_layers)]
