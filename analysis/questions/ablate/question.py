"""What are CLS and the registers for? What is kept, measured and drawn for it.

A first pass adds up CLS and the registers over the images. A second one runs every image through
the network once for each condition, in one compiled program.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from regvit_jax.analysis.discovery.features import Feature, default_feature
from regvit_jax.analysis.discovery.hits import hits_of, known_objects
from regvit_jax.analysis.engine.analysis import (
    Analysis,
    Asked,
    DoesNotApply,
    Drawn,
    Key,
    Lead,
    Measured,
    Model,
    Number,
    Quantity,
    Table,
)
from regvit_jax.analysis.engine.columns import Columns
from regvit_jax.analysis.engine.parts import open_labelled_parts
from regvit_jax.analysis.engine.passes import run_after
from regvit_jax.analysis.engine.question import Keep, Kept
from regvit_jax.analysis.engine.subjects import Subject, open_images
from regvit_jax.analysis.questions.ablate.conditions import Condition, conditions_of
from regvit_jax.analysis.questions.ablate.figures import Costs, cost_figure
from regvit_jax.analysis.questions.ablate.judged import (
    kept_features,
    kept_judged,
    kept_others,
    kept_sums,
    moments,
    order,
)
from regvit_jax.analysis.questions.ablate.options import AblateOptions
from regvit_jax.analysis.questions.ablate.scores import (
    Learned,
    Scores,
    named_rows,
    scores_of_heads,
)
from regvit_jax.analysis.statistics.bootstrap import Estimate, Resampled
from regvit_jax.model import DeiT3
from regvit_jax.tokens import TokenLayout

SCORES = {
    "top1": "top-1 of the head",
    "linear": "top-1 of a linear probe",
    "neighbours": "top-1 of the nearest neighbours",
    "corloc": "CorLoc of LOST",
}
ABLATE = Table(
    "ablate",
    "What it costs to replace CLS and the registers",
    ("condition",),
    {
        name: quantity
        for score, title in SCORES.items()
        for name, quantity in (
            (score, Quantity(title, is_share=True, on_page=False)),
            (
                f"{score}_change",
                Quantity(f"{title}, change", is_share=True, is_compared=True),
            ),
        )
    }
    | {
        "same_answer": Quantity("images with the same answer of the head", is_share=True),
        "cosine": Quantity("cosine of the patches with the untouched ones", is_compared=True),
        "divergence": Quantity(
            "divergence of the patches' attention (nats; at most 0.69)", is_compared=True
        ),
    },
    on_page=True,
)
TOLD = {
    "registers_zeroed": "zeroing {}",
    "registers_mean": "replacing them by their mean",
    "registers_dropped": "dropping them",
    "cls_zeroed": "zeroing CLS",
    "patches_zeroed": "zeroing {}",
}
"""Conditions that sentences are about, in words."""


class Ablated(NamedTuple):
    """One model's conditions, for figures."""

    conditions: Mapping[str, Condition]


def ask(options: AblateOptions, checkpoints: Sequence[Subject]) -> Asked:
    """The images, those to learn from where there are labels, and the objects where known."""
    for subject in checkpoints:
        if not (subject.config.class_token or layout_of(subject).num_registers):
            raise DoesNotApply(f"{subject.label} has neither CLS nor registers to replace.")
    training, images = None, open_images(options)
    if options.has_labels:
        parts = open_labelled_parts(options)
        training, images = parts.training, parts.judged
    objects = known_objects(images, options.skip_unreadable)
    facts = {"num_train": 0 if training is None else len(training.indices)}
    return Asked(options, images, training, about=objects, facts=facts)


def layout_of(subject: Subject) -> TokenLayout:
    """Layout of a model's tokens."""
    return DeiT3(subject.config).layout((1, *subject.preprocess.shape))


def keeps(subject: Subject, asked: Asked) -> dict[str, Keep]:
    """What the conditions are made of, and what classifiers learn from."""
    found = {
        "sums": kept_sums(asked.images, subject.preprocess),
        "others": kept_others(asked.images, subject.preprocess),
    }
    if asked.training is not None:
        found["learned"] = kept_features(asked.training, subject.preprocess)
    return found


def measure(subject: Subject, kept: Kept, asked: Asked) -> Measured:
    """Every condition's scores, and what they cost against the untouched network."""
    options, layout = asked.options, layout_of(subject)
    count = subject.config.num_registers
    conditions = conditions_of(layout, options.control_patches, count)
    judged = _judged(subject, kept, asked, conditions, layout)
    names, count = order(conditions), judged.num_rows
    learned = None
    if asked.training is not None:
        known = kept["learned"]
        learned = Learned(known.read("features"), known.labels)
    given = (judged, subject, asked.images.source, learned, options.neighbours, options.seed)
    scores = scores_of_heads(*given)
    numbers = _numbers(names, scores, asked, count)
    alike = {name: judged.read(name).astype(float) for name in ("cosine", "divergence")}
    numbers |= {
        key: number
        for key, number in _numbers(names, alike, asked, count).items()
        if key[1] != "untouched" and not key[2].endswith("_change")
    }
    if asked.about is not None:
        hits = hits_of(judged.indices.tolist(), judged.read("boxes"), asked.about, subject)
        corloc = {"corloc": hits.found.astype(float)}
        numbers |= _numbers(names, corloc, asked, len(hits.rows))
    numbers.pop((ABLATE.name, "untouched", "same_answer"), None)
    titles = {condition.name: condition for condition in conditions}
    facts = {"conditions": {name: condition.title for name, condition in titles.items()}}
    remarks = list(_sentences(numbers, titles, asked, count))
    return Measured(count, numbers, facts, remarks=remarks, drawn=Ablated(titles))


def _judged(
    subject: Subject,
    kept: Kept,
    asked: Asked,
    conditions: list[Condition],
    layout: TokenLayout,
) -> Columns:
    """The pass of all conditions."""
    options = asked.options
    known = moments(kept["sums"].folded, kept["sums"].num_rows, kept["others"].read("tokens"))
    feature: Feature | None = None if asked.about is None else default_feature(subject)
    given = (layout, conditions, known, feature, options.control_patches, options.seed)
    keep = kept_judged(asked.images, subject.preprocess, *given)
    return run_after("ablate", options, subject, {"judged": keep}, kept.folder)["judged"]


def _numbers(names: Sequence[str], scores: Scores, asked: Asked, count: int) -> dict[Key, Number]:
    """Means over the images, with their resamples."""
    rows = named_rows(names, scores)
    if not rows or not count:
        return {}
    columns = np.stack(list(rows.values()), axis=1)
    found = asked.bootstrap(count).resampled(columns, lambda means: means)
    return {(ABLATE.name, *key): number for key, number in zip(rows, found, strict=True)}


def _sentences(
    numbers: Mapping[Key, Number], conditions: Mapping[str, Condition], asked: Asked, count: int
) -> Iterator[str]:
    """What replacing costs, in words, by the first score that there is."""
    scores = [score for score in SCORES if (ABLATE.name, "untouched", score) in numbers]
    told: list[str] = []
    for name, words in TOLD.items():
        if name not in conditions:
            continue
        doing = words.format(conditions[name].title.removesuffix(" zeroed"))
        if scores:
            change = _estimate(numbers[ABLATE.name, name, f"{scores[0]}_change"], asked, count)
            unit = f" points of {SCORES[scores[0]]}" if not told else ""
            told.append(f"{doing} costs {_cost(change, unit)}")
        else:
            cosine = _estimate(numbers[ABLATE.name, name, "cosine"], asked, count)
            told.append(f"{doing} leaves patches a cosine of {cosine.text(3)} with untouched ones")
    sentence = "; ".join(told)
    yield f"{sentence[:1].upper()}{sentence[1:]}."


def _cost(change: Estimate, unit: str) -> str:
    """How much a score falls, in points, with its interval."""
    value = 100 * (0.0 - change.value)
    if change.low is None or change.high is None:
        return f"{value:.1f}{unit}"
    ends = [100 * (0.0 - end) for end in (change.high, change.low)]
    return f"{value:.1f}{unit} [{ends[0]:.1f}, {ends[1]:.1f}]"


def _estimate(number: Number, asked: Asked, count: int) -> Estimate:
    assert isinstance(number, Resampled)
    return asked.bootstrap(count).estimate(number.value, number.samples)


def lead(options: AblateOptions) -> list[Lead]:
    """What the literature asks first: zeroed against mean."""
    del options
    words = {
        "registers_zeroed": "registers zeroed",
        "registers_mean": "registers replaced by their mean",
        "cls_mean": "CLS replaced by its mean",
    }
    return [
        Lead((ABLATE.name, name, f"{score}_change"), f"{title}: change of {SCORES[score]}")
        for name, title in words.items()
        for score in ("top1", "corloc")
    ] + [Lead((ABLATE.name, "registers_zeroed", "cosine"), "registers zeroed: cosine of patches")]


def figures(models: Sequence[Model], asked: Asked) -> list[Drawn]:
    """What every condition costs, by score."""
    del asked
    titles: dict[str, str] = {}
    for model in sorted(models, key=lambda model: -len(model.measured.drawn.conditions)):
        titles |= {name: c.title for name, c in model.measured.drawn.conditions.items()}
    costs = [
        Costs(model.subject.title, {key[1:]: estimate for key, estimate in model.estimates.items()})
        for model in models
    ]
    panels = {
        f"{score}_change": (f"{title}\nchange (points)", 100.0) for score, title in SCORES.items()
    }
    panels |= {"cosine": ("cosine of the patches\nwith the untouched", 1.0)}
    panels |= {"divergence": ("divergence of the\npatches' attention", 1.0)}
    return [
        Drawn(
            "ablate_costs",
            "What it costs to replace CLS and the registers",
            "After every block the tokens are replaced; bars are 95 % intervals of paired "
            "differences from the untouched network on the same images. Probes learned from "
            "untouched tokens.",
            cost_figure(costs, titles, panels),
        )
    ]


ANALYSIS = Analysis(
    name="ablate",
    heading="Ablations",
    text="What CLS and the registers are for: after every block they are replaced by zeros, their "
    "mean, noise or another image's, or the registers are dropped; random patches are the control.",
    tables=(ABLATE,),
    keeps=keeps,
    measure=measure,
    lead=lead,
    figures=figures,
    ask=ask,
    options=AblateOptions,
    study_preprocess="reconstruction",
    fits=True,
)
