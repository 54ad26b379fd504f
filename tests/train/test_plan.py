"""Does the plan say how long the published study takes?"""

import dataclasses
import sys

import pytest

import regvit_jax.train.cli
from regvit_jax.errors import InputError
from regvit_jax.train.plan import describe, plan_runs
from regvit_jax.train.presets import preset

GFLOP = (
    28.19  # of an image of DeiT-III Small + 4 registers, forward and backward: protocols.md, 1.2
)


def test_the_studys_runs_have_the_known_length():
    runs = plan_runs(preset("study"), (0, 4))
    assert [run.num_registers for run in runs] == [0, 4]
    assert {run.num_steps for run in runs} == {800 * 1251}
    assert {run.num_images for run in runs} == {800 * 1251 * 1024}
    assert runs[1].flops_per_image / 1e9 == pytest.approx(GFLOP, abs=0.005)
    expected = 800 * 1251 * 1024 * GFLOP * 1e9 / 237e12 / 3600
    assert runs[1].hours(237e12) == pytest.approx(expected, rel=2e-4)


def test_the_sum_counts_seeds_and_what_training_reaches():
    runs = plan_runs(preset("study"), (0, 4))
    line = describe(runs, seeds=3, rate=790e12, share=0.3)[-1]
    hours = 3 * sum(run.hours(0.3 * 790e12) for run in runs)
    assert (
        line == f"6 runs: {hours:.2f} device hours at 30 % of 790.00 TFLOP/s, without evaluation."
    )


def test_images_that_are_there_are_counted(monkeypatch, capsys):
    arguments = ["plan", "--data", "digits", "--epochs", "2", "--registers", "4", "--tflops", "1"]
    monkeypatch.setattr(sys, "argv", ["regvit-train", *arguments])
    regvit_jax.train.cli.main()
    printed = capsys.readouterr().out
    assert printed.startswith("R = 4: 1,250 steps, 40,000 images of ")
    assert "\n1 run: " in printed


def test_images_that_nobody_knows_are_an_error():
    recipe = dataclasses.replace(
        preset("study"), data=dataclasses.replace(preset("study").data, data="unheard_of")
    )
    with pytest.raises(InputError, match="unheard_of"):
        plan_runs(recipe, (0,))


@pytest.mark.parametrize(
    ("change", "option"),
    [
        ({"seeds": 0}, "--seeds"),
        ({"rate": 0.0}, "--tflops"),
        ({"share": 0.0}, "--share"),
        ({"share": 1.5}, "--share"),
    ],
)
def test_numbers_that_make_no_sense_are_an_error(change, option):
    given = {"seeds": 1, "rate": 1e12, "share": 0.3} | change
    with pytest.raises(InputError, match=option):
        describe(plan_runs(preset("study"), (0,)), **given)


def test_a_plan_needs_a_run():
    with pytest.raises(InputError, match="--registers"):
        plan_runs(preset("study"), ())
