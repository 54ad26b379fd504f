"""Which numbers of each analysis does a comparison lead with? One table for all of them.

A path leads from a model's entry in results.json to the number: keys, places in lists, `Where(key,
value)` for the element of a list, and "$key" for the value that the model's entry has there.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Where(NamedTuple):
    """The element of a list whose entry `key` is `value`."""

    key: str
    value: str


Step = str | int | Where


class Headline(NamedTuple):
    """One number that models are compared by."""

    name: str
    """Unlike the others of its analysis."""
    title: str
    path: tuple[Step, ...]
    is_share: bool = True
    """Shown in per cent, differences in points."""
    difference: str | None = None
    """Its name in `comparisons`; None where models are not compared by it."""


def _last_cls(measure: str) -> tuple[Step, ...]:
    return ("layers", -1, "queries", "CLS", measure)


HEADLINES: dict[str, tuple[Headline, ...]] = {
    "norms": (
        Headline("outliers", "outlier tokens", ("verdict", "answer")),
        Headline(
            "share_3_x_median",
            "patches above 3 x the median norm",
            ("shares", "last", "3_x_median"),
            difference="share_above_3_x_median",
        ),
        Headline(
            "share_mean_plus_3sd",
            "patches above mean + 3 sd",
            ("shares", "last", "mean_plus_3sd"),
            difference="share_above_mean_plus_3sd",
        ),
        Headline(
            "max_over_median",
            "largest norm / median",
            ("tests", "last", "max_over_median"),
            is_share=False,
        ),
        Headline(
            "share_below_third",
            "patches below a third of the median norm",
            ("low_tail", "share_below_third"),
        ),
        Headline(
            "excess_kurtosis",
            "excess kurtosis of the norms",
            ("tests", "last", "excess_kurtosis"),
            is_share=False,
        ),
    ),
    "attention": (
        *(
            Headline(name, title, _last_cls(name), is_share, f"cls_{name}")
            for name, title, is_share in (
                ("mass_registers", "attention of CLS on the registers", True),
                ("largest_weight", "largest attention of CLS on a patch", True),
                ("entropy", "entropy of CLS's map (1: even)", False),
            )
        ),
        Headline(
            "mass_outliers",
            "attention of CLS on outlier patches (98 %)",
            ("outlier_mass", "quantile_98", "mass"),
            difference="cls_mass_outliers",
        ),
        Headline(
            "register_maps",
            "cosine of the registers' maps",
            ("layers", -1, "register_maps", "cosine"),
            is_share=False,
            difference="register_maps_cosine",
        ),
    ),
    "similarity": (
        Headline(
            "auc",
            "outliers (98 %) more like their neighbours, AUC",
            ("similarity", "$labels", "quantile_98", "auc"),
            is_share=False,
            difference="quantile_98_auc",
        ),
    ),
    "reconstruction": (
        Headline(
            "r2",
            "R² of pixels, linear probe",
            ("definitions", "quantile_98", "all", "linear", "normalised", "r2_patch_mean"),
            is_share=False,
            difference="quantile_98/all/linear/normalised/r2_patch_mean",
        ),
        Headline(
            "l2_ratio",
            "pixel error, outliers (98 %) / normal patches",
            ("definitions", "quantile_98", "contrast", "linear", "normalised", "l2_ratio"),
            is_share=False,
            difference="quantile_98/contrast/linear/normalised/l2_ratio",
        ),
        Headline(
            "position",
            "position of a patch told rightly",
            ("definitions", "quantile_98", "all", "position", "top1"),
            difference="quantile_98/all/position/top1",
        ),
    ),
    "lost": (
        Headline("corloc", "LOST: CorLoc", ("corloc",), difference="corloc"),
        Headline(
            "best_iou",
            "LOST: best overlap",
            ("mean_best_iou",),
            is_share=False,
            difference="best_iou",
        ),
    ),
    "probe": tuple(
        Headline(
            f"{method}_{kind}",
            title,
            ("kinds", Where("kind", kind), method, "accuracy"),
            difference=f"accuracy_{method}_{kind}",
        )
        for method, kind, title in (
            ("logistic", "cls", "class told by CLS"),
            ("neighbours", "cls", "class told by CLS's nearest neighbours"),
            ("logistic", "mean_patch", "class told by the mean patch"),
            ("logistic", "normal_patch", "class told by a normal patch"),
            ("logistic", "outlier_patch", "class told by an outlier patch"),
            ("logistic", "mean_register", "class told by the mean register"),
            ("logistic", "cls_and_mean_register", "class told by CLS + mean register"),
        )
    ),
}


def find(model: Mapping[str, Any], path: tuple[Step, ...]) -> Any:
    """What a path leads to; None where a step leads nowhere."""
    value: Any = model
    for step in path:
        is_reference = isinstance(step, str) and step.startswith("$")
        value = _follow(value, model.get(str(step)[1:]) if is_reference else step)
    return value


def _follow(value: Any, step: Any) -> Any:
    if isinstance(step, Where):
        rows = value if isinstance(value, list) else []
        return next((row for row in rows if row.get(step.key) == step.value), None)
    if isinstance(value, Mapping):
        return value.get(step)
    if isinstance(value, list) and isinstance(step, int) and -len(value) <= step < len(value):
        return value[step]
    return None
