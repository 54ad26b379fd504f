"""Is JSON read strictly: what fits comes through unchanged, anything else is named?"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from regvit_jax.config import ViTConfig
from regvit_jax.errors import InputError
from regvit_jax.strict_json import build, check_fields, convert, expect, parse_json, read_json


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float
    names: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Outer:
    kind: Literal["a", "b", 1]
    inner: Inner
    size: tuple[int, int] = (1, 2)
    place: Path | None = None
    flag: bool = False


WHOLE = {
    "kind": "b",
    "inner": {"rate": 2, "names": ["x", "y"]},
    "size": [3, 4],
    "place": "here",
    "flag": True,
}


def test_what_fits_is_built_with_the_types_of_the_annotations():
    built = build(Outer, WHOLE, "x.json")
    assert built == Outer("b", Inner(2.0, ("x", "y")), (3, 4), Path("here"), True)
    assert type(built.inner.rate) is float


def test_a_dataclass_that_was_written_comes_back_equal():
    config = ViTConfig(num_registers=3, mlp_ratio=3.5)
    assert build(ViTConfig, json.loads(json.dumps(dataclasses.asdict(config))), "x") == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "c"}, "x.json: kind is 'c', expected one of 'a', 'b', 1"),
        ({"kind": True}, "kind is True, expected one of"),
        ({"inner": 3}, "inner is 3, expected an object"),
        ({"inner": {}}, "inner lacks rate"),
        ({"inner": {"rate": "2"}}, "inner: rate is '2', expected a number"),
        ({"inner": {"rate": float("inf")}}, "rate is inf, expected a finite number"),
        ({"inner": {"rate": 10**400}}, "rate is beyond the range of numbers"),
        ({"inner": {"rate": 1, "names": "xy"}}, "names is 'xy', expected a list"),
        ({"size": [1]}, "size has 1 values, expected 2"),
        ({"size": [1, 2.5]}, r"size\[1\] is 2.5, expected a whole number"),
        ({"place": 7}, "place is 7, expected a text"),
        ({"flag": 1}, "flag is 1, expected true or false"),
        ({"flag": None}, "flag is null, expected true or false"),
        ({"other": 1}, "unknown fields 'other'; known are kind, inner"),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(changes, message):
    with pytest.raises(InputError, match=message):
        build(Outer, WHOLE | changes, "x.json")


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"nul", b"\xff\xfe", b'{"a": 1} x', b'{"a": 1, "a": 2}'),
        *(b"[" * 10**6, b'{"a":' * 10**5, b'{"a": ' + b"9" * 5000 + b"}"),
    ],
)
def test_what_is_no_json_is_said_to_be_none(content):
    with pytest.raises(InputError, match=r"f\.json is not JSON"):
        parse_json(content, "f.json")


def test_only_an_object_is_a_file_of_ours():
    with pytest.raises(InputError, match="f is a list of 2, expected an object"):
        parse_json("[1, 2]", "f")


def test_a_byte_order_mark_does_not_matter():
    assert parse_json(b'\xef\xbb\xbf{"a": 1}', "f") == {"a": 1}


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    (tmp_path / "f.json").write_text('{"a": "' + "x" * 100 + '"}')
    with pytest.raises(InputError, match="has 109 bytes; at most 100"):
        read_json(tmp_path / "f.json", max_bytes=100)


def test_a_missing_file_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "f.json")


def test_a_truth_value_is_no_number():
    for kind in (int, float):
        with pytest.raises(InputError, match="is True, expected"):
            expect(True, kind, "x")
    assert convert(None, int | None, "x") is None


@dataclasses.dataclass(frozen=True)
class Bounded:
    size: int = 1
    texts: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self):
        check_fields(self, {"size": (1, 9)})


def test_what_is_made_in_code_is_checked_like_a_file():
    assert type(Bounded(np.int64(3)).size) is int
    with pytest.raises(InputError, match="size is '3', expected a whole number"):
        Bounded("3")
    with pytest.raises(InputError, match="x: size must be at most 9"):
        build(Bounded, {"size": 10**30}, "x")
    with pytest.raises(InputError, match=r"x: texts\[0\] is null, expected a text"):
        build(Bounded, {"texts": [None]}, "x")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="device or a pipe"):
        read_json(str(tmp_path / "pipe"))
