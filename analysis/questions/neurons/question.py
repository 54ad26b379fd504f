"""Which hidden units write the outliers, and what if test-time registers take them over?

The first pass gives the verdict on outliers, the second finds the units, the third tries how many
have to be shifted, the last one looks at the network in which the chosen ones are.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from regvit_jax.analysis.discovery.features import default_feature
from regvit_jax.analysis.discovery.hits import hits_of, known_objects
from regvit_jax.analysis.engine.analysis import (
    Analysis,
    Asked,
    Drawn,
    Key,
    Lead,
    Listing,
    Measured,
    Model,
    Number,
    open_asked,
)
from regvit_jax.analysis.engine.columns import Columns
from regvit_jax.analysis.engine.passes import run_after
from regvit_jax.analysis.engine.question import Keep, Kept, shown_pixels
from regvit_jax.analysis.engine.subjects import Subject, choose_shown, head_fits
from regvit_jax.analysis.outliers.labels import model_verdict
from regvit_jax.analysis.outliers.layers import ModelVerdict
from regvit_jax.analysis.outliers.streams import NormColumns, keep_norms
from regvit_jax.analysis.questions.neurons.figures import (
    Sweep,
    SweptMaps,
    maps_figure,
    sweep_figure,
)
from regvit_jax.analysis.questions.neurons.options import NeuronsOptions
from regvit_jax.analysis.questions.neurons.sweep import (
    SHIFTED,
    UNTOUCHED,
    Tried,
    conditions_of,
    kept_maps,
    kept_shifted,
    kept_sweep,
)
from regvit_jax.analysis.questions.neurons.tables import CHOSEN, NEURONS
from regvit_jax.analysis.questions.neurons.units import (
    Where,
    kept_scores,
    ranked,
    scores_of,
)
from regvit_jax.analysis.statistics.bootstrap import Estimate, Resampled
from regvit_jax.checkpoint import load, read_info, save
from regvit_jax.config import AddedRegisters
from regvit_jax.edits import Edit
from regvit_jax.errors import InputError
from regvit_jax.model import DeiT3
from regvit_jax.tokens import resolve_layers

GONE = 0.05
"""So much of the outliers may be left where units are said to write them."""
NUM_LISTED = 50


class Neurons(NamedTuple):
    """What figures and listings need of one model."""

    scores: np.ndarray
    units: np.ndarray
    """In the order of their scores."""
    num_chosen: int
    names: list[str]
    maps: list[SweptMaps]


def ask(options: NeuronsOptions, checkpoints: Sequence[Subject]) -> Asked:
    """The images, and their objects where known.

    Raises:
      InputError: If a model has no such block.
    """
    for subject in checkpoints:
        if options.top_block is not None:
            resolve_layers((options.top_block,), subject.config.depth)
    asked = open_asked(options, checkpoints)
    objects = known_objects(asked.images, options.skip_unreadable)
    return dataclasses.replace(asked, about=objects)


def keeps(subject: Subject, asked: Asked) -> dict[str, Keep]:
    """Norms in every layer, and what the shown images look like untouched."""
    images, preprocess = asked.images, subject.preprocess
    shown = choose_shown(asked.options, images.source, images.indices)
    return {
        "norms": keep_norms(images, preprocess),
        "maps": kept_maps(images.only(shown), preprocess),
        "shown": shown_pixels(images, preprocess, shown),
    }


def measure(subject: Subject, kept: Kept, asked: Asked) -> Measured:
    """Units, sweep, and the network with test-time registers; nothing without outliers."""
    options, norms = asked.options, NormColumns.of(subject, kept["norms"])
    before = model_verdict(norms, asked.bootstrap(norms.num_images))
    facts = {"outliers": {"answer": before.answer, "reason": before.reason}}
    if before.strongest is None:
        answer = "has no outlier tokens" if before.answer == "not found" else "may have none"
        reason = f"The model {answer}, so no unit is looked for. {before.reason}"
        return Measured(norms.num_images, {}, facts, remarks=[reason])
    where = where_of(before, options, subject)
    scores = _scores(subject, kept, asked, where)
    units = ranked(scores)
    shape = (subject.config.depth, subject.config.mlp_dim)
    tried = conditions_of(units, options.units, shape, options.seed)
    swept = _swept(subject, kept, asked, where, tried)
    numbers, shares = _numbers(swept, tried, subject, asked)
    chosen = choose(tried, shares)
    after, maps = _shifted(subject, kept, asked, chosen)
    numbers |= _chosen_numbers(numbers, chosen, norms.num_images)
    added = AddedRegisters(
        tuple((int(b), int(m)) for b, m in units[: chosen.num_units]), options.added, options.rule
    )
    facts |= {
        "outliers_after": {"answer": after.answer, "reason": after.reason},
        "looked_for": where._asdict(),
        "test_time_registers": dataclasses.asdict(added),
    }
    remarks = list(_sentences(numbers, chosen, after, where, asked, norms.num_images))
    if options.save is not None:
        remarks.append(f"Saved: {save_with(subject, added, options)}")
    drawn = Neurons(scores, units, chosen.num_units, [c.name for c in tried], maps)
    return Measured(norms.num_images, numbers, facts, remarks=remarks, drawn=drawn)


def where_of(verdict: ModelVerdict, options: NeuronsOptions, subject: Subject) -> Where:
    """Outliers as the verdict has them where they are furthest out; units up to their first."""
    cut = verdict.strongest_cut
    assert cut is not None
    found = [i for i, layer in enumerate(verdict.layers) if i and layer.answer == "found"]
    top = found[0] - 1
    if options.top_block is not None:
        (top,) = resolve_layers((options.top_block,), subject.config.depth)
    return Where(*cut, top)


def choose(tried: Sequence[Tried], shares: Sequence[float]) -> Tried:
    """The fewest shifted units that leave hardly an outlier; else those that leave fewest.

    Args:
      tried: The conditions.
      shares: Of outliers among the patches: untouched, then by condition.
    """
    shifted = [(c, s) for c, s in zip(tried, shares[1:], strict=True) if c.name == SHIFTED]
    enough = [c for c, share in shifted if share <= GONE * shares[0]]
    return enough[0] if enough else min(shifted, key=lambda each: each[1])[0]


def save_with(subject: Subject, added: AddedRegisters, options: NeuronsOptions) -> Path:
    """Saves a model with its test-time registers; where it is.

    Raises:
      InputError: If something else is there.
    """
    path = Path(options.save or ".") / f"{subject.slug}+test-time-registers"
    if subject.config.added is not None:
        raise InputError(f"{subject.label} has test-time registers already.")
    config = dataclasses.replace(subject.config, added=added)
    source = dict(subject.info.source) | {"test_time_registers_added_to": str(subject.path)}
    info = dataclasses.replace(subject.info, model=config, source=source, metrics={})
    if path.exists() and not options.overwrite:
        there = read_info(path)
        if there.model == config and there.source == source:
            return path
    path.parent.mkdir(parents=True, exist_ok=True)
    save(path, load(subject.path)[1], info, options.overwrite)
    return path


def _scores(subject: Subject, kept: Kept, asked: Asked, where: Where) -> np.ndarray:
    rule = asked.options.rule
    keep = kept_scores(asked.images, subject.preprocess, where, rule)
    found = run_after("neurons", asked.options, subject, {"scores": keep}, kept.folder)["scores"]
    return scores_of(found.folded, found.num_rows, rule)


def _swept(
    subject: Subject, kept: Kept, asked: Asked, where: Where, tried: Sequence[Tried]
) -> Columns:
    options = asked.options
    feature = None if asked.about is None else default_feature(subject)
    given = (tried, where, options.rule, options.added, feature)
    keep = kept_sweep(asked.images, subject.preprocess, *given)
    return run_after("neurons", options, subject, {"swept": keep}, kept.folder)["swept"]


def _numbers(
    swept: Columns, tried: Sequence[Tried], subject: Subject, asked: Asked
) -> tuple[dict[Key, Number], list[float]]:
    """All scores of all conditions; and the share of outliers in each, untouched first."""
    places = [(UNTOUCHED, "0"), *((c.name, str(c.num_units)) for c in tried)]
    predicted = swept.read("predicted")
    scores = {"outliers": swept.read("share"), "largest": swept.read("largest")}
    if subject.config.num_classes:
        scores["same_answer"] = predicted == predicted[:, :1]
    if head_fits(subject, asked.images.source):
        scores["top1"] = predicted == swept.labels[:, None]
        scores["top1_change"] = scores["top1"].astype(float) - scores["top1"][:, :1]
    numbers = dict(_resampled(scores, places, asked, swept.num_rows))
    if asked.about is not None:
        hits = hits_of(swept.indices.tolist(), swept.read("boxes"), asked.about, subject)
        found = hits.found.astype(float)
        corloc = {"corloc": found, "corloc_change": found - found[:, :1]}
        numbers |= dict(_resampled(corloc, places, asked, len(hits.rows)))
    return numbers, scores["outliers"].mean(axis=0, dtype=np.float64).tolist()


def _resampled(
    scores: Mapping[str, np.ndarray], places: Sequence[tuple[str, str]], asked: Asked, count: int
) -> Iterator[tuple[Key, Number]]:
    for name, rows in scores.items() if count else ():
        found = asked.bootstrap(count).resampled(rows.astype(float), lambda means: means)
        for place, number in zip(places, found, strict=True):
            if place[0] != UNTOUCHED or not name.endswith(("_change", "_answer")):
                yield (NEURONS.name, *place, name), number


def _shifted(
    subject: Subject, kept: Kept, asked: Asked, chosen: Tried
) -> tuple[ModelVerdict, list[SweptMaps]]:
    """The verdict on the network with the chosen units shifted, and its maps of shown images."""
    options = asked.options
    keep = kept_shifted(asked.images, subject.preprocess, chosen.mask, options.rule, options.added)
    after = run_after("neurons", options, subject, {"after": keep}, kept.folder)["after"]
    rows = {index: row for row, index in enumerate(after.indices.tolist())}
    own = DeiT3(subject.config).layout((1, *subject.preprocess.shape))
    norms = NormColumns(after, subject.config.depth + 2, Edit(added=options.added).layout(own))
    maps = []
    for index, pixels, before in zip(
        kept["shown"].indices.tolist(),
        *(kept["shown"].read("pixels"), kept["maps"].read("map")),
        strict=True,
    ):
        both = (before, after.mapped("map")[rows[index]])
        maps.append(
            SweptMaps(asked.images.named(index), pixels, *(np.reshape(m, own.grid) for m in both))
        )
    return model_verdict(norms, asked.bootstrap(norms.num_images)), maps


def _chosen_numbers(numbers: Mapping[Key, Number], chosen: Tried, count: int) -> dict[Key, Number]:
    place = (NEURONS.name, SHIFTED, str(chosen.num_units))
    found: dict[Key, Number] = {
        (CHOSEN.name, key[-1]): number for key, number in numbers.items() if key[:3] == place
    }
    found[CHOSEN.name, "outliers_before"] = numbers[NEURONS.name, UNTOUCHED, "0", "outliers"]
    found[CHOSEN.name, "num_units"] = Estimate(chosen.num_units, count)
    return found


def _sentences(
    numbers: Mapping[Key, Number],
    chosen: Tried,
    after: ModelVerdict,
    where: Where,
    asked: Asked,
    count: int,
) -> Iterator[str]:
    """What the shift does, in words."""

    def estimate(key: Key) -> Estimate:
        number = numbers[key]
        assert isinstance(number, Resampled)
        return asked.bootstrap(count).estimate(number.value, number.samples)

    before = estimate((CHOSEN.name, "outliers_before")).percent(2)
    left = estimate((CHOSEN.name, "outliers")).percent(2)
    units = "1 unit" if chosen.num_units == 1 else f"{chosen.num_units} units"
    yield (
        f"{units} of blocks 0 to {where.top_block} shifted to {asked.options.added} test-time "
        f"register{'' if asked.options.added == 1 else 's'}: outliers after block {where.block} "
        f"{before} -> {left} of the patches; verdict on the shifted network: {after.answer}."
    )
    for name, words in (("zeroed", "Zeroed instead"), ("random_shifted", "As many random units")):
        place = (NEURONS.name, name, str(chosen.num_units))
        text = f"{words}: outliers {estimate((*place, 'outliers')).percent(2)}"
        if (*place, "top1_change") in numbers:
            text += f", top-1 {estimate((*place, 'top1_change')).points()}"
        yield text


def lead(options: NeuronsOptions) -> list[Lead]:
    """What the chosen number of units does."""
    del options
    return [
        Lead((CHOSEN.name, "num_units"), "units shifted to test-time registers"),
        Lead((CHOSEN.name, "outliers_before"), "outliers, untouched"),
        Lead((CHOSEN.name, "outliers"), "outliers, with test-time registers"),
        Lead((CHOSEN.name, "top1_change"), "top-1 of the head, change with test-time registers"),
        Lead((CHOSEN.name, "corloc_change"), "CorLoc of LOST, change with test-time registers"),
    ]


def listings(models: Sequence[Model], asked: Asked) -> list[Listing]:
    """The units of largest score."""
    del asked
    rows = [row for model in models if model.measured.drawn for row in _unit_rows(model)]
    title = "Hidden units that are most active at outliers"
    return [Listing("units", title, rows)] if rows else []


def _unit_rows(model: Model) -> Iterator[dict[str, Any]]:
    found: Neurons = model.measured.drawn
    for place, (block, unit) in enumerate(found.units[:NUM_LISTED].tolist()):
        yield {
            "model": model.subject.label,
            "place": place + 1,
            "block": block,
            "unit": unit,
            "score": float(found.scores[block, unit]),
            "is_shifted": int(place < found.num_chosen),
        }


def figures(models: Sequence[Model], asked: Asked) -> list[Drawn]:
    """The sweep, and maps of CLS before and after, of the models that have outliers."""
    del asked
    swept = [model for model in models if model.measured.drawn]
    if not swept:
        return []
    sweeps = [
        Sweep(
            m.subject.title, m.measured.drawn.num_chosen, {k[1:]: e for k, e in m.estimates.items()}
        )
        for m in swept
    ]
    drawn = [
        Drawn(
            "neurons_sweep",
            "Units shifted to test-time registers",
            "The most active units at outliers, and as many random ones, shifted to added tokens; "
            "or silent. Dashed: the number that was chosen. Bands: 95 % intervals.",
            sweep_figure(sweeps),
        )
    ]
    for model in swept:
        if maps := model.measured.drawn.maps:
            name = f"neurons_maps_{model.subject.slug}"
            title = f"Where CLS looks, {model.subject.title}"
            caption = (
                "Attention of CLS in the last block, mean over heads: untouched, and with "
                "test-time registers. Each map has a scale of its own."
            )
            drawn.append(Drawn(name, title, caption, maps_figure(title, maps)))
    return drawn


ANALYSIS = Analysis(
    name="neurons",
    heading="Register neurons",
    text="Which hidden units write the outliers, and what becomes of the network when tokens that "
    "are added at test time take these units over.",
    per_image=("neurons_maps",),
    tables=(CHOSEN, NEURONS),
    keeps=keeps,
    measure=measure,
    lead=lead,
    figures=figures,
    listings=listings,
    ask=ask,
    options=NeuronsOptions,
    study_preprocess="attention",
    fits=True,
)
