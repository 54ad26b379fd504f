"""What do results and training runs say that a claim can be judged by?

Models are compared as "without registers" and "with registers", whichever came first on the
command line; untrained twins never stand for a model.
"""

import dataclasses
import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from regvit_jax.analysis.engine.epochs import run_folder
from regvit_jax.analysis.engine.recipes import (
    Sides,
    over_sides,
    place_of,
    same_shape,
    sides_of,
)
from regvit_jax.analysis.statistics.bootstrap import Estimate
from regvit_jax.analysis.statistics.seeds import OverSeeds
from regvit_jax.data import EMBEDDED

Json = Mapping[str, Any]
Answer = Literal[
    "supported", "not supported", "cannot tell", "in this pair of models", "not judged"
]

_PARTS = frozenset({"train", "val", "valid", "validation", "test"})


class Pair(NamedTuple):
    """Two models of one shape, measured on the same images; differences are second minus first."""

    first: Json
    second: Json
    differences: Mapping[str, Estimate]
    results: Json


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one model, or one pair, says about a claim."""

    models: tuple[Json, ...]
    images: str
    numbers: tuple[str, ...]
    answer: Answer
    reason: str
    scope: Literal["", "pair", "runs"] = ""
    """Who says what is said of registers: a pair of models, or training runs of a recipe."""

    @property
    def title(self) -> str:
        if self.scope == "runs":
            return f"{len(self.models)} training runs"
        return " → ".join(model["label"] for model in self.models)


Findings = list[Finding] | str
"""What each model, pair or set of runs says; or a sentence on what is missing."""


@dataclasses.dataclass(frozen=True)
class Evidence:
    """All that is known when a report is written."""

    folders: Sequence[Json]
    """What each results.json says."""
    models: Sequence[Json]
    """Every checkpoint once, with its metrics."""
    hours: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Hours of training, by the run's label."""

    def of(self, analysis: str) -> list[Json]:
        """The results of one analysis."""
        return [results for results in self.folders if results["analysis"] == analysis]

    def measured(
        self, analysis: str, keep: Callable[[Json], bool] = lambda _: True
    ) -> Iterator[tuple[Json, Json]]:
        """Results and model, for every trained model of an analysis that is kept."""
        for results in self.of(analysis):
            for model in results["models"]:
                if not model["is_twin"] and keep(model):
                    yield results, model

    def register_pairs(self, analysis: str) -> list[Pair]:
        """The compared models of one shape: without registers, then with them."""
        found = []
        for pair in self._pairs(analysis):
            counts = [pair.first["num_registers"], pair.second["num_registers"]]
            if min(counts) == 0 < max(counts) and same_shape(pair.first, pair.second):
                found.append(pair if counts[0] == 0 else _turned(pair))
        return found

    def over_runs(self, pairs: Sequence[Pair], key: str) -> Iterator[tuple[Sides, Json, OverSeeds]]:
        """A difference over the training runs of recipes that have enough of them.

        Each model's own number is taken, or the pairs' differences where it has none.

        Args:
          pairs: Of one analysis.
          key: Of the number, and of the pairs' differences.
        """
        folders = {id(pair.results): pair.results for pair in pairs}.values()
        for results in folders:
            here = [pair for pair in pairs if pair.results is results]
            known = {pair[place]["label"]: pair[place] for pair in here for place in (0, 1)}
            for sides in sides_of(list(known.values())):
                changes = {
                    (pair.first["label"], pair.second["label"]): pair.differences.get(key)
                    for pair in here
                }
                over = over_sides(sides, lambda model: number_of(model, key), changes)
                if sides.is_enough and over is not None:
                    yield sides, results, over

    def stage_pairs(self, analysis: str) -> list[Pair]:
        """The compared stages of one training run with registers: earlier, then later."""
        found = []
        for pair in self._pairs(analysis):
            places = [place_of(pair.first), place_of(pair.second)]
            if None in places or places[0] == places[1] or not _same_run(pair):
                continue
            if pair.first["num_registers"]:
                found.append(pair if places[0] < places[1] else _turned(pair))  # type: ignore[operator]
        return found

    def outliers(self, model: Json) -> str | None:
        """What `norms` says of a checkpoint's outliers; None where it was not asked."""
        answers = {
            found["verdict"]["answer"]
            for _, found in self.measured("norms", lambda m: m["checkpoint"] == model["checkpoint"])
        }
        return answers.pop() if len(answers) == 1 else "cannot tell" if answers else None

    def command(self, analysis: str, checkpoints: str = "", data: str = "") -> str:
        """The command line whose results are missing."""
        paths = [str(model["checkpoint"]) for model in self.models if model.get("checkpoint")]
        names = checkpoints or " ".join(map(shlex.quote, paths)) or "WITHOUT WITH"
        known = [results["configuration"].get("data") for results in self.folders]
        images = data or next((shlex.quote(name) for name in known if name), "IMAGES")
        return f"`regvit-analyze {analysis} --checkpoint {names} --data {images} --out {analysis}`"

    def _pairs(self, analysis: str) -> Iterator[Pair]:
        for results in self.of(analysis):
            models = {model["label"]: model for model in results["models"] if not model["is_twin"]}
            for entry in results["comparisons"]:
                first, second = models.get(entry["from"]), models.get(entry["to"])
                if first is not None and second is not None:
                    known = {k: Estimate.of(v) for k, v in entry["differences"].items()}
                    differences = {k: v for k, v in known.items() if v is not None}
                    yield Pair(first, second, differences, results)


def number_of(model: Json, key: str) -> Estimate | None:
    """A model's number by its key; None where it was not measured."""
    return Estimate.of(model["numbers"].get(key))


def unpaired_difference(first: Estimate, second: Estimate) -> Estimate:
    """Second minus first, of shares, from their own intervals.

    The interval takes both as independent; on the same images it is too wide rather than too
    narrow.

    Reference: Newcombe, Statistics in Medicine 17 (1998), method 10.
    """
    value, n = second.value - first.value, min(first.n, second.n)
    if None in (first.low, first.high, second.low, second.high):
        return Estimate(value, n)
    ends = [(e.value - e.low, e.high - e.value) for e in (first, second)]  # type: ignore[operator]
    below = math.hypot(ends[1][0], ends[0][1])
    above = math.hypot(ends[1][1], ends[0][0])
    return Estimate(value, n, value - below, value + above)


def images(results: Json) -> str:
    """Which images, how many, and whether treated as in the study."""
    data, configuration = results["data"], results["configuration"]
    given = str(configuration.get("data"))
    name = f"the embedded {given} (synthetic)" if given in EMBEDDED else _short(Path(data["name"]))
    name += " by the study's protocol" if configuration.get("protocol") == "study" else ""
    count = data.get("num_with_object") or data.get("num_images")
    return f"{count} images of {name}" if count else name


def in_percent(name: str, found: Estimate | None, unit: str = "%") -> str:
    """A share as a reader sees it: "share: 2.03 [1.48, 2.58] %, n 40"."""
    return _written(name, found, 2, 100.0, f" {unit}")


def in_units(name: str, found: Estimate | None, digits: int = 3) -> str:
    """A number as a reader sees it."""
    return _written(name, found, digits, 1.0, "")


def _short(path: Path) -> str:
    """The end of a path that names the data: "imagenette/val", not "val"."""
    return "/".join(path.parts[-2:]) if path.name in _PARTS else path.name


def _written(name: str, found: Estimate | None, digits: int, scale: float, unit: str) -> str:
    if found is None:
        return f"{name}: not measured"
    return f"{name}: {found.text(digits, scale)}{unit}" + (f", n {found.n}" if found.n else "")


def _turned(pair: Pair) -> Pair:
    """The same comparison the other way round."""
    turned = {
        name: Estimate(-e.value, e.n, *(None if x is None else -x for x in (e.high, e.low)))
        for name, e in pair.differences.items()
    }
    return Pair(pair.second, pair.first, turned, pair.results)


def _same_run(pair: Pair) -> bool:
    folders = [run_folder(Path(model["checkpoint"])) for model in (pair.first, pair.second)]
    return folders[0] == folders[1] and pair.first["model"] == pair.second["model"]
