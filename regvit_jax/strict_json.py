"""What does a JSON file say, and is that what was expected? Its one reader.

Whatever is wrong with a file ends in one `InputError` that names the file, the field and what was
expected there: not UTF-8, not JSON, nested too deep, a number of thousands of digits, a name given
twice, a value of another type.
"""

import dataclasses
import json
import math
import numbers
import stat
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from regvit_jax.errors import InputError

MAX_BYTES = 64 * 2**20

T = TypeVar("T")


def read_json(path: str | Path, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """The object that a JSON file holds.

    Raises:
      InputError: If it is no JSON object; says what it is.
      OSError: If the file cannot be read.
    """
    path = Path(path)
    about = path.stat()
    if not (stat.S_ISREG(about.st_mode) or stat.S_ISDIR(about.st_mode)):
        raise InputError(f"{path} is a device or a pipe, expected a file of JSON.")
    if about.st_size > max_bytes:
        raise InputError(f"{path} has {about.st_size} bytes; at most {max_bytes} are read as JSON.")
    return parse_json(path.read_bytes(), str(path))


def parse_json(content: str | bytes, label: str) -> dict[str, Any]:
    """The object in a JSON text.

    Args:
      content: The text, UTF-8 if it is bytes.
      label: What error messages call it.

    Raises:
      InputError: If it is no JSON object; says what is wrong, and where.
    """
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
        found = json.loads(text, object_pairs_hook=_once)
    except UnicodeDecodeError as error:
        raise InputError(f"{label} is not JSON: it is not UTF-8 text ({error.reason}).") from error
    except RecursionError as error:
        raise InputError(f"{label} is not JSON (nested too deep).") from error
    except ValueError as error:
        raise InputError(f"{label} is not JSON ({error}).") from error
    return expect(found, dict, label)


def expect(value: Any, kind: type[T], label: str) -> T:
    """The value, if it is of a type; whole numbers are floats too, truth values are no numbers.

    Raises:
      InputError: If it is of another type, infinite or not a number.
    """
    if kind is float and type(value) is int:
        value = _as_float(value, label)
    if not isinstance(value, kind) or (type(value) is bool and kind is not bool):
        raise InputError(f"{label} is {_say(value)}, expected {_KINDS.get(kind, kind.__name__)}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{label} is {value}, expected a finite number.")
    return value


def build(kind: type[T], values: Mapping[str, Any], label: str) -> T:
    """A dataclass from its fields in JSON; every field's type is checked, unknown names refused.

    Fields may be numbers, texts, truth values, `Literal`s, tuples of these (lists in JSON), other
    dataclasses (objects), or None where the annotation says so.

    Args:
      kind: A dataclass; fields with a default may be left out.
      values: As `json` reads them.
      label: What error messages call them.

    Raises:
      InputError: Names the field, what was expected and what is there.
    """
    expect(values, dict, label)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(kind)
    if unknown := sorted(values.keys() - fields.keys(), key=str):
        raise InputError(
            f"{label} has unknown fields {', '.join(map(repr, unknown))[:300]}; known are "
            f"{', '.join(fields)}. It was probably written by another version of regvit_jax."
        )
    missing = [
        name
        for name, field in fields.items()
        if name not in values
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise InputError(f"{label} lacks {', '.join(missing)}.")
    converted = {k: convert(v, hints[k], f"{label}: {k}") for k, v in values.items()}
    try:
        return kind(**converted)
    except InputError as error:  # what the class itself asks of its values
        raise InputError(f"{label}: {error}") from error


def check_fields(made: Any, limits: Mapping[str, tuple[int | float, int | float]]) -> None:
    """Checks a frozen dataclass that was made in code as one from JSON is; for `__post_init__`.

    NumPy's numbers become Python's, whole numbers floats where floats are wanted.

    Args:
      made: The dataclass.
      limits: Least and greatest value of some fields; of each item, where a field has several.

    Raises:
      InputError: Names the field, what was expected and what is there.
    """
    for name, kind in typing.get_type_hints(type(made)).items():
        value = getattr(made, name)
        if isinstance(value, numbers.Number) and hasattr(value, "item"):
            value = value.item()
        object.__setattr__(made, name, convert(value, kind, name))
    for name, (least, greatest) in limits.items():
        found = getattr(made, name)
        for value in found if isinstance(found, tuple) else () if found is None else (found,):
            if value < least:
                words = "0 or more" if least == 0 else f"at least {least}"
                raise InputError(f"{name} must be {words}, got {value}.")
            if value > greatest:
                raise InputError(f"{name} must be at most {greatest}, got {value}.")


def convert(value: Any, annotation: Any, label: str) -> Any:
    """A value of JSON as a type annotation wants it.

    Raises:
      InputError: If it does not fit.
    """
    origin, inside = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:
        return value
    if origin is typing.Annotated:
        return convert(value, inside[0], label)
    if origin in (typing.Union, types.UnionType):
        return _any_of(value, inside, label)
    if origin is typing.Literal:
        # `True == 1`: the type must be the same too.
        if not any(type(value) is type(choice) and value == choice for choice in inside):
            choices = ", ".join(map(repr, inside))
            raise InputError(f"{label} is {_say(value)}, expected one of {choices}.")
        return value
    if origin is tuple:
        items = expect(value, list, label) if not isinstance(value, tuple) else list(value)
        kinds = [inside[0]] * len(items) if inside[-1] is ... else list(inside)
        if len(kinds) != len(items):
            raise InputError(f"{label} has {len(items)} values, expected {len(kinds)}.")
        return tuple(
            convert(item, kind, f"{label}[{i}]")
            for i, (item, kind) in enumerate(zip(items, kinds, strict=True))
        )
    if annotation is tuple:
        return tuple(expect(value, list, label) if not isinstance(value, tuple) else value)
    if origin is not None and issubclass(origin, Sequence):
        items = expect(value, list, label)
        return [convert(item, inside[0], f"{label}[{i}]") for i, item in enumerate(items)]
    if origin is not None and issubclass(origin, Mapping):
        return expect(value, dict, label)
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        if isinstance(value, annotation):
            return value
        return build(annotation, expect(value, dict, label), label)
    if isinstance(annotation, type) and issubclass(annotation, Path):
        return annotation(expect(value, str, label))
    return expect(value, annotation, label)


_KINDS = {
    dict: "an object",
    list: "a list",
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}


def _any_of(value: Any, kinds: tuple[Any, ...], label: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    errors = []
    for kind in kinds:
        if kind is not type(None):
            try:
                return convert(value, kind, label)
            except InputError as error:
                errors.append(error)
    raise errors[0]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; a name given twice has two meanings, of which a reader would take one unsaid."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice[:80]!r} is given twice")
    return found


def _as_float(value: int, label: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise InputError(f"{label} is beyond the range of numbers.") from None


def _say(value: Any) -> str:
    """A value in few words."""
    if value is None:
        return "null"
    if isinstance(value, dict | list):
        return f"{_KINDS[type(value)]} of {len(value)}"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**20:
        return "a huge number"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
