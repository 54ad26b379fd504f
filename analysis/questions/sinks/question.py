"""Which tokens draw attention, and what does CLS get from them? What is measured and drawn."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

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
    open_asked,
)
from regvit_jax.analysis.engine.passes import run_after
from regvit_jax.analysis.engine.question import Keep, Kept
from regvit_jax.analysis.engine.subjects import Subject
from regvit_jax.analysis.outliers.labels import model_verdict
from regvit_jax.analysis.outliers.streams import NormColumns, keep_norms
from regvit_jax.analysis.questions.sinks.figures import Flow, flow_figure, heads_figure
from regvit_jax.analysis.questions.sinks.options import SinksOptions
from regvit_jax.analysis.questions.sinks.received import KINDS, QUANTITIES, kept_received
from regvit_jax.analysis.statistics.bootstrap import Bootstrap, Estimate, Resampled

TITLES = {
    "received": Quantity("attention received, of all tokens'", is_share=True, is_compared=True),
    "from_cls": Quantity("attention of CLS", is_share=True, is_compared=True),
    "value": Quantity("length of values, over that of ordinary patches", is_compared=True),
    "contribution": Quantity("part of what attention adds to CLS", is_share=True, is_compared=True),
}
OF_KINDS = Table(
    "sinks_kinds",
    "Attention and what it carries, mean over blocks and heads",
    ("kind",),
    TITLES
    | {
        "num_sinks": Quantity("heads in which it is a sink"),
        "num_no_ops": Quantity("of these, no-ops"),
    },
    on_page=True,
    words={"cls": "CLS", "patches": "other patches"},
)
OF_BLOCKS = Table("sinks", "Attention and what it carries, by block", ("block", "kind"), TITLES)
OF_HEADS = Table(
    "sinks_heads",
    "Attention and what it carries, by head",
    ("block", "head", "kind"),
    {name: quantity._replace(is_compared=False) for name, quantity in TITLES.items()},
)


def ask(options: SinksOptions, checkpoints: Sequence[Subject]) -> Asked:
    """The images, once it is known that every model has a CLS token."""
    for subject in checkpoints:
        if not subject.config.class_token:
            raise DoesNotApply(
                f"sinks asks what CLS gets; without a CLS token: {subject.label}. Ask "
                "norms instead."
            )
    return open_asked(options, checkpoints)


def keeps(subject: Subject, asked: Asked) -> dict[str, Keep]:
    """Norms in every layer, for the verdict on outliers."""
    return {"norms": keep_norms(asked.images, subject.preprocess)}


def measure(subject: Subject, kept: Kept, asked: Asked) -> Measured:
    """Attention, values and contributions of every kind of token."""
    norms = NormColumns.of(subject, kept["norms"])
    verdict = model_verdict(norms, asked.bootstrap(norms.num_images))
    keep = kept_received(asked.images, subject.preprocess, verdict.strongest_cut)
    columns = run_after("sinks", asked.options, subject, {"received": keep}, kept.folder)
    rows = columns["received"]
    is_there = (True, norms.layout.num_registers > 0, verdict.strongest is not None, True)
    kinds = [kind for kind, known in zip(KINDS, is_there, strict=True) if known]
    bootstrap = asked.bootstrap(rows.num_rows)
    numbers: dict[Key, Number] = {}
    heads = {name: rows.read(name) for name in QUANTITIES}
    for name in QUANTITIES:
        numbers |= _numbers(name, heads[name], kinds, bootstrap)
    numbers |= _counts(heads, kinds, asked.options)
    facts = {"outliers": {"answer": verdict.answer, "reason": verdict.reason}}
    remarks = list(_sentences(numbers, kinds, bootstrap))
    return Measured(rows.num_rows, numbers, facts, remarks=remarks)


def _numbers(
    name: str, rows: np.ndarray, kinds: Sequence[str], bootstrap: Bootstrap
) -> dict[Key, Number]:
    """One quantity by head, by block, and over all: means over the images that have the kind.

    Args:
      name: Of the quantity.
      rows: (n, blocks, heads, kinds), NaN where an image has none of the kind.
      kinds: Those to report.
      bootstrap: Resamples of the images.
    """
    chosen = rows[..., [KINDS.index(kind) for kind in kinds]].astype(np.float64)
    by_block = chosen.sum(axis=2) if name == "contribution" else chosen.mean(axis=2)
    found: dict[Key, Number] = {}
    for table, values in ((OF_HEADS, chosen), (OF_BLOCKS, by_block), (OF_KINDS, by_block.mean(1))):
        flat = values.reshape(len(values), -1)
        known = np.isfinite(flat)
        both = np.stack([np.where(known, flat, 0.0), known], axis=-1)
        numbers = bootstrap.resampled(both, _over_known)
        for place, number in zip(np.ndindex(values.shape[1:]), numbers, strict=True):
            key = (*map(str, place[:-1]), kinds[place[-1]])
            if np.isfinite(number.value):
                found[table.name, *key, name] = number
    return found


def _over_known(means: np.ndarray) -> np.ndarray:
    """Means over the images in which a number is defined."""
    return means[..., 0] / np.where(means[..., 1] > 0, means[..., 1], np.nan)


def _counts(
    heads: Mapping[str, np.ndarray], kinds: Sequence[str], options: SinksOptions
) -> dict[Key, Number]:
    """In how many heads a kind is a sink, and in how many of these a no-op."""
    count = len(heads["received"])
    received = heads["received"].mean(axis=0, dtype=np.float64)
    known = np.isfinite(heads["value"])
    value = np.where(known, heads["value"], 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    found: dict[Key, Number] = {}
    for kind in kinds:
        if kind == "patches":  # nearly all tokens: no place to rest
            continue
        at = KINDS.index(kind)
        is_sink = received[..., at] >= options.sink
        is_no_op = is_sink & (value[..., at] <= options.no_op)
        found[OF_KINDS.name, kind, "num_sinks"] = Estimate(int(is_sink.sum()), count)
        found[OF_KINDS.name, kind, "num_no_ops"] = Estimate(int(is_no_op.sum()), count)
    return found


def _sentences(numbers: Mapping[Key, Number], kinds: Sequence[str], bootstrap: Bootstrap) -> Any:
    """Weight against contribution, in words."""
    for kind in kinds:
        values = [numbers[OF_KINDS.name, kind, name] for name in ("from_cls", "contribution")]
        texts = []
        for number in values:
            assert isinstance(number, Resampled)
            texts.append(bootstrap.estimate(number.value, number.samples).percent())
        title = OF_KINDS.words.get(kind, kind)
        yield f"CLS gives {title} {texts[0]} of its attention; they are {texts[1]} of what it adds"


def lead(options: SinksOptions) -> list[Lead]:
    """What registers and outliers draw, and what CLS gets from them."""
    del options
    return [
        Lead((OF_KINDS.name, kind, name), title)
        for kind, words in (("registers", "registers"), ("outliers", "outliers"))
        for name, title in (
            ("received", f"attention on {words}"),
            ("contribution", f"part of CLS's update from {words}"),
            ("value", f"length of values of {words}, over that of other patches"),
        )
    ]


def figures(models: Sequence[Model], asked: Asked) -> list[Drawn]:
    """Weights and contributions by block, and every head's sinks."""
    flows = [
        Flow(model.subject.title, model.subject.config.depth, model.estimates) for model in models
    ]
    options: SinksOptions = asked.options
    return [
        Drawn(
            "sinks_flow",
            "What CLS looks at, and what it takes",
            "Above: how CLS spreads its attention over the kinds of token, mean over heads. Below: "
            "how much of what attention adds to CLS comes from each, weight x value through the "
            "projection, all heads together; what is missing from 100 % is the bias.",
            flow_figure(flows),
        ),
        Drawn(
            "sinks_heads",
            "Sinks, head by head",
            "Each point is a head: the share of all tokens' attention that a kind of token gets, "
            "and the length of its values over that of ordinary patches. Right of the line it is a "
            "sink; below the other one a no-op.",
            heads_figure(flows, options.sink, options.no_op),
        ),
    ]


ANALYSIS = Analysis(
    name="sinks",
    heading="Attention sinks",
    text="Which tokens draw attention in each head, how large their values are, and how much of "
    "what CLS gains comes from registers, outliers and other patches.",
    tables=(OF_KINDS, OF_BLOCKS, OF_HEADS),
    keeps=keeps,
    measure=measure,
    lead=lead,
    figures=figures,
    ask=ask,
    options=SinksOptions,
    study_preprocess="attention",
    fits=True,
)
