"""What do these results say about the study's claims, one by one?"""

import dataclasses
from collections.abc import Sequence

from regvit_jax.analysis.claims.catalogue import CLAIMS, STUDIED, Claim
from regvit_jax.analysis.claims.evidence import Answer, Evidence, Finding
from regvit_jax.analysis.statistics.seeds import MIN_SEEDS

FEW_RUNS = (
    f"Another seed may say otherwise: a statement about registers needs {MIN_SEEDS} training runs "
    "with and without."
)


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What the results say about a claim."""

    claim: Claim
    answer: Answer
    why: str
    numbers: tuple[str, ...] = ()
    about: str = ""
    """The models and images that the verdict is about; empty where there is none."""


def judge_claims(evidence: Evidence) -> list[Judgement]:
    """Every claim's verdict, in the order of the claims."""
    return [_judge(claim, evidence) for claim in CLAIMS]


def combine(findings: Sequence[Finding]) -> Answer:
    """The verdict that all models or pairs agree on; where they do not, nobody can tell.

    A statement about registers needs several training runs a side: where there are, they decide,
    and what single pairs agree on is said of these pairs only.
    """
    over_runs = [finding for finding in findings if finding.scope == "runs"]
    answers = {finding.answer for finding in over_runs or findings}
    if len(answers) > 1:
        return "cannot tell"
    answer = answers.pop()
    is_pair = not over_runs and any(finding.scope == "pair" for finding in findings)
    is_told = answer in ("supported", "not supported")
    return "in this pair of models" if is_pair and is_told else answer


def _judge(claim: Claim, evidence: Evidence) -> Judgement:
    shown = tuple(claim.show(evidence)) if claim.show else ()
    if claim.judge is None:
        return Judgement(claim, "not judged", claim.rule, shown)
    found = claim.judge(evidence)
    if isinstance(found, str):
        return Judgement(claim, "cannot tell", found, shown)
    several = len(found) > 1
    numbers = tuple(
        f"{finding.title}: {number}" if several else number
        for finding in found
        for number in finding.numbers
    )
    answer, why = combine(found), _why(found)
    if answer == "in this pair of models":
        side = "for" if found[0].answer == "supported" else "against"
        why = f"It speaks {side} the claim in this pair: {why[:1].lower()}{why[1:]} {FEW_RUNS}"
    return Judgement(claim, answer, why, numbers, _about(claim, found, answer))


def _why(findings: Sequence[Finding]) -> str:
    if len(findings) == 1:
        return _sentence(findings[0].reason)
    by_reason: dict[tuple[str, str], list[str]] = {}
    for finding in findings:
        by_reason.setdefault((finding.answer, finding.reason), []).append(finding.title)
    disagree = len({finding.answer for finding in findings}) > 1 and not any(
        finding.scope == "runs" for finding in findings
    )
    sentences = ["They do not agree."] if disagree else []
    for (answer, reason), titles in by_reason.items():
        verdict = f"{answer}, " if disagree else ""
        sentences.append(f"{_listed(titles)}: {verdict}{reason.rstrip('.')}.")
    return " ".join(sentences)


def _about(claim: Claim, findings: Sequence[Finding], answer: Answer) -> str:
    """Which models and images, and whether these are what the claim is about."""
    models = {m["label"]: m for finding in findings for m in finding.models}
    sizes = sorted({model.get("variant") or "custom" for model in models.values()})
    where = " and ".join(dict.fromkeys(finding.images for finding in findings))
    words = f"in {_listed(list(models))} ({', '.join(sizes)} size), on {where}"
    is_embedded = any("(synthetic)" in finding.images for finding in findings)
    is_another = claim.about == STUDIED and (sizes != ["small"] or is_embedded)
    if is_another and answer != "cannot tell":
        words += f"; this says nothing about {STUDIED}"
    return words


def _listed(labels: Sequence[str], limit: int = 6) -> str:
    if len(labels) > limit:
        return f"{', '.join(labels[:limit])} and {len(labels) - limit} more"
    *most, last = labels
    return f"{', '.join(most)} and {last}" if most else last


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
