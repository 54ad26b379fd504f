"""In how many runs do patches of high norm appear, and what do registers change?

`python -m benchmarks.organism` trains the preset `organism` with every number of registers and
every seed asked for, measures each run on the same 1,000 validation mosaics, and prints one row for
each number of registers, with intervals over seeds. What is finished is not done again: runs lie in
`--out`, and the same command goes on there. `--keep` adds every run to the results; `--write` puts
the tables of the newest ones into docs/organism.md; `--figure` draws them.
"""

import argparse
import dataclasses
import json
import resource
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import measurements
from benchmarks.tables import cells, newest_rows, replaced_table
from regvit_jax import strict_json
from regvit_jax.analysis.statistics.seeds import difference, mean
from regvit_jax.train.cores import claim_cores
from regvit_jax.train.presets import preset
from regvit_jax.whole import write_whole

PAGE = Path(__file__).parents[1] / "docs" / "organism.md"
BEGIN, END = "<!-- {}: python -m benchmarks.organism -->", "<!-- end of {} -->"
NUM_IMAGES = 1000
MEASURED = "organism.json"
"""In the folder of a run: what was measured of it."""
QUANTITIES = {
    "background": "norm of background, in medians of all patches",
    "on_background": "attention of patches on background",
    "on_registers": "on registers",
    "on_cls": "on CLS",
    "cls_on_background": "attention of CLS on background",
    "accuracy": "accuracy",
}
"""What is averaged over seeds: the norm in the block where it is largest, the attention in the last
block but for CLS's, which is taken where it is largest; shares are of all attention."""

Row = dict[str, Any]
"""One run: its registers and seed, what was found, and the quantities."""


def main() -> None:
    """Trains, measures, prints, and keeps, draws and writes what is asked for."""
    options = _parser().parse_args()
    if not options.write_only:
        rows = list(study(options.registers, options.seeds, options.out))
        print(*lines(rows), sep="\n")
        if options.figure:
            from benchmarks.organism_figure import draw

            draw(rows, options.figure)
            print(f"Figure: {options.figure}")
        if options.keep:
            recipe = dataclasses.asdict(preset("organism"))
            measurements.keep(options.job, rows, {"recipe": recipe, "images": NUM_IMAGES})
    if options.write or options.write_only:
        PAGE.write_text(replaced(PAGE.read_text()))


def study(registers: Sequence[int], seeds: Sequence[int], out: Path) -> Iterator[Row]:
    """Every run, one after the other; those that are finished are read.

    Args:
      registers: Numbers of registers.
      seeds: Of the runs with each of them.
      out: A folder for all runs.
    """
    recipe = preset("organism")
    claim_cores(recipe.data.batch_size, recipe.model)
    from regvit_jax.compilation import cache_compilations

    cache_compilations()
    for seed in seeds:
        for count in registers:
            row = _run(count, seed, out / f"seed{seed}-reg{count}")
            print(_told(row), flush=True)
            yield row


def _run(count: int, seed: int, folder: Path) -> Row:
    """One run, trained and measured unless it has been before."""
    path = folder / MEASURED
    if path.is_file():
        return strict_json.read_json(path)
    from benchmarks.organism_measures import measure
    from regvit_jax.train.loop import train

    recipe = preset("organism")
    model = dataclasses.replace(recipe.model, num_registers=count)
    before = _cpu_seconds()
    outcome = train(dataclasses.replace(recipe, model=model, seed=seed), folder)
    if outcome.signal is not None:
        raise SystemExit(128 + outcome.signal)
    seconds = round(_cpu_seconds() - before, 1)
    row = {"registers": count, "seed": seed, **measure(folder, NUM_IMAGES), "cpu_seconds": seconds}
    write_whole(path, json.dumps(row, indent=2) + "\n")
    return row


def lines(rows: Sequence[Row]) -> Iterator[str]:
    """The table, one line for each number of registers."""
    heads = ["registers", "seeds", "found in any block", "after the last block"]
    yield cells([*heads, *QUANTITIES.values()])
    yield "|---" * (len(heads) + len(QUANTITIES)) + "|"
    for count in sorted({row["registers"] for row in rows}):
        own = [row for row in rows if row["registers"] == count]
        found = [str(sum(row[name] == "found" for row in own)) for name in ("verdict", "last")]
        numbers = [spoken(name, [row[name] for row in own]) for name in QUANTITIES]
        yield cells([str(count), str(len(own)), *found, *numbers])


def spoken(name: str, values: Sequence[float]) -> str:
    """The mean of a quantity over seeds with its 95 % interval."""
    if name != "background":
        values = [100 * value for value in values]
    found = mean(values)
    digits = 2 if name == "background" else 0 if name != "accuracy" else 1
    unit = "" if name == "background" else " %"
    if found.low is None or found.high is None:
        return f"{found.value:.{digits}f}{unit}"
    low, high = max(found.low, 0.0), found.high if name == "background" else min(found.high, 100.0)
    return f"{found.value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f}){unit}"


def effect(rows: Sequence[Row], count: int) -> str:
    """What so many registers change in the norm of background, over seeds, in one sentence."""
    sides = [[row["background"] for row in rows if row["registers"] == n] for n in (0, count)]
    found = difference(*sides)
    interval = (
        "" if found.low is None else f" (95 % over seeds: {found.low:.2f} to {found.high:.2f})"
    )
    return (
        f"{count} registers change the norm of background by {found.value:+.2f} medians{interval}."
    )


def table(job: str) -> list[str]:
    """The newest runs of a job, for the page."""
    rows = newest_rows(job)
    others = sorted({row["registers"] for row in rows} - {0})
    told = " ".join(effect(rows, count) for count in others)
    return [*lines(rows), "", told]


def replaced(text: str) -> str:
    """The page with the newest table of each job that it has a place for."""
    known = {job for jobs in measurements.newest().values() for job in jobs}
    for job in ("organism", "sweep"):
        if job in known and BEGIN.format(job) in text:
            text = replaced_table(text, BEGIN.format(job), END.format(job), table(job))
    return text


def _told(row: Mapping[str, Any]) -> str:
    return (
        f"seed {row['seed']}, {row['registers']} registers: {row['verdict']} (last block: "
        f"{row['last']}), background {row['background']:.2f} medians, attention on background "
        f"{100 * row['on_background']:.0f} %, on registers {100 * row['on_registers']:.0f} %, "
        f"accuracy {100 * row['accuracy']:.1f} %, {row['cpu_seconds']:.0f} s of CPU"
    )


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.organism", description=__doc__)
    add = parser.add_argument
    add("--registers", type=int, nargs="+", default=[0, 4], help="numbers of registers")
    add("--seeds", type=int, nargs="+", default=list(range(20)), help="of the runs with each")
    add("--out", type=Path, default=Path("runs/organism"), help="folder of all runs")
    add("--job", choices=("organism", "sweep"), default="organism", help="name in the results")
    add("--figure", type=Path, help="a PNG file to draw the quantities into")
    add("--keep", action="store_true", help="add the runs to the results")
    add("--write", action="store_true", help="rewrite the tables of the docs too")
    add("--write-only", action="store_true", help="only rewrite the tables of the docs")
    return parser


if __name__ == "__main__":
    main()
