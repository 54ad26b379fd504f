"""Is every pair of models that tells of registers compared, and none twice?"""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest

from regvit_jax import ViTConfig
from regvit_jax.analysis.engine.pairs import compared_pairs
from regvit_jax.analysis.engine.subjects import Subject
from regvit_jax.checkpoint import CheckpointInfo
from regvit_jax.preprocess import Preprocess

SMALL = ViTConfig()


def model(label, registers, config=SMALL, seed=None, step=None):
    shape = dataclasses.replace(config, num_registers=registers)
    source = {} if seed is None else {"recipe": {"seed": seed}}
    info = CheckpointInfo(shape, source, metrics={} if step is None else {"step": step})
    return SimpleNamespace(subject=Subject(label, Path(label), info, Preprocess()))


def labels(models):
    return [(a.subject.label, b.subject.label) for a, b in compared_pairs(models)]


def test_one_model_has_no_pair_and_two_have_one_in_their_order():
    assert labels([model("reg0", 0)]) == []
    assert labels([model("reg4", 4), model("reg0", 0)]) == [("reg4", "reg0")]


def test_the_first_is_compared_with_all_and_each_seed_has_a_pair_of_its_own():
    models = [model(f"reg{r}-{s}", r, seed=s) for s in (0, 1) for r in (0, 4, 8)]
    assert labels(models) == [
        *[("reg0-0", f"reg{r}-{s}") for s, r in ((0, 4), (0, 8), (1, 0), (1, 4), (1, 8))],
        ("reg0-1", "reg4-1"),
        ("reg0-1", "reg8-1"),
    ]


@pytest.mark.parametrize(
    "changed",
    [
        {"config": dataclasses.replace(SMALL, embed_dim=192, num_heads=3)},
        {"seed": 2},
        {"step": 20},
    ],
)
def test_what_differs_in_more_than_its_registers_is_no_pair(changed):
    plain, other = (
        model("b", 0, seed=1, step=10),
        model("c", 4, **({"seed": 1, "step": 10} | changed)),
    )
    assert labels([model("a", 0), plain, other]) == [("a", "b"), ("a", "c")]
    same = model("c", 4, seed=1, step=10)
    assert labels([model("a", 0), plain, same]) == [("a", "b"), ("a", "c"), ("b", "c")]
