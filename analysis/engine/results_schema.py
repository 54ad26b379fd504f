"""What must results.json hold for pages and comparisons to be made of it? Its one schema.

Fields that are not named here may be there and are free; only their numbers are checked.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from regvit_jax.errors import InputError
from regvit_jax.strict_json import expect

_MAX_DEPTH = 60


class Maybe(NamedTuple):
    """What a shape says, or null."""

    shape: Any


class Each(NamedTuple):
    """An object whose values all have one shape."""

    shape: Any


class Number(NamedTuple):
    """A number, null, or an estimate: value, n and interval."""


NUMBER = Number()
FILE = "a file's name"

# A shape is a type, one of the above, a list of one shape, or an object's fields; a field whose
# name ends in "?" may be left out.
MODEL = {
    **{"label": str, "title": str, "checkpoint": str, "is_twin": bool, "num_registers": int},
    **{"model": dict, "num_parameters?": Maybe(int), "variant?": Maybe(str)},
    **{"source": Maybe({"recipe?": dict}), "preprocess": Maybe(dict), "arrays?": FILE},
    "metrics?": Maybe({"top1?": NUMBER}),
    "verdict?": {"answer": str, "reason": str},
}
HEAD = {
    **{"analysis": str, "versions": Each(str), "models": [MODEL]},
    "configuration": {"data?": str, "protocol?": str},
    "data": {"name": str, "num_images?": int, "num_with_object?": Maybe(int), "skipped?": [str]},
    "comparisons": [{"from": str, "to": str, "differences": Each(NUMBER)}],
    "figures": [{"file": FILE, "vector?": str, "title": str, "caption": str}],
    "tables?": [{"file": FILE, "title": str}],
    "files?": [FILE],
}
ANALYSIS = {
    "about": {"heading": str, "text": str, "verdict": str, "per_image": [str]},
    "tables": [{"file": FILE, "title": str}],
    "measured": Each(
        {
            **{"title": str, "axes": [str], "on_page": bool, "words": Each(str)},
            "quantities": Each({"title": str, "is_share": bool, "on_page": bool}),
        }
    ),
    "lead": [{"key": str, "title": str, "is_share": bool}],
    "models": [{"numbers": Each(NUMBER), "remarks": [str]}],
}
"""What the results of an analysis have beside `HEAD`; those of `compare` have `TOGETHER`."""
TOGETHER = {
    "first": str,
    "headlines": [
        {
            **{"question": str, "title": str, "is_share": bool},
            **{"values": dict, "differences": Each(NUMBER)},
        }
    ],
}
EXTRA: dict[str, dict[str, Any]] = {
    "norms": {
        "models": [{"verdict": {"answer": str, "reason": str}, "group?": Maybe({"share": NUMBER})}]
    },
    "similarity": {"models": [{"labels": str}]},
    "lost": {"baselines": [{"name": str, "corloc": NUMBER, "mean_best_iou": NUMBER}]},
}
"""What claims are judged by besides."""
COMPARED: dict[str, Any] = {
    "about": {"verdict": str},
    "lead": [{"key": str, "title": str, "is_share": bool}],
    "models": [
        {"label": str, "checkpoint": str, "is_twin": bool, "num_registers": int, "numbers": dict}
    ],
    "comparisons": [{"from": str, "to": str}],
}
"""What a comparison cannot do without; a page needs everything."""


def check_results(results: Mapping[str, Any], label: str, is_complete: bool = True) -> None:
    """Returns if results are such as a page is made of.

    Args:
      results: As JSON has them.
      label: What error messages call them.
      is_complete: Whether all that a page needs must be there, or only what is `COMPARED`.

    Raises:
      InputError: Names the first field that is missing or of another type.
    """
    _check_numbers(results, label, 0)
    if results["analysis"] != "compare":
        _check(results, COMPARED, label)
    shaped = (lambda shape: shape) if is_complete else _with_gaps
    _check(results, shaped(HEAD), label)
    name = results["analysis"]
    _check(results, shaped(TOGETHER if name == "compare" else ANALYSIS), label)
    _check(results, shaped(EXTRA.get(name, {})), label)


def _with_gaps(shape: Any) -> Any:
    """The same shape, in which every field may be left out."""
    if isinstance(shape, Maybe | Each):
        return type(shape)(_with_gaps(shape.shape))
    if isinstance(shape, list):
        return [_with_gaps(shape[0])]
    if isinstance(shape, dict):
        return {name.removesuffix("?") + "?": _with_gaps(part) for name, part in shape.items()}
    return shape


def _check(value: Any, shape: Any, label: str) -> None:
    if isinstance(shape, Maybe):
        if value is not None:
            _check(value, shape.shape, label)
    elif isinstance(shape, Number):
        _check_number(value, label)
    elif isinstance(shape, Each):
        for name, each in expect(value, dict, label).items():
            _check(each, shape.shape, f"{label}.{name}")
    elif isinstance(shape, list):
        for i, each in enumerate(expect(value, list, label)):
            _check(each, shape[0], f"{label}[{i}]")
    elif isinstance(shape, dict):
        _check_fields(expect(value, dict, label), shape, label)
    elif shape == FILE:
        _check_file(expect(value, str, label), label)
    elif shape is not Any:
        expect(value, shape, label)


def _check_fields(value: dict[str, Any], shape: Mapping[str, Any], label: str) -> None:
    for name, inside in shape.items():
        key = name.removesuffix("?")
        place = f"{label}: {key}" if label.endswith(".json") else f"{label}.{key}"
        if key in value:
            _check(value[key], inside, place)
        elif key == name:
            raise InputError(f"{place} is missing. Run the analysis again with --overwrite.")


def _check_file(name: str, label: str) -> None:
    if not name or name.startswith(".") or any(c in name for c in "/\\\0"):
        raise InputError(f"{label} is {name[:80]!r}, expected the name of a file in this folder.")


def _check_number(value: Any, label: str) -> None:
    if value is None:
        return
    if not isinstance(value, dict):
        expect(value, float, label)
        return
    _check_fields(value, {"n?": Maybe(int), "value?": Maybe(float), "share?": Any}, label)
    interval = value.get("interval")
    if interval is not None and len(expect(interval, list, f"{label}.interval")) != 2:
        raise InputError(f"{label}.interval has {len(interval)} values, expected 2.")
    _check(interval or [], [Maybe(float)], f"{label}.interval")


def _check_numbers(value: Any, label: str, depth: int) -> None:
    """Checks all that looks like an estimate, wherever it is."""
    if depth > _MAX_DEPTH:
        raise InputError(f"{label[:80]}... is nested deeper than {_MAX_DEPTH} levels.")
    if isinstance(value, dict):
        if "value" in value and "interval" in value:
            _check_number(value, label)
        for name, each in value.items():
            _check_numbers(each, f"{label}.{name}", depth + 1)
    elif isinstance(value, list):
        for i, each in enumerate(value):
            _check_numbers(each, f"{label}[{i}]", depth + 1)
