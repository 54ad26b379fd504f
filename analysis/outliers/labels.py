"""Which patches of a model are outliers? One owner of the labels that all analyses use.

Labels come from one layer: where the verdict on the model finds outliers, the layer in which they
are furthest out; else the last block's. In it every definition of an outlier cuts off its own, the
group that the verdict found among them.

Letters: n images, p patches.
"""

import weakref
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from regvit_jax.analysis.engine.analysis import Quantity
from regvit_jax.analysis.engine.columns import Columns
from regvit_jax.analysis.engine.question import Keep
from regvit_jax.analysis.engine.subjects import Images, Subject
from regvit_jax.analysis.options import LAST, VERDICT, LabelOptions
from regvit_jax.analysis.outliers.definitions import is_above, is_tautological, shares, thresholds
from regvit_jax.analysis.outliers.layers import ModelVerdict, judge_layers
from regvit_jax.analysis.outliers.streams import NORMED, NormColumns, keep_norms
from regvit_jax.analysis.outliers.verdict import Group, members
from regvit_jax.analysis.statistics.bootstrap import Bootstrap, Estimate
from regvit_jax.preprocess import Preprocess
from regvit_jax.tokens import resolve_layers

STRONGEST = "strongest"
"""Where norms are taken, beside `LAST` and `NORMED`: the layer that tells outliers, where that is
not the last block's."""
CHOSEN = "labels"
"""The layer that tells outliers, whichever it is."""
GROUP = "group"
"""The definition of an outlier that the verdict found: belongs to the separate group."""
USUAL = "quantile_98"
"""The definition to lead with where there is no group."""

DEFINITION_LABELS = {
    GROUP: "the group found",
    "quantile_98": "largest 2 %",
    "quantile_99_5": "largest 0.5 %",
    "mean_plus_3sd": "mean + 3 sd",
    "3_x_median": "3 x median",
    "absolute_150": "norm 150",
}
"""What figures and tables call the definitions of an outlier."""
TENSOR_LABELS = {
    LAST: "after the last block",
    STRONGEST: "where outliers are furthest out",
    CHOSEN: "in the layer that tells outliers",
    NORMED: "after the last LayerNorm",
}
WORDS = DEFINITION_LABELS | TENSOR_LABELS
NO_GROUP = {
    "found": "A separate group is found in other layers only",
    "not found": "No separate group is found",
    "cannot tell": "Whether there is a separate group cannot be told",
}
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
    """The norm above which a patch is an outlier; of the group, in an image of median norm."""
    is_outlier: Bool[np.ndarray, "n p"]
    share: Estimate
    """Share of the patches that are outliers; no interval for what is fixed by construction."""

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
        return {"share": self.share} | {k: Estimate(v, num_images) for k, v in counts.items()}

    @property
    def note(self) -> str | None:
        """What a reader must know where one of the groups is empty."""
        if not self.num_outliers:
            return "No patch is an outlier by this definition."
        return None if self.num_normal else "Every patch is an outlier by this definition."


class Labels(NamedTuple):
    """The outliers of one model, by every definition, in the layer that tells them."""

    verdict: ModelVerdict
    layer: int
    """0 enters the first block, l leaves block l - 1."""
    is_last: bool
    by: dict[str, Labelled]

    @property
    def tensor(self) -> str:
        """Where norms are taken, as tables name it."""
        return LAST if self.is_last else STRONGEST

    @property
    def led(self) -> Labelled:
        """The group that was found, or else the usual definition."""
        return self.by.get(GROUP, self.by[USUAL])

    @property
    def group(self) -> Group | None:
        """The group in the chosen layer."""
        return self.verdict.layers[self.layer].group if GROUP in self.by else None

    def marked(self, norms: NormColumns, definition: str = "") -> Bool[np.ndarray, "n p"]:
        """Outliers of other images of the model, by the same layer and cut as these.

        Args:
          norms: Of the other images.
          definition: Of an outlier; the one to lead with unless given.
        """
        by, values = self.by[definition or self.led.definition], norms.patches(self.layer)
        if by.definition == GROUP and self.group is not None:
            return members(values, self.group.cut_ratio)
        return is_above(values, by.cut)

    @property
    def where(self) -> str:
        """The layer in words."""
        return "after the last block" if self.is_last else f"after block {self.layer - 1}"

    @property
    def remark(self) -> str:
        """Which labels these are, for readers."""
        words = DEFINITION_LABELS[self.led.definition]
        if GROUP in self.by:
            return f"Outliers are told by their norm {self.where}; first of all {words}."
        note = "" if self.led.note is None else f" {self.led.note}"
        return (
            f"Outliers are told by their norm {self.where}. {NO_GROUP[self.verdict.answer]}, so "
            f"that “outliers” are only the patches of largest norm ({words}).{note}"
        )

    @property
    def facts(self) -> dict[str, Any]:
        """What results say of the labels."""
        return {
            "labels": self.tensor,
            "outlier_layer": self.layer,
            "where": self.where,
            "definition": self.led.definition,
            "outliers": {"answer": self.verdict.answer, "reason": self.verdict.reason},
        }


class Marked(NamedTuple):
    """A model's norms and outliers, for its comparison with other models."""

    norms: NormColumns
    labels: Labels


def by_one_cut(
    first: Marked, other: Marked
) -> tuple[Bool[np.ndarray, "n p"], Bool[np.ndarray, "n p"]] | None:
    """The outliers of two models by one rule: that of the model with fewer registers.

    A share above a model's own cut says how long its outliers are, not how many. So both models'
    patches count from the same layer and the same number of medians of their image on. None where
    no group was found, or the models have other layers.
    """
    ruling = min(first, other, key=lambda marked: marked.norms.layout.num_registers)
    group, layer = ruling.labels.group, ruling.labels.layer
    if group is None or first.norms.last != other.norms.last:
        return None
    one, two = (members(each.norms.patches(layer), group.cut_ratio) for each in (first, other))
    return one, two


def label_norms(
    subject: Subject, images: Images, options: LabelOptions, preprocess: Preprocess | None = None
) -> Keep:
    """Keeps the norms that labels are made of.

    Raises:
      InputError: If the model has no block that `--outlier-layer` names.
    """
    if (block := options.outlier_block) is not None:
        resolve_layers((block,), subject.config.depth)
    return keep_norms(images, preprocess or subject.preprocess)


def find_labels(norms: NormColumns, bootstrap: Bootstrap, options: LabelOptions) -> Labels:
    """The outliers of a model, by every definition, in the layer that the options name."""
    verdict = model_verdict(norms, bootstrap)
    layer = norms.last
    if options.protocol != "study":
        if options.outlier_block is not None:
            layer = resolve_layers((options.outlier_block,), norms.last)[0] + 1
        elif options.outlier_layer == VERDICT and verdict.strongest is not None:
            layer = verdict.strongest
    found = verdict.layers[layer]
    group = found.group if found.answer == "found" and options.protocol != "study" else None
    by = {each.definition: each for each in labelled(norms.patches(layer), bootstrap, group)}
    return Labels(verdict, layer, layer == norms.last, by)


def labelled(
    norms: Float[np.ndarray, "n p"], bootstrap: Bootstrap, group: Group | None = None
) -> list[Labelled]:
    """The outliers by every published definition, after the group's where there is one."""
    cuts = thresholds(norms)
    found = shares(norms, cuts, bootstrap)
    published = [
        Labelled(name, cut, is_above(norms, cut), _fixed(found[name], name))
        for name, cut in cuts.items()
    ]
    if group is None:
        return published
    is_member = members(norms, group.cut_ratio)
    share = bootstrap.share(is_member.mean(axis=1, dtype=np.float64))
    return [Labelled(GROUP, group.cut, is_member, share), *published]


def _fixed(share: Estimate, definition: str) -> Estimate:
    return Estimate(share.value, share.n) if is_tautological(definition) else share


_VERDICTS: weakref.WeakKeyDictionary[Columns, dict[Bootstrap, ModelVerdict]]
_VERDICTS = weakref.WeakKeyDictionary()


def model_verdict(norms: NormColumns, bootstrap: Bootstrap) -> ModelVerdict:
    """The verdict on a model; analyses that share its norms ask for it once."""
    known = _VERDICTS.setdefault(norms.columns, {})
    if bootstrap not in known:
        streams = (norms.patches(index) for index in range(norms.last + 1))
        known[bootstrap] = judge_layers(streams, norms.layout.grid, norms.convolved, bootstrap)
    return known[bootstrap]
