"""How often are registers said to do something where two sides differ in their seeds alone?

`python -m benchmarks.seeds` draws the numbers of training runs of one recipe, calls some of them
"with registers", and asks the rules of `analysis/claims` what they say. Runs differ by their seed
by more than their images say, as trained ones do. `--keep` adds the figures to the results;
`--write` puts the table of the newest ones into docs/analyse.md, between two comments.
"""

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from benchmarks import measurements
from benchmarks.tables import cells, newest_rows, replaced_table
from benchmarks.verdict import PAGE
from regvit_jax.analysis.claims.evidence import Evidence
from regvit_jax.analysis.claims.judgement import judge_claims

JOB = "seeds"
BEGIN, END = "<!-- seeds: python -m benchmarks.seeds -->", "<!-- end of seeds -->"
RUNS = (1, 2, 3, 5)
"""Training runs a side."""
NUM_IMAGES, SEED_SPREAD, IMAGE_ERROR = 500, 0.03, 0.004
"""Every number has as many images; how runs differ, and how sure one run's is."""
NUMBERS = {
    2: ("norms", "outliers_by_one_cut/share"),
    8: ("lost", "lost/corloc"),
    10: ("attention", "attention_by_one_cut/share_of_patch_mass"),
}
"""By claim on registers: the analysis and the number that decides it."""
SHAPE = {"embed_dim": 384, "depth": 12, "num_heads": 6, "patch_size": 16, "image_size": 224}
ANSWERS = ("supported", "not supported", "cannot tell", "in this pair of models")


def main() -> None:
    """Draws, prints, keeps and writes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.seeds", description=__doc__)
    parser.add_argument("--pairs", type=int, default=400, help="of recipes that are the same")
    parser.add_argument("--keep", action="store_true", help="add the figures to the results")
    parser.add_argument("--write", action="store_true", help="rewrite the table of the docs only")
    options = parser.parse_args()
    if not options.write:
        rows = [measure(runs, options.pairs) for runs in RUNS]
        for row in rows:
            print(*line(row), sep="  ")
        if options.keep:
            measurements.keep(JOB, rows, {"pairs": options.pairs})
    if options.write or options.keep:
        PAGE.write_text(replaced(PAGE.read_text()))


def measure(runs: int, pairs: int) -> dict[str, Any]:
    """What the rules say of pairs of equal recipes, and how many intervals over images leave out 0.

    Args:
      runs: Training runs a side.
      pairs: Of recipes.
    """
    answers = dict.fromkeys(ANSWERS, 0)
    alone = 0
    for seed in range(pairs):
        generator = np.random.default_rng((runs, seed))
        evidence = Evidence([folder(*NUMBERS[c], runs, generator) for c in NUMBERS], [])
        for judgement in judge_claims(evidence):
            if judgement.claim.number in NUMBERS:
                answers[judgement.answer] += 1
        for results in evidence.folders:
            low, high = next(iter(results["comparisons"][0]["differences"].values()))["interval"]
            alone += bool(low * high > 0)
    return {"runs": runs, "statements": pairs * len(NUMBERS), "answers": answers, "alone": alone}


def folder(analysis: str, key: str, runs: int, generator: np.random.Generator) -> dict[str, Any]:
    """Results of one analysis on runs of one recipe, half of them called "with registers".

    Models have the number themselves where analyses give it, or pairs of equal seeds alone.
    """
    values = 0.3 + generator.normal(0, SEED_SPREAD, (2, runs))
    values += generator.normal(0, IMAGE_ERROR, values.shape)
    models = [
        run(
            registers,
            seed,
            {key: number(values[side, seed], IMAGE_ERROR)} if analysis == "lost" else {},
        )
        for side, registers in enumerate((0, 4))
        for seed in range(runs)
    ]
    pairs = [
        {
            "from": f"reg0-{seed}",
            "to": f"reg4-{seed}",
            "differences": {key: number(values[1, seed] - values[0, seed], 2**0.5 * IMAGE_ERROR)},
        }
        for seed in range(runs)
    ]
    return {
        "analysis": analysis,
        "configuration": {"data": "photographs"},
        "data": {"name": "photographs", "num_images": NUM_IMAGES},
        "models": models,
        "comparisons": pairs,
        "baselines": [],
    }


def run(registers: int, seed: int, numbers: Mapping[str, Any]) -> dict[str, Any]:
    """A training run as results have it."""
    recipe = {"seed": seed, "model": {"num_registers": registers}}
    return {
        "label": f"reg{registers}-{seed}",
        "checkpoint": f"/runs/reg{registers}-{seed}",
        "is_twin": False,
        "num_registers": registers,
        "model": SHAPE | {"num_registers": registers},
        "variant": "small",
        "source": {"kind": "training run", "recipe": recipe},
        "metrics": {},
        "numbers": numbers,
        "verdict": {"answer": "found", "reason": "Drawn."},
    }


def number(value: float, error: float) -> dict[str, Any]:
    """A number whose interval is of its images."""
    ends = [value - 1.96 * error, value + 1.96 * error]
    return {"value": value, "n": NUM_IMAGES, "interval": ends}


def line(row: Mapping[str, Any]) -> Iterator[str]:
    """Runs a side, and the shares of the statements."""
    yield str(row["runs"])
    for count in (*row["answers"].values(), row["alone"]):
        yield f"{100 * count / row['statements']:.1f} %"


def replaced(text: str) -> str:
    """The page with the newest table."""
    rows = newest_rows(JOB)
    heads = ["runs a side", *ANSWERS, "(interval over images leaves out 0)"]
    table = [cells(heads), "|---" * len(heads) + "|", *(cells(line(row)) for row in rows)]
    note = (
        f"Of {rows[0]['statements']:,} statements about registers, on runs of one recipe that "
        "differ in their seeds alone."
    )
    return replaced_table(text, BEGIN, END, [*table, "", note])


if __name__ == "__main__":
    main()
