"""Does a run that dies right before or after any of its writes end as one that did not?

`python -m benchmarks.kills` does the same with real kills at random moments.
"""

import json

import numpy as np
import pytest

import regvit_jax.train.metrics
import regvit_jax.train.rundir
import regvit_jax.train.state
from regvit_jax import checkpoint
from regvit_jax.checkpoint import flatten
from regvit_jax.train.loop import train


class Killed(BaseException):
    """Stands for a process that ends without a word."""


WRITES = (
    (regvit_jax.train.state.StateStore, "_write"),
    (checkpoint, "save"),
    (regvit_jax.train.metrics.Metrics, "log"),
    (regvit_jax.train.rundir.RunDirectory, "finish"),
)


@pytest.fixture(scope="module")
def recipe(recipe, change):
    """Six steps; every second one is evaluated, saved and kept."""
    return change(
        recipe, depth=1, epochs=3.0, ema_decay=0.5, keep_every_epochs=1, eval_steps=2, save_steps=2
    )


@pytest.fixture
def data(recipe, change, class_folders):
    return change(recipe, data=str(class_folders), batch_size=4)


def die_at(patch, number, is_after):
    """Lets the process die at one of its writes; returns how many there were."""
    count = [0]

    def dying(write):
        def written(*arguments, **options):
            count[0] += 1
            mine = count[0]
            if mine == number and not is_after:
                raise Killed
            found = write(*arguments, **options)
            if mine == number:
                raise Killed
            return found

        return written

    for owner, name in WRITES:
        patch.setattr(owner, name, dying(getattr(owner, name)))
    return count


def contents(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    exact = ("step", "loss", "grad_norm", "learning_rate")
    found = {"lines": [x if "top1" in x else [x[key] for key in exact] for x in lines]}
    found["result"] = json.loads((run / "result.json").read_text())
    for pattern in ("model", "best", "ema", "epochs/*"):
        for path in run.glob(pattern):
            params = flatten(checkpoint.load(path)[1])
            weights = {name: np.asarray(x).tobytes() for name, x in params.items()}
            found[str(path.relative_to(run))] = (checkpoint.read_info(path).metrics, weights)
    found["left over"] = [p.name for p in run.rglob("*") if "partial" in p.name]
    return found


def test_a_run_that_dies_at_any_of_its_writes_ends_the_same(data, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        count = die_at(patch, 0, False)
        train(data, tmp_path / "whole")
    expected = contents(tmp_path / "whole")
    assert len(expected["lines"]) == 9
    assert sorted(expected)[:3] == ["best", "ema", "epochs/0"]
    for number in (5, 12, count[0] - 3):
        run = tmp_path / f"run{number}"
        with pytest.MonkeyPatch.context() as patch:
            die_at(patch, number, is_after=bool(number % 2))
            with pytest.raises(Killed):
                train(data, run)
        train(data, run)
        assert contents(run) == expected, f"died at write {number} of {count[0]}"
