"""Does `regvit-train` understand its options, and say what is wrong with them?"""

import dataclasses
import json
import sys

import jax
import pytest

import regvit_jax.train.cli
import regvit_jax.train.evaluate
import regvit_jax.train.loop
from regvit_jax import checkpoint
from regvit_jax.model import DeiT3, init_params
from regvit_jax.train.cli import _say_preset
from regvit_jax.train.loop import Outcome
from regvit_jax.train.presets import preset

RESULT = {
    "data": "digits-val",
    "classes": "matched by name",
    "top1": {"share": 0.5, "low": 0.4, "high": 0.6, "n": 100},
}


@pytest.fixture
def call(monkeypatch):
    """Runs the command in this process."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["regvit-train", *map(str, arguments)])
        regvit_jax.train.cli.main()

    return run


@pytest.fixture
def trained(monkeypatch):
    """What the loop is asked to train, instead of training it."""
    asked = []

    def pretend(recipe, out, allow_changes):
        asked.append((recipe, out))
        return Outcome(10, 10, RESULT)

    monkeypatch.setattr(regvit_jax.train.loop, "train", pretend)
    return asked


def test_options_override_the_preset(call, trained, tmp_path, capsys):
    call("run", "--num-registers", 4, "--data", "digits", "--out", tmp_path, "--epochs", 0.5)
    ((recipe, out),) = trained
    assert out == tmp_path
    assert (recipe.model.num_registers, recipe.epochs) == (4, 0.5)
    assert recipe.model.embed_dim == preset("demo").model.embed_dim
    expected = "Top-1 50.00 % (95 % interval 40.00 to 60.00), 100 images of digits-val.\n"
    assert capsys.readouterr().out == expected


def test_a_preset_and_a_size_are_chosen_by_name(call, trained, tmp_path):
    call("run", "--preset", "official-800", "--variant", "base", "--out", tmp_path)
    ((recipe, _),) = trained
    assert recipe == preset("official-800", "base")


def test_a_run_from_a_checkpoint_has_its_model_but_for_the_options_given(call, trained, tmp_path):
    config = dataclasses.replace(preset("demo").model, embed_dim=32, num_registers=1)
    params = init_params(DeiT3(config), jax.random.key(0))
    checkpoint.save(tmp_path / "start", params, checkpoint.CheckpointInfo(config))
    call("run", "--init", tmp_path / "start", "--num-registers", 4, "--out", tmp_path / "run")
    ((recipe, _),) = trained
    assert recipe.model == dataclasses.replace(config, num_registers=4)
    assert recipe.init == str(tmp_path / "start")


def test_an_unknown_preset_is_refused(call, capsys, tmp_path):
    with pytest.raises(SystemExit) as ended:
        call("run", "--preset", "huge", "--out", tmp_path)
    assert ended.value.code == 2
    assert "no preset 'huge'. Choose one of demo, imagenette" in capsys.readouterr().err


def test_bad_input_ends_with_status_2_and_writes_nothing(call, capsys, tmp_path):
    with pytest.raises(SystemExit) as ended:
        call("run", "--data", "nowhere", "--out", tmp_path / "run")
    assert ended.value.code == 2
    assert "no folder nowhere" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_value_without_sense_is_refused(call, tmp_path):
    with pytest.raises(SystemExit) as ended:
        call("run", "--out", tmp_path / "run", "--epochs", -1)
    assert ended.value.code == 2


def test_a_stopped_run_ends_with_the_signals_status(call, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(regvit_jax.train.loop, "train", lambda *_: Outcome(7, 10, None, signal=15))
    with pytest.raises(SystemExit) as ended:
        call("run", "--out", tmp_path)
    assert ended.value.code == 143
    said = capsys.readouterr().err
    assert "Stopped after step 7 of 10; its state is saved. The same command continues" in said
    assert f"\n  regvit-train run --out {tmp_path}\n" in said


def test_eval_writes_what_it_prints(call, monkeypatch, tmp_path):
    monkeypatch.setattr(regvit_jax.train.evaluate, "evaluate_checkpoint", lambda *_: RESULT)
    call("eval", "--checkpoint", tmp_path, "--out", tmp_path / "new" / "result.json")
    assert json.loads((tmp_path / "new" / "result.json").read_text()) == RESULT


def test_an_option_that_is_given_twice_is_refused_and_registers_add_up(call, capsys, tmp_path):
    with pytest.raises(SystemExit) as ended:
        call("run", "--out", tmp_path / "run", "--seed", 1, "--seed=2")
    assert ended.value.code == 2
    assert "--seed is given twice" in capsys.readouterr().err
    call("plan", "--registers", 0, "--registers", 4, "--tflops", 1)
    assert [line[:5] for line in capsys.readouterr().out.splitlines()[:2]] == ["R = 0", "R = 4"]


def test_the_demo_recipe_is_not_used_on_photographs_in_silence(capsys):
    recipe = preset("demo")
    photographs = dataclasses.replace(
        recipe, data=dataclasses.replace(recipe.data, data="photographs")
    )
    _say_preset(["run", "--data", "photographs"], photographs)
    assert "No --preset was given: demo is used" in capsys.readouterr().err
    _say_preset(["run", "--data", "photographs", "--preset", "demo"], photographs)
    _say_preset(["run", "--data", "digits"], recipe)
    assert capsys.readouterr().err == ""
