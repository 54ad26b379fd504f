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


def _probed(kind: str, title: str) -> list[Headline]:
    methods = {"logistic": "accuracy", "neighbours": "accuracy of the neighbours"}
    return [
        Headline(
            f"{method}_{kind}",
            f"{title}: {words}",
            ("kinds", Where("kind", kind), method, "accuracy"),
            difference=f"accuracy_{method}_{kind}",
        )
        for method, words in methods.items()
    ]


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
                ("mass_outliers", "attention of CLS on outlier patches", True),
                ("entropy", "entropy of CLS's map (1: even)", False),
            )
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
        headline
        for kind, title in (
            ("cls", "CLS"),
            ("mean_patch", "mean patch"),
            ("normal_patch", "normal patch"),
            ("outlier_patch", "outlier patch"),
            ("mean_register", "mean register"),
            ("cls_and_mean_register", "CLS + mean register"),
        )
        for headline in _probed(kind, title)
    ),
}


def find(model: Mapping[str, Any], path: tuple[Step, ...]) -> Any:
    """What a path leads to; None where a step leads nowhere."""
    value: Any = model
    for step in path:
        value = _follow(value, model.get(step[1:]) if _is_reference(step) else step)
    return value


def _is_reference(step: Step) -> bool:
    return isinstance(step, str) and step.startswith("$")


def _follow(value: Any, step: Any) -> Any:
    if isinstance(step, Where):
        rows = value if isinstance(value, list) else []
        return next((row for row in rows if row.get(step.key) == step.value), None)
    if isinstance(value, Mapping):
        return value.get(step)
    if isinstance(value, list) and isinstance(step, int) and -len(value) <= step < len(value):
        return value[step]
    return None
