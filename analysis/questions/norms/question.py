"""How large is each token in each layer? What is kept, measured and drawn for it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from regvit_jax.analysis.engine.analysis import (
    Analysis,
    Asked,
    Drawn,
    Key,
    Lead,
    Measured,
    Model,
    Number,
    Told,
    paired,
)
from regvit_jax.analysis.engine.epochs import training_runs
from regvit_jax.analysis.engine.question import Keep, Kept, shown_pixels
from regvit_jax.analysis.engine.subjects import Subject, choose_shown
from regvit_jax.analysis.options import LAST
from regvit_jax.analysis.outliers.definitions import is_tautological
from regvit_jax.analysis.outliers.labels import (
    GROUP,
    STRONGEST,
    TENSOR_LABELS,
    Labels,
    Marked,
    by_one_cut,
    find_labels,
    label_norms,
)
from regvit_jax.analysis.outliers.streams import NormColumns
from regvit_jax.analysis.outliers.verdict import Verdict
from regvit_jax.analysis.plotting.epochs import Curves, curves_figure
from regvit_jax.analysis.questions.norms.closer import CLOSER, Closer, look_closer
from regvit_jax.analysis.questions.norms.figures import (
    NormPanel,
    ShownImage,
    by_layer_figure,
    histogram_figure,
    low_tail_figure,
    maps_figure,
    positions_figure,
)
from regvit_jax.analysis.questions.norms.norms import (
    NormSummary,
    creator,
    summarise,
)
from regvit_jax.analysis.questions.norms.options import NormsOptions
from regvit_jax.analysis.questions.norms.tables import (
    BY_LAYER,
    BY_ONE_CUT,
    EXTREMES,
    OUTLIERS,
    TESTS,
)
from regvit_jax.analysis.statistics.bootstrap import Bootstrap, Estimate


class Summarised(NamedTuple):
    """What figures and differences are made of."""

    summary: NormSummary
    marked: Marked
    maps: dict[str, tuple[np.ndarray, np.ndarray]]
    """Of the shown images, by name: pixels, and norms in medians of each layer, (l, gh, gw)."""


def keeps(subject: Subject, asked: Asked) -> dict[str, Keep]:
    """The norms of every layer, and the pixels of the images that are shown."""
    images = asked.images
    shown = choose_shown(asked.options, images.source, images.indices)
    return {
        "norms": label_norms(subject, images, asked.options),
        "shown": shown_pixels(images, subject.preprocess, shown),
    }


def measure(subject: Subject, kept: Kept, asked: Asked) -> Measured:
    """Norms by layer, outliers by definition, and the verdict."""
    norms = NormColumns.of(subject, kept["norms"])
    layout, bootstrap = norms.layout, asked.bootstrap(norms.num_images)
    labels = find_labels(norms, bootstrap, asked.options)
    summary = summarise(norms, labels, bootstrap)
    numbers: dict[Key, Number] = {
        (BY_LAYER.name, row.layer, row.kind, name): estimate
        for row in summary.layers
        for name, estimate in row.values.items()
    }
    numbers |= _outlier_numbers(summary, bootstrap)
    numbers |= _test_numbers(summary)
    numbers |= _extreme_numbers(norms, summary, bootstrap)
    closer = None if subject.is_twin else look_closer(subject, norms, labels, kept, asked)
    if closer is not None:
        numbers |= {(CLOSER.name, name): number for name, number in closer.numbers.items()}
    shown = kept["shown"]
    rows = np.searchsorted(kept["norms"].indices, shown.indices)
    layers = (norms.patches(index) for index in range(norms.last + 1))
    by_layer = np.stack([layer[rows] / np.median(layer) for layer in layers], axis=1)
    by_image = zip(shown.indices.tolist(), shown.read("pixels"), by_layer, strict=True)
    maps = {
        asked.images.named(index): (pixels, values.reshape(-1, *layout.grid))
        for index, pixels, values in by_image
    }
    verdict = (labels.verdict.answer, labels.verdict.reason)
    return Measured(
        *(norms.num_images, numbers, _facts(summary, closer)),
        verdict=verdict,
        remarks=_remarks(summary, closer),
        drawn=Summarised(summary, Marked(norms, labels), maps),
    )


def _outlier_numbers(summary: NormSummary, bootstrap: Bootstrap) -> dict[Key, Number]:
    """The outliers of every definition, by tensor."""
    numbers: dict[Key, Number] = {}
    for tensor, by_definition in summary.by.items():
        for by in by_definition.values():
            place = (OUTLIERS.name, tensor, by.definition)
            numbers |= {(*place, name): number for name, number in by.numbers.items()}
            if not is_tautological(by.definition):
                shares = by.is_outlier.mean(axis=1)[:, None]
                resampled = bootstrap.resampled(shares, lambda means: means)[0]
                numbers[*place, "share"] = Told(by.share, resampled)
            per_image = by.share.value * summary.num_patches
            numbers[*place, "per_image"] = Estimate(per_image, summary.num_images)
    return numbers


def _test_numbers(summary: NormSummary) -> dict[Key, Number]:
    return {
        (TESTS.name, tensor, name): estimate
        for tensor, tests in summary.tests.items()
        for name, value in tests.items()
        if (estimate := Estimate.of(value)) is not None
    }


def _extreme_numbers(
    norms: NormColumns, summary: NormSummary, bootstrap: Bootstrap
) -> dict[Key, Number]:
    last, tail = norms.patches(-2), summary.low_tail
    largest = (last.max(axis=1) / np.median(last))[:, None]
    numbers: dict[str, Number] = {
        "largest_over_median": bootstrap.resampled(largest, lambda means: means)[0],
        "share_below_third": tail.share_below_third,
        "min_over_median": Estimate(tail.min_over_median, norms.num_images),
        "q02_over_median": Estimate(tail.q02_over_median, norms.num_images),
    }
    return {(EXTREMES.name, name): number for name, number in numbers.items()}


def _facts(summary: NormSummary, closer: Closer | None) -> dict[str, Any]:
    return {
        "grid": summary.grid,
        "group": None if summary.labels.group is None else summary.labels.group._asdict(),
        "strongest_layer": summary.labels.verdict.strongest,
        "verdict_by_layer": [
            {"answer": v.answer, "reason": v.reason, "group": _group(v)} for v in summary.verdicts
        ],
        "emergence": summary.emergence,
        "origin": summary.origin and [stage._asdict() for stage in summary.origin],
        "map_of_the_smallest": summary.low_tail.map_q02,
        **_control_facts(closer),
        "outlier_map": {"cut_ratio": summary.drawn_ratio, "share_of_images": summary.map},
        **{k: v for k, v in summary.labels.facts.items() if k not in ("outliers", "labels")},
    }


def _control_facts(closer: Closer | None) -> dict[str, Any]:
    if closer is None:
        return {}
    control = None if closer.control is None else closer.control._asdict()
    return {"planted_control": control, "commonest_channels": closer.channels}


def _group(verdict: Verdict) -> dict[str, Any] | None:
    return None if verdict.group is None else verdict.group._asdict()


def _remarks(summary: NormSummary, closer: Closer | None) -> list[str]:
    remarks = [summary.labels.remark]
    if closer is not None and closer.control is not None:
        remarks.append(closer.control.sentence)
    if summary.labels.group is None or summary.origin is None:
        return remarks
    made = creator(summary.origin)
    words = {"attention": "attention", "mlp": "MLP"}[made.sublayer]
    return [*remarks, f"Most become large in the {words} of block {made.block} (from 0)."]


def differences(
    analysis: Analysis, first: Model, other: Model, asked: Asked
) -> Mapping[Key, Estimate]:
    """All that is compared; and the share of outliers in both by one cut."""
    found = paired(analysis, first, other, asked)
    masks = by_one_cut(first.measured.drawn.marked, other.measured.drawn.marked)
    if masks is not None:
        one, two = (mask.mean(axis=1, dtype=np.float64) for mask in masks)
        found[BY_ONE_CUT.name, "share"] = asked.bootstrap(len(one)).mean(two - one)
    return found


def facts(models: Sequence[Model], asked: Asked) -> dict[str, Any]:
    """What the untrained control says."""
    del asked
    twins = [model for model in models if model.subject.is_twin]
    if not twins:
        return {"remarks": ["No untrained model was measured as a control (--twin)."]}
    found = [m.subject.label for m in twins if m.measured.drawn.summary.answer == "found"]
    if found:
        words = f"outliers are found in {', '.join(found)}: they are no effect of training."
        return {"remarks": [f"The untrained control: {words}"]}
    return {"remarks": ["The untrained control: no outliers are found, as it should be."]}


def lead(options: NormsOptions) -> list[Lead]:
    """Patches above the fixed thresholds, and the tail's extent."""
    del options
    return [
        *(
            Lead((OUTLIERS.name, tensor, GROUP, "share"), f"outliers found {TENSOR_LABELS[tensor]}")
            for tensor in (LAST, STRONGEST)
        ),
        Lead((OUTLIERS.name, LAST, "3_x_median", "share"), "patches above 3 x the median norm"),
        Lead((OUTLIERS.name, LAST, "mean_plus_3sd", "share"), "patches above mean + 3 sd"),
        Lead((BY_ONE_CUT.name, "share"), "patches that are outliers, by one cut"),
        Lead((TESTS.name, LAST, "max_over_median"), "largest norm / median"),
        Lead((EXTREMES.name, "share_below_third"), "patches below a third of the median norm"),
        Lead((TESTS.name, LAST, "excess_kurtosis"), "excess kurtosis of the norms"),
    ]


def subjects(checkpoints: Sequence[Subject], asked: Asked) -> list[Subject]:
    """The checkpoints, and one untrained model for each of their configurations."""
    twins: dict[Any, Subject] = {}
    for subject in checkpoints if asked.options.twin else ():
        twins.setdefault((subject.config, subject.preprocess), subject.twin())
    return [*checkpoints, *twins.values()]


def figures(models: Sequence[Model], asked: Asked) -> list[Drawn]:
    """By layer, histogram, maps, where small and large norms sit, and over training."""
    del asked
    panels = [
        NormPanel(m.subject.title, m.measured.drawn.summary, m.subject.is_twin) for m in models
    ]
    drawn = [
        Drawn(
            "norms_by_layer",
            "Token norms by layer",
            "Bands: norms of the patches of all images; lines: medians over the images. "
            "Norms are taken before the last LayerNorm.",
            by_layer_figure(panels),
        ),
        Drawn(
            "norms_histogram",
            "Patch norms after the last block",
            "All patches of all images, in units of the model's median. A percentile always "
            "cuts off the same share; outliers need a group of their own.",
            histogram_figure(panels),
        ),
        *_map_figures([model for model in models if not model.subject.is_twin]),
        Drawn(
            "norm_low_tail",
            "Where small norms sit",
            "Share of images in which the patch at this place has one of the model's 2 % smallest "
            "norms after the last block. Evenly spread, every place would have 2 %.",
            low_tail_figure(panels),
        ),
        *_training_figures(models),
    ]
    large = [p for p in panels if not p.is_twin and p.summary.emergence is not None]
    if large:
        drawn.append(
            Drawn(
                "norm_positions",
                "Where and when large norms appear",
                "Above: share of images whose patch at this place has a large norm, in the layer "
                "where outliers are furthest out (after the last block where none are found). "
                "Below: share of these patches that are as far from the median of their image in "
                "each layer; half a block is between its attention and its MLP.",
                positions_figure(large),
            )
        )
    return drawn


def _map_figures(checkpoints: Sequence[Model]) -> list[Drawn]:
    found: list[Summarised] = [model.measured.drawn for model in checkpoints]
    telling = _telling(found)
    layers = [telling.layer if telling else each.marked.norms.last for each in found]
    images = [
        ShownImage(name, pixels, [e.maps[name][1][i] for e, i in zip(found, layers, strict=True)])
        for name, (pixels, _) in found[0].maps.items()
    ]
    if not images:
        return []
    titles = [model.subject.title for model in checkpoints]
    where = telling.where if telling else "after the last block"
    figure = maps_figure(images, titles, [each.summary.answer for each in found], where)
    why = ", where outliers are furthest out" if telling else ""
    caption = f"Norms of the patches {where}{why}, all panels on one scale."
    return [Drawn("norm_maps", "Norm maps", caption, figure)]


def _telling(found: Sequence[Summarised]) -> Labels | None:
    """The labels of a model with outliers, in whose layer all models are shown: of those with the
    fewest registers, the first. None where there is no such model, or depths differ.
    """
    marked = [each.marked for each in found]
    having = [each for each in marked if each.labels.group is not None]
    if not having or len({each.norms.last for each in marked}) > 1:
        return None
    return min(having, key=lambda each: each.norms.layout.num_registers).labels


def _training_figures(models: Sequence[Model]) -> list[Drawn]:
    """Outliers over the training of every run."""
    runs = training_runs([model.subject for model in models])
    if not runs:
        return []
    summaries = [model.measured.drawn.summary for model in models]

    def curves(title: str, scale: float, value: Any) -> Curves:
        return Curves(title, scale, {i: value(summary) for i, summary in enumerate(summaries)})

    panels = [
        curves(
            "patches above 3 x\nthe median (%)", 100.0, lambda s: s.by[LAST]["3_x_median"].share
        ),
        curves(
            "patches above\nmean + 3 sd (%)", 100.0, lambda s: s.by[LAST]["mean_plus_3sd"].share
        ),
        curves("largest norm /\nmedian", 1.0, lambda s: s.tests[LAST]["max_over_median"]),
        curves("outlier tokens found\n(share of patches, %)", 100.0, _found_share),
    ]
    note = "patch norms after the last block, before the last LayerNorm"
    return [
        Drawn(
            "norms_over_training",
            "Outliers over training",
            "Norms after the last block of every checkpoint of a run, with 95 % bands. The lowest "
            "panel is 0 where the verdict is not that there are outlier tokens.",
            curves_figure("Outliers over training", runs, panels, note),
        )
    ]


def _found_share(summary: NormSummary) -> Estimate:
    if summary.labels.group is not None:
        return summary.labels.led.share
    return Estimate(0.0, summary.num_images)


ANALYSIS = Analysis(
    name="norms",
    heading="Token norms",
    text="Outlier tokens are patches whose vectors are many times as long as the others'. They are "
    "“found” here only if they form a group of their own: rare, far from the bulk, separated "
    "from it by a valley, and further out than the pixels alone put them.",
    verdict="outlier tokens",
    per_image=("norm_maps",),
    tables=(OUTLIERS, BY_ONE_CUT, CLOSER, TESTS, EXTREMES, BY_LAYER),
    keeps=keeps,
    measure=measure,
    lead=lead,
    figures=figures,
    facts=facts,
    differences=differences,
    subjects=subjects,
    options=NormsOptions,
    study_preprocess="similarity",
)
