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
    CHOSEN,
    GROUP,
    LABEL_QUANTITIES,
    TENSOR_LABELS,
    USUAL,
    WORDS,
    Labelled,
    find_labels,
    label_norms,
    labelled,
)
from regvit_jax.analysis.outliers.streams import NORMED, NormColumns
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
    words=WORDS,
)
DRAWN = (GROUP, USUAL, "quantile_99_5")


def keeps(subject: Subject, asked: Asked) -> dict[str, Keep]:
    """The cosines of neighbours, and the norms by which patches are labelled."""
    return {
        "neighbours": neighbour_cosines(asked.images, subject.preprocess),
        "norms": label_norms(subject, asked.images, asked.options),
    }


def measure(subject: Subject, kept: Kept, asked: Asked) -> Measured:
    """The similarities of outliers and normal patches, by every definition of an outlier."""
    neighbours, norms = kept["neighbours"], NormColumns.of(subject, kept["norms"])
    grid, bootstrap = norms.layout.grid, asked.bootstrap(neighbours.num_rows)
    labels = find_labels(norms, bootstrap, asked.options)
    tensors = {
        CHOSEN: list(labels.by.values()),
        NORMED: labelled(norms.patches(-1), bootstrap),
    }
    found = measure_similarity(neighbours, tensors, grid, bootstrap)
    numbers: dict[Key, Number] = {}
    for each in found:
        place = (TABLE.name, each.tensor, each.by.definition)
        numbers |= {(*place, name): number for name, number in each.by.numbers.items()}
        numbers |= {(*place, name): number for name, number in each.numbers.items()}
        for name, count in zip(GROUPS, each.num_samples, strict=True):
            numbers[*place, f"num_{name}_samples"] = Estimate(count, neighbours.num_rows)
    if asked.options.protocol == "study":
        facts, remark, led = {"labels": NORMED, "definition": USUAL}, _study_remark(tensors), NORMED
    else:
        facts, remark, led = labels.facts, labels.remark, CHOSEN
    return Measured(
        *(neighbours.num_rows, numbers, {"grid": grid} | facts),
        remarks=[remark],
        drawn=[each for each in found if each.tensor == led],
    )


def _study_remark(tensors: Mapping[str, Sequence[Labelled]]) -> str:
    (usual,) = (by for by in tensors[NORMED] if by.definition == USUAL)
    note = f" {usual.note}" if usual.note else ""
    return f"Outliers are told by their norm {TENSOR_LABELS[NORMED]}, as in the study.{note}"


def lead(options: SimilarityOptions) -> list[Lead]:
    """The AUC of the group found, and of the patches of largest norm."""
    tensor = NORMED if options.protocol == "study" else CHOSEN
    words = {GROUP: "the outliers found", USUAL: "the 2 % of largest norm"}
    return [
        Lead(
            (TABLE.name, tensor, definition, "auc"),
            f"{words[definition]} more like their neighbours, AUC",
        )
        for definition in words
    ]


def figures(models: Sequence[Model], asked: Asked) -> list[Drawn]:
    """Densities of the cosines, and medians with the AUC."""
    del asked
    where, panels = _where(models), [_panel(model) for model in models]
    known = {each.by.definition for panel in panels for each in panel.labelled}
    drawn = [definition for definition in DRAWN if definition in known]
    return [
        Drawn(
            "similarity_densities",
            "How similar are a patch and its neighbours?",
            "Kernel densities (Gaussian, Scott's bandwidth) of the cosine between the patch "
            "convolution's outputs of a patch and each of its up to four neighbours, before "
            f"positions. Outliers are defined by their norm {where}. Dotted lines are medians.",
            densities_figure(panels, drawn, where),
        ),
        Drawn(
            "similarity_medians",
            "Neighbour similarity by definition of an outlier",
            "Medians of both groups, and how often an outlier is more like its neighbour than a "
            f"normal patch (AUC; 0.5 is chance), with 95 % intervals. Norms {where}.",
            medians_figure(panels, where),
        ),
    ]


def _where(models: Sequence[Model]) -> str:
    """The layers that tell outliers, in words."""
    found = {each.tensor: None for model in models for each in model.measured.drawn}
    if NORMED in found:
        return TENSOR_LABELS[NORMED]
    return " or ".join(dict.fromkeys(str(m.measured.facts["where"]) for m in models))


def _panel(model: Model) -> SimilarityPanel:
    entries: list[Similarities] = model.measured.drawn

    def estimates(entry: Similarities) -> Mapping[str, Estimate | None]:
        place = (TABLE.name, entry.tensor, entry.by.definition)
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
