"""Does a run that was interrupted end exactly as one that was not?"""

import errno
import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest

import regvit_jax.train.loop
from regvit_jax import checkpoint
from regvit_jax.checkpoint import flatten
from regvit_jax.errors import InputError
from regvit_jax.train.loop import train as run_training
from regvit_jax.train.rundir import RunDirectory
from regvit_jax.train.state import StateStore


class Killed(Exception):
    """Stands for a process that ends without a word."""


@pytest.fixture(scope="module")
def recipe(recipe, change):
    """Ten steps with everything that draws random numbers."""
    return change(recipe, depth=1, drop_path_rate=0.3, flip=True, eval_steps=6)


@pytest.fixture(scope="module", autouse=True)
def few_validation_images():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("regvit_jax.digits").digits.SPLITS, "val", 70)
        yield


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory):
    """The directory of an uninterrupted run, and how it ended."""
    path = tmp_path_factory.mktemp("runs") / "whole"
    return path, run_training(recipe, path)


def interrupt(monkeypatch, step, act):
    """Lets `act` happen right before a step."""
    make = regvit_jax.train.loop.make_train_step

    def make_interrupted(*arguments):
        take = make(*arguments)

        def taken(state, batch):
            if int(state.step) + 1 == step:
                act()
            return take(state, batch)

        return taken

    monkeypatch.setattr(regvit_jax.train.loop, "make_train_step", make_interrupted)


def losses(path):
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def assert_same_run(path, other):
    assert losses(path) == losses(other)
    ours, theirs = (checkpoint.load(run)[1] for run in (path, other))
    for got, want in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(got, want)


def test_a_run_leaves_recipe_metrics_states_and_a_model(finished, recipe):
    path, outcome = finished
    assert outcome.step == outcome.total_steps == 10
    assert sorted(losses(path)) == list(range(1, 11))
    assert StateStore(path / "steps").steps() == [8, 10]
    info = checkpoint.read_info(path)
    assert info.model == recipe.model
    assert info.class_names == tuple("0123456789")
    top1 = info.metrics["top1"]
    assert top1["n"] == 70
    assert top1["low"] < top1["share"] < top1["high"]
    assert json.loads((path / "result.json").read_text()) == info.metrics


def test_evaluations_on_the_way_are_in_the_metrics(finished):
    lines = map(json.loads, (finished[0] / "metrics.jsonl").read_text().splitlines())
    assert [line["step"] for line in lines if "top1" in line] == [6, 10]


def test_a_killed_run_continues_bit_for_bit(finished, recipe, tmp_path, monkeypatch):
    def die():
        raise Killed

    with monkeypatch.context() as patch:
        interrupt(patch, 7, die)
        with pytest.raises(Killed):
            run_training(recipe, tmp_path / "run")
    assert StateStore(tmp_path / "run" / "steps").steps() == [4]
    run_training(recipe, tmp_path / "run")
    assert_same_run(tmp_path / "run", finished[0])


def test_sigterm_saves_and_ends_and_the_run_continues(finished, recipe, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, 7, lambda: os.kill(os.getpid(), signal.SIGTERM))
        outcome = run_training(recipe, tmp_path / "run")
    assert outcome.signal == signal.SIGTERM
    assert outcome.step == 7
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    run_training(recipe, tmp_path / "run")
    assert_same_run(tmp_path / "run", finished[0])


def test_a_finished_run_does_nothing(finished, recipe, monkeypatch):
    path, _ = finished
    before = {p: p.stat().st_mtime_ns for p in path.rglob("*")}
    monkeypatch.setattr(regvit_jax.train.loop, "make_train_step", None)
    outcome = run_training(recipe, path)
    assert outcome.was_finished
    assert outcome.result is not None
    assert {p: p.stat().st_mtime_ns for p in path.rglob("*")} == before


def test_another_configuration_is_refused_and_the_difference_shown(finished, recipe, change):
    with pytest.raises(InputError, match=r"optim.learning_rate: 0.001 before, 0.002 now"):
        run_training(change(recipe, learning_rate=0.002), finished[0])


def test_a_directory_of_something_else_is_left_alone(recipe, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="no training run"):
        run_training(recipe, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_loss_that_is_not_a_number_stops_the_run_and_names_the_step(
    recipe, tmp_path, monkeypatch
):
    make = regvit_jax.train.loop.make_train_step

    def make_broken(*arguments):
        take = make(*arguments)

        def taken(state, batch):
            state, metrics = take(state, batch)
            is_broken = int(state.step) == 6
            return state, metrics._replace(loss=np.nan) if is_broken else metrics

        return taken

    monkeypatch.setattr(regvit_jax.train.loop, "make_train_step", make_broken)
    with pytest.raises(InputError, match=r"In step 6 the loss was nan"):
        run_training(recipe, tmp_path / "run")
    assert StateStore(tmp_path / "run" / "steps").steps() == [4]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 30}, "cannot be shared equally by 4 devices"),
        ({"batch_size": 40_000}, "cannot be filled"),
        ({"data": "nowhere"}, "no folder nowhere"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    recipe, change, tmp_path, changes, message
):
    with pytest.raises(InputError, match=message):
        run_training(change(recipe, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_of_photographs_is_trained_on(recipe, change, class_folders, tmp_path):
    recipe = change(recipe, data=str(class_folders), epochs=2.0, crop="random_resized")
    outcome = run_training(recipe, tmp_path / "run")
    assert outcome.total_steps == 2
    info = checkpoint.read_info(tmp_path / "run")
    assert info.class_names == ("cat", "dog")
    assert info.model.num_classes == 2
    assert info.metrics["top1"]["n"] == 8


def test_two_processes_cannot_train_in_one_directory(recipe, tmp_path):
    run = RunDirectory.claim(tmp_path / "run", recipe)
    with pytest.raises(InputError, match="Another process is training"):
        run_training(recipe, tmp_path / "run")
    run.close()


def test_another_configuration_is_taken_when_asked_for(finished, recipe, change, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    longer = change(recipe, epochs=12 / 2500, learning_rate=0.002)
    outcome = run_training(longer, tmp_path / "run", allow_changes=True)
    assert outcome.step == outcome.total_steps == 12
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    (changed,) = [line["changed"] for line in lines if "changed" in line]
    assert "optim.learning_rate: 0.001 before, 0.002 now" in changed
    assert losses(tmp_path / "run").keys() == set(range(1, 13))


def test_ema_best_and_chosen_epochs_are_kept(recipe, change, class_folders, tmp_path):
    recipe = change(
        recipe,
        data=str(class_folders),
        epochs=5.0,
        ema_decay=0.5,
        keep_every_epochs=2,
        eval_steps=2,
    )
    run_training(recipe, tmp_path / "run")
    kept = sorted(path.name for path in (tmp_path / "run" / "epochs").iterdir())
    assert kept == ["0", "1", "3"]
    steps = [checkpoint.read_info(tmp_path / "run" / "epochs" / e).metrics["step"] for e in kept]
    assert steps == [1, 2, 4]
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["ema_top1"] == checkpoint.read_info(tmp_path / "run" / "ema").metrics["top1"]
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    best = max(line["top1"]["share"] for line in lines if "top1" in line)
    assert checkpoint.read_info(tmp_path / "run" / "best").metrics["top1"]["share"] == best
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))


def test_a_run_starts_from_a_checkpoint_that_gets_registers_and_other_classes(
    finished, recipe, change, class_folders, tmp_path
):
    recipe = change(
        recipe,
        data=str(class_folders),
        init=str(finished[0]),
        num_registers=6,
        trainable="registers",
    )
    run_training(change(recipe, epochs=1.0), tmp_path / "run")
    before, after = (flatten(checkpoint.load(path)[1]) for path in (finished[0], tmp_path / "run"))
    assert after["reg_tokens"].shape == (1, 6, 24)
    assert after["head/kernel"].shape == (24, 2)
    same = [name for name in before if name not in ("reg_tokens", "head/kernel", "head/bias")]
    for name in same:
        np.testing.assert_array_equal(after[name], before[name])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embed_dim": 48}, "embed_dim: 24 there, 48 asked for"),
        ({"num_registers": 2}, "4 registers; .* not go on with 2"),
        ({"init": "nowhere"}, "no checkpoint directory"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(
    finished, recipe, change, tmp_path, changes, message
):
    with pytest.raises(InputError, match=message):
        run_training(change(recipe, **{"init": str(finished[0]), **changes}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_decides_nothing_may_change_and_is_recorded(finished, recipe, change, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()  # killed right before its last write
    outcome = run_training(change(recipe, save_steps=3, skip_unreadable=True), tmp_path / "run")
    assert outcome.result == finished[1].result
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    (adjusted,) = [line["adjusted"] for line in lines if "adjusted" in line]
    assert "save_steps: 4 before, 3 now" in adjusted
    assert_same_run(tmp_path / "run", finished[0])


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_a_file_system_without_locks_costs_a_warning(recipe, tmp_path, monkeypatch, caplog, code):
    def flock(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", flock)
    RunDirectory.claim(tmp_path / "run", recipe).close()
    assert "has no locks" in caplog.text


def test_what_killed_processes_were_writing_is_removed(recipe, tmp_path):
    RunDirectory.claim(tmp_path / "run", recipe).close()
    for name in (".model.partial-elsewhere-1", "steps/.4.partial-elsewhere-1"):
        (tmp_path / "run" / name).mkdir(parents=True)
    RunDirectory.claim(tmp_path / "run", recipe).close()
    assert not list((tmp_path / "run").rglob("*partial*"))


def test_a_folder_that_is_moved_while_a_run_trains_is_told(recipe, tmp_path):
    run = RunDirectory.claim(tmp_path / "run", recipe)
    (tmp_path / "run").rename(tmp_path / "moved")
    with pytest.raises(InputError, match=r"was moved \(to .*moved\)"):
        run.log({"step": 1})
    run.close()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", [b"[]", b"\xff", b'{"top1": 3}', b'{"a":' * 5000, b"1" * 5000])
def test_a_damaged_result_is_told(finished, tmp_path, content):
    (tmp_path / "result.json").write_bytes(content)
    with pytest.raises(InputError, match=r"result\.json"):
        RunDirectory(tmp_path).result()


def test_a_damaged_image_is_met_after_the_steps_before_are_saved(
    recipe, change, class_folders, tmp_path
):
    image = class_folders / "val" / "cat" / "0.png"
    image.write_bytes(image.read_bytes()[:200])
    recipe = change(recipe, data=str(class_folders), epochs=2.0, save_steps=100)
    with pytest.raises(InputError, match=r"skip-unreadable\. The 2 steps so far are saved"):
        run_training(recipe, tmp_path / "run")
    assert checkpoint.read_info(tmp_path / "run" / "model").metrics == {"step": 2}
    outcome = run_training(change(recipe, skip_unreadable=True), tmp_path / "run")
    assert outcome.result["unreadable_images"] == 1
    assert outcome.result["top1"]["n"] == 7
