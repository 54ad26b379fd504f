"""Which patches of a model are outliers? Their norms, kept once, and the labels by definition.

Letters: b and n images, p patches.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from regvit_jax.analysis.engine.analysis import Quantity
from regvit_jax.analysis.engine.question import Keep
from regvit_jax.analysis.engine.subjects import Images
from regvit_jax.analysis.outliers.definitions import is_above, is_tautological, shares, thresholds
from regvit_jax.analysis.statistics.bootstrap import Bootstrap, Estimate
from regvit_jax.model import ViTTrace
from regvit_jax.preprocess import Preprocess
from regvit_jax.tokens import TokenLayout

LAST, NORMED, CONVOLVED = "last", "normed", "convolved"
"""Where norms are taken: after the last block, after the last LayerNorm, and after the patch
convolution, before positions (what the pixels alone do)."""


DEFINITION_LABELS = {
    "quantile_98": "largest 2 %",
    "quantile_99_5": "largest 0.5 %",
    "mean_plus_3sd": "mean + 3 sd",
    "3_x_median": "3 x median",
    "absolute_150": "norm 150",
}
"""What figures and tables call the definitions of an outlier."""
TENSOR_LABELS = {LAST: "after the last block", NORMED: "after the last LayerNorm"}
WORDS = DEFINITION_LABELS | TENSOR_LABELS
LABEL_QUANTITIES = {
    "share": Quantity("patches that are outliers", is_share=True),
    "cut": Quantity("norm above which a patch is an outlier"),
    "num_normal": Quantity("patches that are no outliers", on_page=False),
    "num_outliers": Quantity("patches that are outliers, in all images", on_page=False),
}
"""Numbers of each definition of an outlier, for the tables of every analysis that uses them."""


class Labelled(NamedTuple):
    """The patches of all images, by one definition of an outlier."""

    definition: str
    cut: float
    """The norm above which a patch is an outlier."""
    is_outlier: Bool[np.ndarray, "n p"]
    share: Estimate
    """Share of the patches that are outliers."""

    @property
    def num_outliers(self) -> int:
        """Patches."""
        return int(self.is_outlier.sum())

    @property
    def num_normal(self) -> int:
        """Patches that are no outliers."""
        return self.is_outlier.size - self.num_outliers

    @property
    def numbers(self) -> dict[str, Estimate]:
        """The numbers of `LABEL_QUANTITIES`."""
        num_images = len(self.is_outlier)
        counts = {"cut": self.cut, "num_normal": self.num_normal, "num_outliers": self.num_outliers}
        share = self.share
        if is_tautological(self.definition):  # no interval for what is fixed by construction
            share = Estimate(share.value, share.n)
        return {"share": share} | {k: Estimate(v, num_images) for k, v in counts.items()}

    @property
    def note(self) -> str | None:
        """What a reader must know where one of the groups is empty."""
        if not self.num_outliers:
            return "No patch is an outlier by this definition."
        return None if self.num_normal else "Every patch is an outlier by this definition."


def labelled(norms: Float[np.ndarray, "n p"], bootstrap: Bootstrap) -> list[Labelled]:
    """The outliers by every published definition."""
    cuts = thresholds(norms)
    found = shares(norms, cuts, bootstrap)
    return [Labelled(name, cut, is_above(norms, cut), found[name]) for name, cut in cuts.items()]


def patch_norms(images: Images, preprocess: Preprocess) -> Keep:
    """Keeps the norms of all patches, as the columns "last", "normed" and "convolved"."""
    return Keep(("patch norms",), images, preprocess, _patch_norms, blocks=(-1,))


def _patch_norms(trace: ViTTrace, layout: TokenLayout) -> dict[str, Float[Array, "b p"]]:
    return {
        LAST: last_norms(trace, layout),
        NORMED: l2_norm(trace.normed[:, layout.patches]),
        CONVOLVED: l2_norm(trace.patch_embed),
    }


def last_norms(trace: ViTTrace, layout: TokenLayout) -> Float[Array, "b p"]:
    """Norms of the patches after the last block, before the last LayerNorm."""
    last = trace.blocks[-1]
    assert last is not None
    return l2_norm(last.tokens[:, layout.patches])


def l2_norm(tokens: Float[Array, "*b d"]) -> Float[Array, "*b"]:
    """The L2 norm over the channels, accumulated in float32."""
    return jnp.sqrt(jnp.sum(jnp.square(tokens.astype(jnp.float32)), axis=-1))
