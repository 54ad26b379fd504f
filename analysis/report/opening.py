"""What does a report say first? The answer in a few sentences, and the figure that shows it."""

from collections.abc import Mapping, Sequence
from typing import Any

from regvit_jax.analysis.claims.judgement import Judgement

Json = Mapping[str, Any]

FIRST_FIGURES = ("norm_maps", "attention_cls", "norms_histogram", "norms_by_layer")
"""Names of figures, the one that shows most first."""
_ANSWERS = {"found": "found in", "cannot tell": "undecided in", "not found": "not found in"}


def sentences(
    results: Sequence[Json], models: Sequence[str], judgements: Sequence[Judgement]
) -> list[str]:
    """What was measured, which models have outliers, and how published claims fare.

    Args:
      results: Of every analysis.
      models: Names of the trained models.
      judgements: Of all claims.
    """
    found = [_measured(results, models), _outliers(results), _claims(judgements)]
    return [sentence for sentence in found if sentence]


def _measured(results: Sequence[Json], models: Sequence[str]) -> str:
    if not models:
        return ""
    names = _listed(models[:6]) + (f" and {len(models) - 6} more" if len(models) > 6 else "")
    counts = [r["data"] for r in results if "num_images" in r["data"]]
    images = f" on {counts[0]['num_images']} images of {counts[0]['name']}" if counts else ""
    count = "One model was" if len(models) == 1 else f"{len(models)} models were"
    return f"{count} measured{images}: {names}."


def _outliers(results: Sequence[Json]) -> str:
    """Which models have outlier tokens, by the first analysis that asks."""
    for found in results:
        verdicts = [m for m in found["models"] if "verdict" in m]
        if verdicts and "outlier" in found.get("about", {}).get("verdict", ""):
            if counted := _counted(verdicts):
                return f"Outlier tokens: found in {counted}."
            groups = {answer: _models_with(verdicts, answer) for answer in _ANSWERS}
            parts = [f"{_ANSWERS[answer]} {names}" for answer, names in groups.items() if names]
            return f"Outlier tokens: {'; '.join(parts)}."
    return ""


def _counted(models: Sequence[Json]) -> str:
    """In how many runs they are found, where there are several with each number of registers."""
    by_count: dict[int, list[str]] = {}
    for model in models:
        if not model["is_twin"]:
            answers = by_count.setdefault(model["num_registers"], [])
            answers.append(model["verdict"]["answer"])
    if len(by_count) < 2 or min(map(len, by_count.values())) < 2:
        return ""
    parts = []
    for count, answers in sorted(by_count.items()):
        registers = f"with {count} register" if count else "without register"
        registers += "" if count == 1 else "s"
        unsure = answers.count("cannot tell")
        more = f" (undecided in {unsure})" if unsure else ""
        parts.append(f"{answers.count('found')} of {len(answers)} models {registers}{more}")
    if twins := [model["verdict"]["answer"] for model in models if model["is_twin"]]:
        parts.append(f"{twins.count('found')} of {len(twins)} untrained ones")
    return _listed(parts)


def _models_with(models: Sequence[Json], answer: str) -> str:
    """The trained models of an answer, then how many untrained ones."""
    chosen = [m for m in models if m["verdict"]["answer"] == answer]
    names = [m["label"] for m in chosen if not m["is_twin"]]
    twins = sum(m["is_twin"] for m in chosen)
    if twins:
        names.append("an untrained control" if twins == 1 else f"{twins} untrained controls")
    return _listed(names)


def _claims(judgements: Sequence[Judgement]) -> str:
    judged = [j.answer for j in judgements if j.answer != "not judged"]
    if not judged:
        return ""
    counts = {
        "supported here": judged.count("supported"),
        "not supported": judged.count("not supported"),
        "answered for this pair of models alone": judged.count("in this pair of models"),
        "undecided by these results": judged.count("cannot tell"),
    }
    parts = [f"{n} {'is' if n == 1 else 'are'} {words}" for words, n in counts.items() if n]
    return f"Of the {len(judged)} published claims that a rule can judge, {_listed(parts)}."


def _listed(names: Sequence[str]) -> str:
    """Names as in a sentence: "a, b and c"."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"
