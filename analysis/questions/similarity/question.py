"""Do outlier patches look like their neighbours? What is kept, measured and drawn for it."""

from collections.abc import Mapping, Sequence

from regvit_jax.analysis.engine.analysis import (
    Analysis,
    Asked,
    Drawn,
    Key,
    Lead,
    Measured,
    Model,
    Number,
    Quantity,
    Table,
)
from regvit_jax.analysis.engine.question import Keep, Kept
from regvit_jax.analysis.engine.subjects import Subject
from regvit_jax.analysis.outliers.labels import (
    LABEL_QUANTITIES,
    LAST,
    NORMED,
    TENSOR_LABELS,
    patch_norms,
)
from regvit_jax.analysis.questions.similarity.figures import (
    SimilarityPanel,
    densities_figure,
    medians_figure,
)
from regvit_jax.analysis.questions.similarity.options import SimilarityOptions
from regvit_jax.analysis.questions.similarity.similarity import (
    GROUPS,
    Similarities,
    measure_similarity,
    neighbour_cosines,
)
from regvit_jax.analysis.statistics.bootstrap import Estimate
from regvit_jax.model import DeiT3

TABLE = Table(
    "similarity",
    "Cosine of patches with their neighbours",
    ("norm_after", "definition"),
    LABEL_QUANTITIES
    | {
        "num_normal_samples": Quantity("pairs of a normal patch and a neighbour"),
        "num_outlier_samples": Quantity("pairs of an outlier and a neighbour"),
        "median_normal": Quantity("median cosine of a normal patch with a neighbour", False, True),
        "median_outlier": Quantity("median cosine of an outlier with a neighbour", False, True),
        "median_difference": Quantity("outliers' median minus normal patches'", False, True),
        "mean_normal": Quantity("mean cosine of a normal patch with a neighbour"),
        "mean_outlier": Quantity("mean cosine of an outlier with a neighbour"),
        "mean_difference": Quantity("outliers' mean minus normal patches'"),
        "auc": Quantity(
            "how often an outlier is more like a neighbour than a normal patch is (0.5: by chance)",
            is_compared=True,
        ),
    },
)
LED_BY = "quantile_98"
DRAWN = (LED_BY, "quantile_99_5")


def labels_of(options: SimilarityOptions) -> str:
    """The tensor whose norms tell outliers from normal patches."""
    return NORMED if options.protocol == "study" else LAST


def keeps(subject: Subject, asked: Asked) -> dict[str, Keep]:
    """The cosines of neighbours, and the norms by which patches are labelled."""
    return {
        "neighbours": neighbour_cosines(asked.images, subject.preprocess),
        "norms": patch_norms(asked.images, subject.preprocess),
    }


def measure(subject: Subject, kept: Kept, asked: Asked) -> Measured:
    """The similarities of outliers and normal patches, by every definition of an outlier."""
    neighbours, norms = kept["neighbours"], kept["norms"]
    grid = DeiT3(subject.config).layout((1, *subject.preprocess.shape)).grid
    bootstrap = asked.bootstrap(neighbours.num_rows)
    found = measure_similarity(neighbours, norms, grid, bootstrap)
    numbers: dict[Key, Number] = {}
    for each in found:
        place = (TABLE.name, each.tensor, each.by.definition)
        numbers |= {(*place, name): number for name, number in each.by.numbers.items()}
        numbers |= {(*place, name): number for name, number in each.numbers.items()}
        for name, count in zip(GROUPS, each.num_samples, strict=True):
            numbers[*place, f"num_{name}_samples"] = Estimate(count, neighbours.num_rows)
    labels = labels_of(asked.options)
    (led,) = (x.by for x in found if (x.tensor, x.by.definition) == (labels, LED_BY))
    remarks = [f"{led.note} (98 % quantile)"] if led.note else []
    facts = {"grid": grid, "labels": labels}
    return Measured(neighbours.num_rows, numbers, facts, remarks=remarks, drawn=found)


def lead(options: SimilarityOptions) -> list[Lead]:
    """The AUC of the patches of largest norm."""
    key = (TABLE.name, labels_of(options), LED_BY, "auc")
    return [Lead(key, "outliers (98 %) more like their neighbours, AUC")]


def figures(models: Sequence[Model], asked: Asked) -> list[Drawn]:
    """Densities of the cosines, and medians with the AUC."""
    tensor = labels_of(asked.options)
    where = TENSOR_LABELS[tensor]
    panels = [_panel(model, tensor) for model in models]
    return [
        Drawn(
            "similarity_densities",
            "How similar are a patch and its neighbours?",
            "Kernel densities (Gaussian, Scott's bandwidth) of the cosine between the patch "
            "convolution's outputs of a patch and each of its up to four neighbours, before "
            f"positions. Outliers are defined by their norm {where}. Dotted lines are medians.",
            densities_figure(panels, DRAWN, where),
        ),
        Drawn(
            "similarity_medians",
            "Neighbour similarity by definition of an outlier",
            "Medians of both groups, and how often an outlier is more like its neighbour than a "
            f"normal patch (AUC; 0.5 is chance), with 95 % intervals. Norms {where}.",
            medians_figure(panels, where),
        ),
    ]


def _panel(model: Model, tensor: str) -> SimilarityPanel:
    entries: list[Similarities] = [x for x in model.measured.drawn if x.tensor == tensor]

    def estimates(entry: Similarities) -> Mapping[str, Estimate | None]:
        place = (TABLE.name, tensor, entry.by.definition)
        return {name: model.estimates.get((*place, name)) for name in TABLE.quantities}

    return SimilarityPanel(
        model.subject.title, model.num_images, entries, [estimates(entry) for entry in entries]
    )


ANALYSIS = Analysis(
    name="similarity",
    heading="Similarity of neighbours",
    text="If a network keeps global notes in patches that tell it nothing by themselves, outliers "
    "should sit where the image repeats itself and be more like their neighbours than other "
    "patches: an AUC above 0.5.",
    tables=(TABLE,),
    keeps=keeps,
    measure=measure,
    lead=lead,
    figures=figures,
    options=SimilarityOptions,
    study_preprocess="similarity",
)
