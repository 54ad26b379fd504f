"""Where do CLS and the registers look? What is kept and measured for it."""

from collections.abc import Mapping, Sequence

import numpy as np

from regvit_jax.analysis.engine.analysis import (
    Analysis,
    Asked,
    DoesNotApply,
    Key,
    Lead,
    Measured,
    Model,
    Number,
    Quantity,
    Table,
    open_asked,
    paired,
)
from regvit_jax.analysis.engine.question import Keep, Kept, shown_pixels
from regvit_jax.analysis.engine.subjects import Subject, choose_shown
from regvit_jax.analysis.outliers.labels import (
    GROUP,
    USUAL,
    WORDS,
    Labels,
    Marked,
    by_one_cut,
    find_labels,
    label_norms,
)
from regvit_jax.analysis.outliers.streams import NormColumns
from regvit_jax.analysis.questions.attention.attention import (
    MEASURES,
    AttentionSummary,
    attention_maps,
    attention_rows,
    cls_maps,
    compared_features,
    embedding_similarity,
    summarise_attention,
)
from regvit_jax.analysis.questions.attention.drawn import Attended, figures
from regvit_jax.analysis.questions.attention.figures import ShownAttention
from regvit_jax.analysis.questions.attention.on_outliers import outlier_masses
from regvit_jax.analysis.questions.attention.options import AttentionOptions
from regvit_jax.analysis.questions.attention.rollout import rollout_maps
from regvit_jax.analysis.statistics.bootstrap import Bootstrap, Estimate
from regvit_jax.tokens import resolve_layers

CLS = "CLS"
NO_SHARES = ("entropy", "largest_times_even")
LAST_BLOCK = Table(
    "attention_last_block",
    "Where attention goes in the last block",
    ("query",),
    {
        name: Quantity(title, name not in NO_SHARES, is_compared=True)
        for name, title in MEASURES.items()
    },
    on_page=True,
)
BY_LAYER = Table(
    "attention_by_layer",
    "Attention by block and query",
    ("block", "query"),
    {name: Quantity(title, name not in NO_SHARES) for name, title in MEASURES.items()},
)
ON_OUTLIERS = Table(
    "attention_on_outliers",
    "Attention of CLS on outlier patches",
    ("definition",),
    {
        "cut": Quantity("norm above which a patch is an outlier"),
        "share_of_patches": Quantity("patches that are outliers", is_share=True),
        "mass": Quantity("attention of CLS on outliers", is_share=True, is_compared=True),
        "share_of_patch_mass": Quantity(
            "outliers' part of the attention of CLS on patches", is_share=True, is_compared=True
        ),
        "times_even": Quantity("attention of CLS on an outlier / on a patch", is_compared=True),
        "received_times_even": Quantity(
            "attention of all tokens on an outlier / on a patch", is_compared=True
        ),
    },
    on_page=True,
    words=WORDS,
)
BY_ONE_CUT = Table(
    "attention_by_one_cut",
    "Attention of CLS on outliers by the cut of the model with fewer registers",
    (),
    {
        "share_of_patch_mass": Quantity(
            "outliers' part of the attention of CLS on patches, by one cut", is_share=True
        )
    },
)
REGISTERS_BY_LAYER = Table(
    "registers_by_layer",
    "Similarity of the registers' maps, block by block",
    ("block",),
    {
        "cosine": Quantity("cosine of the registers' maps"),
        "centred_cosine": Quantity("centred cosine of the registers' maps"),
    },
)
REGISTERS = Table(
    "registers",
    "Similarity of the registers (maps: last block)",
    (),
    {
        "cosine": Quantity("cosine of the registers' maps", is_compared=True),
        "centred_cosine": Quantity("centred cosine of the registers' maps", is_compared=True),
        "embedding_cosine": Quantity("mean cosine of pairs of register embeddings"),
    },
    on_page=True,
)


def layer_of(subject: Subject, asked: Asked) -> int:
    """The block whose maps are kept, from 0.

    Raises:
      InputError: If the model has no such block.
    """
    (layer,) = resolve_layers((asked.options.layer,), subject.config.depth)
    return layer


def ask(options: AttentionOptions, checkpoints: Sequence[Subject]) -> Asked:
    """The images, once it is known that every model has the block and a CLS token."""
    asked = open_asked(options, checkpoints)
    for subject in checkpoints:
        layer_of(subject, asked)
        if not subject.config.class_token:
            raise DoesNotApply(
                f"attention asks where CLS looks; without a CLS token: {subject.label}. Ask "
                "norms, similarity, probe, lost and reconstruction instead."
            )
    return asked


def keeps(subject: Subject, asked: Asked) -> dict[str, Keep]:
    """Measures and mean maps of all images, every head's maps of those that are shown."""
    images, preprocess, layer = asked.images, subject.preprocess, layer_of(subject, asked)
    shown = choose_shown(asked.options, images.source, images.indices)
    return {
        "rows": attention_rows(images, preprocess, layer),
        "norms": label_norms(subject, images, asked.options),
        "maps": attention_maps(images.only(shown), preprocess, layer),
        "shown": shown_pixels(images, preprocess, shown),
    }


def measure(subject: Subject, kept: Kept, asked: Asked) -> Measured:
    """Where attention goes, block by block, and how much of CLS's outliers get."""
    model, params = subject.load(asked.options.seed)
    rows, norms = kept["rows"], NormColumns.of(subject, kept["norms"])
    layout, bootstrap = norms.layout, asked.bootstrap(rows.num_rows)
    labels = find_labels(norms, bootstrap, asked.options)
    summary = summarise_attention(rows, layout, embedding_similarity(params), bootstrap)
    numbers = _numbers(summary) | _compared(rows, layout.num_registers, bootstrap)
    numbers |= _on_outliers(labels, cls_maps(rows), rows.read("received"), bootstrap)
    pixels, names = (
        kept["shown"].read("pixels"),
        map(asked.images.named, kept["shown"].indices.tolist()),
    )
    maps = kept["maps"].read("maps")
    maps = maps.reshape(*maps.shape[:3], *layout.grid)
    shown = [ShownAttention(*each) for each in zip(names, pixels, maps, strict=True)]
    rolled: list[ShownAttention] = []
    if asked.options.rollout and shown:
        flows = rollout_maps(model, params, subject.preprocess, pixels)
        rolled = [x._replace(maps=flow[None]) for x, flow in zip(shown, flows, strict=True)]
    layer, arrays = layer_of(subject, asked), f"attention_maps_{subject.slug}.npz"
    return Measured(
        rows.num_rows,
        numbers,
        {
            "block": layer,
            "queries": summary.queries,
            "average_map": summary.average_map,
            "arrays": arrays,
            **labels.facts,
        },
        {arrays: _arrays(summary, shown, rolled, layer)},
        remarks=[labels.remark],
        drawn=Attended(
            _in_words(layer, subject.config.depth - 1),
            summary,
            shown,
            rolled,
            Marked(norms, labels),
            cls_maps(rows),
        ),
    )


def _numbers(summary: AttentionSummary) -> dict[Key, Number]:
    """All estimates of a summary."""
    numbers: dict[Key, Number] = {
        (BY_LAYER.name, str(block), query, name): estimate
        for name, by_block in summary.measures.items()
        for block, by_query in enumerate(by_block)
        for query, estimate in zip(summary.queries, by_query, strict=True)
    }
    for name, by_block in summary.measures.items():
        for query, estimate in zip(summary.queries, by_block[-1], strict=True):
            numbers[LAST_BLOCK.name, query, name] = estimate
    for block, cosines in enumerate(summary.register_maps or ()):
        for name, estimate in zip(REGISTERS_BY_LAYER.quantities, cosines, strict=True):
            numbers[REGISTERS_BY_LAYER.name, str(block), name] = estimate
    if summary.register_embeddings is not None:
        numbers[REGISTERS.name, "embedding_cosine"] = Estimate(summary.register_embeddings, 0)
    return numbers


def _compared(rows, num_registers: int, bootstrap: Bootstrap) -> dict[Key, Number]:
    """What models are compared by, with its resamples: CLS in the last block."""
    features = compared_features(rows, num_registers)
    keys: dict[str, Key] = {f"cls_{name}": (LAST_BLOCK.name, CLS, name) for name in MEASURES}
    keys |= {f"register_maps_{name}": (REGISTERS.name, name) for name in REGISTERS.quantities}
    columns = np.stack(list(features.values()), axis=1)
    resampled = bootstrap.resampled(columns, lambda means: means)
    return dict(zip((keys[name] for name in features), resampled, strict=True))


def _on_outliers(labels: Labels, maps, received, bootstrap: Bootstrap) -> dict[Key, Number]:
    """CLS's attention, and that of all tokens, on the outliers of every definition."""
    numbers: dict[Key, Number] = {}
    for definition, by in labels.by.items():
        found: dict[str, Number] = dict(outlier_masses(by.is_outlier, maps, bootstrap))
        if (
            times := outlier_masses(by.is_outlier, received, bootstrap).get("times_even")
        ) is not None:
            found["received_times_even"] = times
        found |= {"cut": by.numbers["cut"], "share_of_patches": by.share}
        numbers |= {(ON_OUTLIERS.name, definition, name): x for name, x in found.items()}
    return numbers


def differences(
    analysis: Analysis, first: Model, other: Model, asked: Asked
) -> Mapping[Key, Estimate]:
    """All that is compared; and the attention on the outliers of both by one cut."""
    found, (one, two) = (
        paired(analysis, first, other, asked),
        (first.measured.drawn, other.measured.drawn),
    )
    if (masks := by_one_cut(one.marked, two.marked)) is None:
        return found
    bootstrap, name = asked.bootstrap(other.num_images), "share_of_patch_mass"
    parts = (
        outlier_masses(mask, drawn.cls_maps, bootstrap).get(name)
        for mask, drawn in zip(masks, (one, two), strict=True)
    )
    before, after = parts
    if before is not None and after is not None:
        found[BY_ONE_CUT.name, name] = bootstrap.difference(before, after)
    return found


def _arrays(summary: AttentionSummary, shown, rolled, layer: int) -> dict[str, np.ndarray]:
    """What the `.npz` file of a model holds."""
    found = {
        "average_map": summary.average_map,
        "queries": np.array(summary.queries),
        "block": np.array(layer),
        "file_names": np.array([image.name for image in shown]),
    }
    if shown:
        found["maps"] = np.stack([image.maps for image in shown])
    if rolled:
        found["rollout"] = np.stack([image.maps[0] for image in rolled])
    return found


def _in_words(layer: int, last: int) -> str:
    return f"the last block ({last})" if layer == last else f"block {layer} of 0-{last}"


def lead(options: AttentionOptions) -> list[Lead]:
    """Where CLS looks in the last block, and how similar the registers' maps are there."""
    del options
    return [
        Lead((LAST_BLOCK.name, CLS, "mass_registers"), "attention of CLS on the registers"),
        Lead((LAST_BLOCK.name, CLS, "largest_weight"), "largest attention of CLS on a patch"),
        Lead((LAST_BLOCK.name, CLS, "entropy"), "entropy of CLS's map (1: even)"),
        *(
            Lead((ON_OUTLIERS.name, name, quantity), f"attention of CLS on {title}")
            for name, words in ((GROUP, "the outliers found"), (USUAL, "the 2 % of largest norm"))
            for quantity, title in (("mass", words), ("times_even", f"{words} / even attention"))
        ),
        Lead(
            (BY_ONE_CUT.name, "share_of_patch_mass"),
            "outliers' part of the attention of CLS on patches, by one cut",
        ),
        Lead((REGISTERS.name, "cosine"), "cosine of the registers' maps"),
    ]


ANALYSIS = Analysis(
    name="attention",
    heading="Attention",
    text="What CLS and each register look at. Where outlier tokens exist, they draw attention to "
    "single patches that have nothing to do with the object.",
    per_image=(
        *("attention_cls", "attention_maps", "attention_rollout", "attention_heads"),
        "attention_evolution",
    ),
    tables=(LAST_BLOCK, BY_LAYER, ON_OUTLIERS, BY_ONE_CUT, REGISTERS, REGISTERS_BY_LAYER),
    keeps=keeps,
    measure=measure,
    lead=lead,
    figures=figures,
    ask=ask,
    differences=differences,
    options=AttentionOptions,
)
