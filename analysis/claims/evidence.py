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
from regvit_jax.analysis.statistics.bootstrap import Estimate
from regvit_jax.data import EMBEDDED

Json = Mapping[str, Any]
Answer = Literal["supported", "not supported", "cannot tell", "not judged"]

_SHAPE = (
    *("embed_dim", "depth", "num_heads", "patch_size", "image_size"),
    *("mlp_ratio", "mlp", "layer_scale", "added"),
)
"""What two models must share for registers to be what tells them apart."""
_FREE = frozenset({"model.num_registers", "model.register_init_std", "seed"})
"""What may differ between the recipes of such models."""
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

    @property
    def title(self) -> str:
        return " → ".join(model["label"] for model in self.models)


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

    def stage_pairs(self, analysis: str) -> list[Pair]:
        """The compared stages of one training run with registers: earlier, then later."""
        found = []
        for pair in self._pairs(analysis):
            places = [_place(pair.first), _place(pair.second)]
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


def same_shape(one: Json, other: Json) -> bool:
    """Whether two models differ in their registers alone, as far as their shape goes."""
    return all(one["model"].get(name) == other["model"].get(name) for name in _SHAPE)


def unlike(one: Json, other: Json) -> str | None:
    """In what, besides registers, two models of one shape are known to differ."""
    first, second = one.get("source") or {}, other.get("source") or {}
    if ("recipe" in first) != ("recipe" in second):
        return "only one of them was trained by this tool"
    before, after = (dict(_flat(about.get("recipe", {}))) for about in (first, second))
    names = sorted((before.keys() | after.keys()) - _FREE)
    unequal = [name for name in names if before.get(name) != after.get(name)]
    if unequal:
        return "their recipes differ in " + ", ".join(unequal[:5])
    if _place(one) != _place(other):
        return f"one was taken at step or epoch {_place(one)}, the other at {_place(other)}"
    return None


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


def _place(model: Json) -> int | None:
    """How far a checkpoint's training had come."""
    for about in (model.get("metrics") or {}, model.get("source") or {}):
        for unit in ("step", "epoch"):
            if isinstance(about.get(unit), int):
                return about[unit]
    return None


def _same_run(pair: Pair) -> bool:
    folders = [run_folder(Path(model["checkpoint"])) for model in (pair.first, pair.second)]
    return folders[0] == folders[1] and pair.first["model"] == pair.second["model"]


def _flat(values: Json, head: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{head}{name}.")
        else:
            yield head + name, value
