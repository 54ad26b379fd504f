"""What does a file say about a model, and can that be? Each value with the place that says it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from regvit_jax import strict_json
from regvit_jax.errors import InputError


class Fact(NamedTuple):
    """A value and where it is written, as "config.json: pretrained_cfg.mean"."""

    value: Any
    where: str


Facts = dict[str, Fact]
"""By name: fields of `ViTConfig` and `Preprocess`, and `crop`, `class_names`, `mlp_dim`."""


class Statement(NamedTuple):
    """Named values of a file, whose types and ranges are checked when they are asked for."""

    values: Mapping[str, Any]
    label: str
    """What errors call the file."""
    group: str = ""
    """Where in the file they stand."""

    def where(self, name: str) -> str:
        """The place of a value, in short."""
        place = f"{self.group}.{name}" if self.group else name
        return f"{self.label.rpartition('/')[2]}: {place}"

    def has(self, name: str) -> bool:
        """Whether a value is there; null says nothing."""
        return self.values.get(name) is not None

    def fact(self, ours: str, value: Any, theirs: str) -> Facts:
        """One fact under our name."""
        return {ours: Fact(value, self.where(theirs))}

    def text(self, name: str) -> str:
        return strict_json.expect(self.values[name], str, self._label(name))

    def truth(self, name: str, default: bool) -> bool:
        """True or false; the default where nothing is said."""
        if not self.has(name):
            return default
        return strict_json.expect(self.values[name], bool, self._label(name))

    def whole(self, name: str, least: int, most: int = 2**20) -> int:
        """A whole number within bounds."""
        value = strict_json.expect(self.values[name], int, self._label(name))
        if not least <= value <= most:
            self.refuse(name, value, f"a whole number from {least} to {most}")
        return value

    def number(self, name: str, above: float, most: float) -> float:
        """A number above one bound and at most another."""
        value = strict_json.expect(self.values[name], float, self._label(name))
        if not above < value <= most:
            self.refuse(name, value, f"a number above {above:g} and at most {most:g}")
        return float(value)

    def three(self, name: str, above: float, most: float) -> tuple[float, float, float]:
        """A number for each of three channels; one number stands for all."""
        found = self.values[name]
        items = list(found) if isinstance(found, list | tuple) else [found]
        if len(items) not in (1, 3):
            self.refuse(name, f"{len(items)} values", "one or three numbers")
        each = [
            Statement({name: item}, self.label, self.group).number(name, above, most)
            for item in items
        ]
        red, green, blue = each * (3 // len(each))
        return red, green, blue

    def square(self, name: str) -> int:
        """The side of a square in pixels: a number, or height and width (channels before them)."""
        found = self.values[name]
        items = list(found) if isinstance(found, list | tuple) else [found]
        if len(items) not in (1, 2, 3):
            self.refuse(name, f"{len(items)} values", "the side of a square")
        sides = [
            Statement({name: item}, self.label, self.group).whole(name, 1, 2**14)
            for item in (items[1:] if len(items) == 3 else items)
        ]
        if len(items) == 3 and items[0] != 3:
            self.refuse(name, f"{items[0]} channels", "3")
        if len(set(sides)) > 1:
            self.refuse(name, f"{sides[0]} x {sides[1]} px", "a square, which our models need")
        return sides[0]

    def inside(self, name: str) -> "Statement":
        """The values of an object in this one."""
        values = strict_json.expect(self.values[name], dict, self._label(name))
        return Statement(values, self.label, f"{self.group}.{name}" if self.group else name)

    def refuse(self, name: str, value: Any, expected: str) -> None:
        """Raises an error that names the file and the field.

        Raises:
          InputError: Always.
        """
        raise InputError(f"{self._label(name)} is {str(value)[:60]}, expected {expected}.")

    def _label(self, name: str) -> str:
        place = f"{self.group}.{name}" if self.group else name
        return f"{self.label}: {place}"
