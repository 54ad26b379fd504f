"""By which rules are claims judged that rest on interventions? Those of Parodi, Jiang and Darcet.

A claim about one model is judged in every model that it applies to; where these disagree, nobody
can tell.
"""

from collections.abc import Callable, Iterator

from regvit_jax.analysis.claims.evidence import (
    Evidence,
    Finding,
    Findings,
    Json,
    Pair,
    images,
    in_percent,
    number_of,
)
from regvit_jax.analysis.claims.rules import by_pair, rises
from regvit_jax.analysis.claims.verdicts import direction, within
from regvit_jax.analysis.statistics.bootstrap import Estimate

MARGIN = 0.01
"""An accuracy that changes by less is one that stays."""
GONE = 0.1
"""So much of the outliers may be left where they are said to be gone."""
_SCORES = {"top1": "top-1 of the head", "linear": "top-1 of a linear probe"}


def zeroed_registers_cost(evidence: Evidence) -> Findings:
    """Accuracy falls when all registers are zeroed."""
    return _of_ablate(evidence, "registers_zeroed", "all registers zeroed", _falls)


def mean_registers_cost_nothing(evidence: Evidence) -> Findings:
    """Accuracy stays when registers are replaced by their mean."""
    return _of_ablate(evidence, "registers_mean", "registers replaced by their mean", _stays)


def other_registers_cost_nothing(evidence: Evidence) -> Findings:
    """Accuracy stays with the registers of other images."""
    return _of_ablate(evidence, "registers_other_image", "registers of other images", _stays)


def zeroed_patches_cost_little(evidence: Evidence) -> Findings:
    """Accuracy stays when a few random patches are zeroed."""
    return _of_ablate(evidence, "patches_zeroed", "random patches zeroed", _stays)


def shifted_units_end_outliers(evidence: Evidence) -> Findings:
    """With the chosen units shifted, hardly an outlier is left."""

    def judge(model: Json) -> Finding:
        before = number_of(model, "test_time_registers/outliers_before")
        left = number_of(model, "test_time_registers/outliers")
        units = number_of(model, "test_time_registers/num_units")
        numbers = (
            in_percent("outliers before", before),
            in_percent("outliers with test-time registers", left),
            "" if units is None else f"units shifted: {units.value:.0f}",
        )
        most = GONE * before.value if before else 0.0
        words = f"a tenth of the outliers before ({100 * most:.2f} %)"
        answer, reason = within(left, -1.0, most, "the share of outliers that is left", words)
        return Finding((model,), "", numbers, answer, reason)

    return _of_neurons(evidence, judge)


def shifted_units_cost_nothing(evidence: Evidence) -> Findings:
    """With the chosen units shifted, accuracy stays."""
    words = "units shifted to test-time registers"
    return _of_neurons(evidence, lambda model: _stays(model, _shifted(model, "shifted"), words))


def silent_units_cost(evidence: Evidence) -> Findings:
    """With the same units silent instead, accuracy falls."""
    words = "the same units silent"
    return _of_neurons(evidence, lambda model: _falls(model, _shifted(model, "zeroed"), words))


def dense_features_gain(evidence: Evidence) -> Findings:
    """With registers, patches tell better what they show."""
    key = "segment/linear/mean_iou"

    def numbers(pair: Pair) -> tuple[str, ...]:
        return (in_percent("mean IoU of patches, linear", pair.differences.get(key), "points"),)

    return by_pair(evidence, "segment", key, rises, numbers, data="VOCdevkit")


Change = tuple[str, Estimate | None]
"""Which score, and how it changes."""


def _of_ablate(
    evidence: Evidence, condition: str, words: str, judge: Callable[[Json, Change, str], Finding]
) -> Findings:
    found = []
    for results, model in evidence.measured("ablate", lambda model: model["num_registers"] > 0):
        known = [
            (title, number_of(model, f"ablate/{condition}/{score}_change"))
            for score, title in _SCORES.items()
        ]
        change = next((each for each in known if each[1] is not None), known[0])
        found.append(_placed(judge(model, change, words), results))
    if found:
        return found
    if evidence.of("ablate"):
        return f"None of these models has registers. Run {evidence.command('ablate', 'WITH')}."
    return f"Run {evidence.command('ablate')}."


def _of_neurons(evidence: Evidence, judge: Callable[[Json], Finding]) -> Findings:
    shifted = list(_with_units(evidence))
    if shifted:
        return [_placed(judge(model), results) for results, model in shifted]
    if evidence.of("neurons"):
        return "None of these models has outlier tokens that units could be found for."
    return f"Run {evidence.command('neurons')}."


def _with_units(evidence: Evidence) -> Iterator[tuple[Json, Json]]:
    key = "test_time_registers/num_units"
    yield from evidence.measured("neurons", lambda model: number_of(model, key) is not None)


def _shifted(model: Json, condition: str) -> Change:
    """How top-1 changes with the chosen number of units."""
    units = number_of(model, "test_time_registers/num_units")
    assert units is not None
    key = f"neurons/{condition}/{units.value:.0f}/top1_change"
    return _SCORES["top1"], number_of(model, key)


def _falls(model: Json, change: Change, words: str) -> Finding:
    numbers = (in_percent(f"{words}: {change[0]}", change[1], "points"),)
    answer, reason = direction(change[1], 0.0, -1, "the change")
    return Finding((model,), "", numbers, answer, reason)


def _stays(model: Json, change: Change, words: str) -> Finding:
    numbers = (in_percent(f"{words}: {change[0]}", change[1], "points"),)
    margin = f"±{100 * MARGIN:g} point"
    answer, reason = within(change[1], -MARGIN, MARGIN, "the change", margin)
    return Finding((model,), "", numbers, answer, reason)


def _placed(finding: Finding, results: Json) -> Finding:
    return Finding(finding.models, images(results), finding.numbers, finding.answer, finding.reason)
