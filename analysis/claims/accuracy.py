"""By which rules are claims on accuracy judged? As in `regvit_jax.analysis.claims.rules`."""

from collections.abc import Iterator

from regvit_jax.analysis.claims.evidence import (
    Answer,
    Evidence,
    Finding,
    Findings,
    Json,
    in_percent,
    unpaired_difference,
)
from regvit_jax.analysis.claims.verdicts import undecided, unless_unlike, within
from regvit_jax.analysis.engine.recipes import same_shape, sides_of
from regvit_jax.analysis.statistics.bootstrap import Estimate
from regvit_jax.analysis.statistics.seeds import difference

TOP1_MARGIN = 0.01
"""Accuracies this near to each other count as alike."""
PUBLISHED_TOP1 = {0: 0.81054, 4: 0.80810}
"""Top-1 accuracy of the study's models by registers, epoch 799."""
PUBLISHED_MARGIN = 0.005
"""Accuracies this near to the published one count as reproduced; a seed changes some 0.2 points.
The images are the published ones, so that sampling images is no error of the comparison."""
IMAGENET_VAL = 50_000
COUNTED_REGISTERS = (2, 8, 16)
"""The numbers of registers that the claim on them names."""


def top1_is_reproduced(evidence: Evidence) -> Findings:
    """DeiT-III Small with 0 and 4 registers reaches the study's accuracy on ImageNet."""
    found = []
    for model in evidence.models:
        top1 = _top1(model)
        published = PUBLISHED_TOP1.get(model["num_registers"])
        if published is None or not _is_the_studys(model, top1):
            continue
        is_near = top1 is not None and abs(top1.value - published) <= PUBLISHED_MARGIN
        answer: Answer = "supported" if is_near else "not supported"
        place = "within" if is_near else "outside"
        reason = (
            f"the accuracy lies {place} {100 * PUBLISHED_MARGIN:g} points of "
            f"{100 * published:.2f} %"
        )
        numbers = (in_percent("top-1", top1),)
        found.append(Finding((model,), "ImageNet's validation images", numbers, answer, reason))
    return found or (
        "No DeiT-III Small with 0 or 4 registers was evaluated on the 50,000 validation images of "
        "ImageNet. Run `regvit-train eval --checkpoint CHECKPOINT --data IMAGENET`."
    )


def count_is_minor(evidence: Evidence) -> Findings:
    """With any number of registers, accuracy stays within a point of that without."""
    pairs = list(_accuracy_pairs(evidence))
    counts = {second["num_registers"] for _, second, _ in pairs}
    found = list(_accuracies_over_runs(evidence))
    for first, second, change in pairs:
        numbers = (
            in_percent(f"top-1, {second['num_registers']} registers minus none", change, "points"),
        )
        given = ((first, second), "the validation images", numbers)
        found.append(unless_unlike(Finding(*given, *_is_minor(change), "pair")))
    if not found:
        return (
            "Needs the accuracy, on the same images, of a model without and of models with 2, 8 "
            "or 16 registers. Run `regvit-train run --num-registers 0`, the same with 2, 8 and 16, "
            "and name the runs after `--runs`."
        )
    if not counts & set(COUNTED_REGISTERS):
        named = ", ".join(map(str, sorted(counts)))
        reason = f"the claim is about 2, 8 and 16 registers, measured are {named}"
        found = [undecided(finding, reason) for finding in found]
    return found


def _accuracies_over_runs(evidence: Evidence) -> Iterator[Finding]:
    known = [model for model in evidence.models if _top1(model) is not None]
    for sides in sides_of(known):
        if not sides.is_enough or len({_evaluated_on(m) for side in sides for m in side}) > 1:
            continue
        tops = [[_top1(model) for model in side] for side in sides]
        over = difference(*([top1.value for top1 in side if top1] for side in tops))
        n = min(top1.n for side in tops for top1 in side if top1)
        change = Estimate(over.value, n, over.low, over.high)
        numbers = (in_percent(f"top-1 over {sides.words}", change, "points"),)
        given = ((*sides.without, *sides.having), "the validation images", numbers)
        yield Finding(*given, *_is_minor(change), "runs")


def _is_minor(change: Estimate | None) -> tuple[Answer, str]:
    margin = f"±{100 * TOP1_MARGIN:g} point"
    return within(change, -TOP1_MARGIN, TOP1_MARGIN, "the change", margin)


def _is_the_studys(model: Json, top1: Estimate | None) -> bool:
    """Whether a DeiT-III Small was evaluated on all of ImageNet's validation images."""
    is_small = model.get("variant") == "small" and model["model"].get("num_classes") == 1000
    return is_small and top1 is not None and top1.n == IMAGENET_VAL


def _top1(model: Json) -> Estimate | None:
    return Estimate.of((model.get("metrics") or {}).get("top1"))


def _accuracy_pairs(evidence: Evidence) -> Iterator[tuple[Json, Json, Estimate]]:
    """Models of one shape without and with registers, evaluated on the same images."""
    known = [(model, top1) for model in evidence.models if (top1 := _top1(model)) is not None]
    for first, before in known:
        for second, after in known:
            same = before.n == after.n and _evaluated_on(first) == _evaluated_on(second)
            is_pair = first["num_registers"] == 0 < second["num_registers"]
            if same and is_pair and same_shape(first, second):
                yield first, second, unpaired_difference(before, after)


def _evaluated_on(model: Json) -> str | None:
    return model["metrics"].get("data")
