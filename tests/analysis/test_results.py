"""Are results written whole, in plain JSON, and only where they belong?"""

import json
from pathlib import Path

import numpy as np
import pytest

from regvit_jax.analysis.engine.results import RESULTS_FILE, ResultFolder, plain, read_results
from regvit_jax.analysis.statistics.bootstrap import Estimate
from regvit_jax.errors import InputError


def write(out: Path, text: str = "x", **configuration) -> None:
    with ResultFolder(out, "norms", configuration) as folder:
        folder.path("a.txt").write_text(text)
        folder.finish({"models": []})


def test_numbers_become_plain_json_and_none_is_infinite():
    value = {
        "a": Estimate(0.5, 10, 0.1, float("nan")),
        "b": np.float32(0.25),
        "c": np.array([[1.0, np.inf]]),
        "d": (np.int64(3), Path("x"), None),
    }
    assert json.loads(json.dumps(plain(value), allow_nan=False)) == {
        "a": {"value": 0.5, "n": 10, "interval": [0.1, None]},
        "b": 0.25,
        "c": [[1.0, None]],
        "d": [3, "x", None],
    }


def test_a_failure_leaves_nothing_behind(tmp_path):
    def fail():
        with ResultFolder(tmp_path / "deep" / "out", "norms", {}) as folder:
            folder.path("a.txt").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert not list((tmp_path / "deep").iterdir())


def test_a_failed_second_run_keeps_the_first(tmp_path):
    write(tmp_path / "out")

    def fail():
        with ResultFolder(tmp_path / "out", "norms", {}) as folder:
            folder.path("a.txt").write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        fail()
    assert (tmp_path / "out" / "a.txt").read_text() == "x"
    assert read_results(tmp_path / "out")["files"] == ["a.txt"]


def test_only_what_the_old_results_own_is_replaced(tmp_path):
    write(tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with ResultFolder(tmp_path / "out", "norms", {}) as folder:
        folder.path("b.txt").write_text("new")
        folder.finish({})
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "b.txt",
        "notes.txt",
        RESULTS_FILE,
    }


def test_other_results_and_other_files_are_refused(tmp_path):
    write(tmp_path / "out", seed=0)
    with pytest.raises(InputError, match="seed: 0 there, 1 now"):
        ResultFolder(tmp_path / "out", "norms", {"seed": 1})
    with pytest.raises(InputError, match="results of `norms`"):
        ResultFolder(tmp_path / "out", "attention", {"seed": 0})
    ResultFolder(tmp_path / "out", "attention", {"seed": 0}, overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        ResultFolder(tmp_path / "file", "norms", {})
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_text("")
    with pytest.raises(InputError, match="no results"):
        ResultFolder(tmp_path / "photos", "norms", {}, overwrite=True)


def test_damaged_results_can_be_replaced(tmp_path):
    write(tmp_path / "out")
    (tmp_path / "out" / RESULTS_FILE).write_text("{")
    with pytest.raises(InputError, match="--overwrite"):
        ResultFolder(tmp_path / "out", "norms", {})
    with ResultFolder(tmp_path / "out", "norms", {}, overwrite=True) as folder:
        folder.finish({})
    assert read_results(tmp_path / "out")["analysis"] == "norms"
