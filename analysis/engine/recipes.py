"""Which models are training runs of one recipe, apart from their seed and their registers?

Models are entries of results: `model`, `source`, `metrics`, `num_registers`, `label`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from regvit_jax.analysis.statistics.bootstrap import Estimate
from regvit_jax.analysis.statistics.seeds import MIN_SEEDS, OverSeeds, difference, mean

Json = Mapping[str, Any]

_SHAPE = (
    *("embed_dim", "depth", "num_heads", "patch_size", "image_size"),
    *("mlp_ratio", "mlp", "layer_scale", "added"),
)
"""What two models must share for registers to be what tells them apart."""
_FREE = frozenset({"model.num_registers", "model.register_init_std", "seed"})
"""What may differ between the recipes of such models."""


class Sides(NamedTuple):
    """Runs without registers, and runs of the same recipe with some number of them."""

    without: tuple[Json, ...]
    having: tuple[Json, ...]
    """In the order of their seeds, as those without."""

    @property
    def num_registers(self) -> int:
        return self.having[0]["num_registers"]

    @property
    def is_enough(self) -> bool:
        """For a statement about registers."""
        return min(map(len, self)) >= MIN_SEEDS

    @property
    def words(self) -> str:
        """The runs of both sides."""
        one, two = map(len, self)
        return f"{one} + {two} training runs (0 and {self.num_registers} registers)"

    @property
    def matched(self) -> list[tuple[Json, Json]]:
        """The runs of equal seeds."""
        known = {seed_of(model): model for model in self.having}
        return [(m, known[seed_of(m)]) for m in self.without if seed_of(m) in known]


def sides_of(models: Sequence[Json]) -> list[Sides]:
    """The models of one recipe and other seeds, by their number of registers."""
    known = [model for model in models if seed_of(model) is not None]
    recipes: list[list[Json]] = []
    for model in known:
        for recipe in recipes:
            if same_shape(recipe[0], model) and unlike(recipe[0], model) is None:
                recipe.append(model)
                break
        else:
            recipes.append([model])
    found = []
    for recipe in recipes:
        by_count: dict[int, dict[Any, Json]] = {}
        for model in sorted(recipe, key=lambda m: str(seed_of(m))):
            by_count.setdefault(model["num_registers"], {}).setdefault(seed_of(model), model)
        without = tuple(by_count.pop(0, {}).values())
        if without:
            counts = sorted(by_count)
            found += [Sides(without, tuple(by_count[count].values())) for count in counts]
    return found


def over_sides(
    sides: Sides,
    number: Callable[[Json], Estimate | None],
    differences: Mapping[tuple[str, str], Estimate | None],
) -> OverSeeds | None:
    """The runs with registers minus those without; None where it is not known of enough of them.

    Args:
      sides: The runs.
      number: Of a model; where one has none, pairs of equal seeds are compared instead.
      differences: Second minus first, by the models' labels.
    """
    values = [[number(model) for model in side] for side in sides]
    if all(value is not None for side in values for value in side):
        return difference(*([value.value for value in side if value] for side in values))
    found = []
    for one, two in sides.matched:
        if (known := differences.get((one["label"], two["label"]))) is not None:
            found.append(known.value)
        elif (known := differences.get((two["label"], one["label"]))) is not None:
            found.append(-known.value)
    if len(found) < MIN_SEEDS:
        return None
    return mean(found)._replace(runs=(len(found), len(found)))


def seed_of(model: Json) -> int | None:
    """The seed of a model that this tool trained."""
    recipe = (model.get("source") or {}).get("recipe")
    return recipe.get("seed") if isinstance(recipe, Mapping) else None


def same_shape(one: Json, other: Json) -> bool:
    """Whether two models differ in their registers alone, as far as their shape goes."""
    return all(one["model"].get(name) == other["model"].get(name) for name in _SHAPE)


def unlike(one: Json, other: Json) -> str | None:
    """In what, besides registers and seeds, two models of one shape are known to differ."""
    first, second = one.get("source") or {}, other.get("source") or {}
    if ("recipe" in first) != ("recipe" in second):
        return "only one of them was trained by this tool"
    before, after = (dict(_flat(about.get("recipe", {}))) for about in (first, second))
    names = sorted((before.keys() | after.keys()) - _FREE)
    unequal = [name for name in names if before.get(name) != after.get(name)]
    if unequal:
        return "their recipes differ in " + ", ".join(unequal[:5])
    if place_of(one) != place_of(other):
        return f"one was taken at step or epoch {place_of(one)}, the other at {place_of(other)}"
    return None


def place_of(model: Json) -> int | None:
    """How far a checkpoint's training had come."""
    for about in (model.get("metrics") or {}, model.get("source") or {}):
        for unit in ("step", "epoch"):
            if isinstance(about.get(unit), int):
                return about[unit]
    return None


def _flat(values: Json, head: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{head}{name}.")
        else:
            yield head + name, value
