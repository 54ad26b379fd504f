"""Are models named apart, and images chosen alike for all of them?"""

import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from regvit_jax.analysis.engine.subjects import (
    choose_images,
    choose_shown,
    count_parameters,
    open_subjects,
    short_labels,
)
from regvit_jax.analysis.questions.norms.options import NormsOptions
from regvit_jax.config import VARIANTS
from regvit_jax.errors import InputError


def options(checkpoints, pictures, **changes) -> NormsOptions:
    paths = (checkpoints["plain"], checkpoints["registers"])
    return NormsOptions(checkpoint=paths, data=str(pictures), out=Path("out"), **changes)


@pytest.mark.parametrize(
    ("paths", "labels"),
    [
        (["/runs/reg0/model", "/runs/reg4/model"], ["reg0", "reg4"]),
        (["/a/small", "/b/small"], ["a/small", "b/small"]),
        (["/models/deit"], ["deit"]),
        (["/runs/a/epochs/0", "/runs/a/epochs/19"], ["epochs/0", "epochs/19"]),
        (["/runs/a/epochs/9", "/runs/b/epochs/9"], ["a/epochs/9", "b/epochs/9"]),
    ],
)
def test_labels_are_short_and_unlike(paths, labels):
    assert short_labels([Path(path) for path in paths]) == labels


def test_names_of_files_differ_where_labels_do(checkpoints, pictures):
    subject, _ = open_subjects(options(checkpoints, pictures), "norms")
    labels = ("a/b", "a-b", "a b", "a:b", "ä", "ö", "x" * 150, "x" * 151, "_a", "a.b")
    slugs = [dataclasses.replace(subject, label=label).slug for label in labels]
    assert len(set(slugs)) == len(labels)
    assert all(re.fullmatch(r"[A-Za-z0-9._-]{1,110}", slug) for slug in slugs)
    assert [slugs[1], slugs[8]] == ["a-b", "_a"]


def test_a_checkpoint_called_like_anothers_twin_is_refused(checkpoints, pictures, tmp_path):
    twins = [tmp_path / name for name in ("reg0", "reg0 untrained")]
    for path in twins:
        shutil.copytree(checkpoints["plain"], path)
    asked = dataclasses.replace(options(checkpoints, pictures), checkpoint=tuple(twins))
    with pytest.raises(InputError, match="untrained twin"):
        open_subjects(asked, "norms")


def test_images_are_drawn_with_the_seed_and_kept_in_order(checkpoints, pictures):
    source, first = choose_images(options(checkpoints, pictures, num_images=20))
    _, again = choose_images(options(checkpoints, pictures, num_images=20))
    _, other = choose_images(options(checkpoints, pictures, num_images=20, seed=1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len(source) == 200
    assert np.all(np.diff(first) > 0)
    _, everything = choose_images(options(checkpoints, pictures, num_images=0))
    np.testing.assert_array_equal(everything, np.arange(200))


def test_shown_images_are_spread_or_named(checkpoints, pictures):
    source, indices = choose_images(options(checkpoints, pictures, num_images=0))
    spread = choose_shown(options(checkpoints, pictures, num_shown=3), source, indices)
    np.testing.assert_array_equal(spread, [0, 100, 199])
    named = choose_shown(options(checkpoints, pictures, show=("picture_007",)), source, indices)
    assert "picture_007" in source.file_names[named[0]]
    with pytest.raises(InputError, match="zebra"):
        choose_shown(options(checkpoints, pictures, show=("zebra",)), source, indices)


def test_preprocessing_is_the_checkpoints_unless_another_is_asked_for(checkpoints, pictures):
    (own, _) = open_subjects(options(checkpoints, pictures), "similarity")
    assert own.preprocess == own.info.preprocess
    (study, _) = open_subjects(options(checkpoints, pictures, protocol="study"), "similarity")
    assert study.preprocess.resize == "squash"
    assert (study.preprocess.height, study.preprocess.width) == (32, 32)
    (large, _) = open_subjects(options(checkpoints, pictures, image_size=64), "similarity")
    expected = dataclasses.replace(own.preprocess, height=64, width=64, short_side=64)
    assert large.preprocess == expected
    (maps, _) = open_subjects(
        options(checkpoints, pictures, protocol="study", image_size=112), "attention"
    )
    assert maps.preprocess.short_side == 124  # 249 / 2, rounded to even


def test_a_twin_is_the_same_model_before_training(checkpoints, pictures):
    _, subject = open_subjects(options(checkpoints, pictures), "similarity")
    twin = subject.twin()
    assert twin.config == subject.config
    assert twin.to_json()["metrics"] == {}
    first, second = (twin.load(seed=0)[1]["cls_token"] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, subject.load(seed=0)[1]["cls_token"])


@pytest.mark.parametrize(("registers", "count"), [(0, 22_059_496), (4, 22_061_032)])
def test_parameters_are_counted(registers, count):
    config = dataclasses.replace(VARIANTS["small"], num_registers=registers)
    assert count_parameters(config) == count
