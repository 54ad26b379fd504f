"""When does a number decide a claim? Intervals against a null or a margin, and what forbids it."""

import dataclasses

from regvit_jax.analysis.claims.evidence import Answer, Evidence, Finding
from regvit_jax.analysis.engine.recipes import unlike
from regvit_jax.analysis.statistics.bootstrap import MIN_IMAGES, Estimate


def direction(found: Estimate | None, null: float, expected: int, what: str) -> tuple[Answer, str]:
    """Whether a number lies beyond the null, on the claimed side or on the other; and why.

    Args:
      found: The number.
      null: What it would be if there were no effect.
      expected: The claimed side: +1 above the null, -1 below.
      what: The number in words.
    """
    ends = _ends(found)
    if isinstance(ends, str):
        return "cannot tell", ends
    side = 1 if ends[0] > null else -1 if ends[1] < null else 0
    if not side:
        return "cannot tell", f"the interval of {what} includes {null:g}"
    words = f"the interval of {what} lies {'above' if side > 0 else 'below'} {null:g}"
    return ("supported" if side == expected else "not supported"), words


def within(
    found: Estimate | None, low: float, high: float, what: str, margin: str
) -> tuple[Answer, str]:
    """Whether a number lies within a margin, or outside; and why.

    Args:
      found: The number.
      low: Where the margin begins.
      high: Where it ends.
      what: The number in words.
      margin: The margin in words.
    """
    ends = _ends(found)
    if isinstance(ends, str):
        return "cannot tell", ends
    if low <= ends[0] and ends[1] <= high:
        return "supported", f"the interval of {what} lies within {margin}"
    if ends[1] < low or ends[0] > high:
        return "not supported", f"the interval of {what} lies outside {margin}"
    return "cannot tell", f"the interval of {what} is not wholly within or outside {margin}"


def unless_without_outliers(evidence: Evidence, finding: Finding) -> Finding:
    """The finding, undecided where a model without registers has no outliers to speak of."""
    plain = [model for model in finding.models if not model["num_registers"]]
    known = [(model, evidence.outliers(model)) for model in plain or finding.models[:1]]
    first, has = next(((model, has) for model, has in known if has != "found"), known[0])
    if has == "found":
        return finding
    if has is None:
        command = evidence.command("norms")
        reason = f"whether {first['label']} has outliers is not known: run {command}"
    else:
        words = "finds none" if has == "not found" else "cannot tell whether there are any"
        reason = (
            f"the claim is about outliers, and `norms` {words} in {first['label']}; "
            f"by itself, {finding.reason}"
        )
    return undecided(finding, reason)


def unless_unlike(finding: Finding) -> Finding:
    """The finding, undecided where its models differ in more than their registers."""
    difference = unlike(*finding.models[:2])
    if difference is None:
        return finding
    return undecided(finding, f"the models differ in more than registers: {difference}")


def undecided(finding: Finding, reason: str) -> Finding:
    """The finding without its verdict."""
    return dataclasses.replace(finding, answer="cannot tell", reason=reason)


def _ends(found: Estimate | None) -> tuple[float, float] | str:
    """The interval, or why it carries no verdict."""
    if found is None:
        return "the number is missing in the results (no such patches, or not measured)"
    if found.low is None or found.high is None:
        return "the number has no interval"
    if found.n < MIN_IMAGES:
        return f"it rests on {found.n} images only; a verdict needs {MIN_IMAGES}"
    return found.low, found.high
