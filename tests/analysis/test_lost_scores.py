"""Are boxes scored as they should be, in the frame that they are in?"""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from regvit_jax.analysis.discovery.survey import Facts
from regvit_jax.analysis.questions.lost.rules import PRESETS, LostRules
from regvit_jax.analysis.questions.lost.scores import (
    Scene,
    baseline_overlaps,
    compare,
    overlaps,
)
from regvit_jax.analysis.statistics.bootstrap import Bootstrap
from regvit_jax.preprocess import Preprocess
from regvit_jax.shares import wilson

CROP = Preprocess()


def facts(width, height, boxes, hard=()):
    boxes = np.array(boxes, float).reshape(-1, 4)
    return Facts(width, height, boxes, np.isin(np.arange(len(boxes)), hard))


def test_the_official_rules_take_all_objects_as_they_are():
    image = facts(500, 375, [[10, 20, 500, 375], [1, 2, 3, 4]], hard=[0])
    np.testing.assert_array_equal(PRESETS["official"].objects(image, CROP), image.boxes)


def test_the_study_shifts_stretches_and_drops():
    image = facts(500, 375, [[10, 20, 110, 220], [1, 2, 3, 4]], hard=[1])
    found = PRESETS["study"].objects(image, CROP)
    expected = np.array([[10, 20, 109, 219]]) * [224 / 500, 224 / 375, 224 / 500, 224 / 375]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("fault", "change"),
    [("drop_hard", 1), ("shift_far_corner", 2), ("stretch_objects", 3)],
)
def test_each_fault_is_switched_by_itself(fault, change):
    image = facts(500, 375, [[70, 20, 320, 220], [100, 100, 200, 200]], hard=[1])
    right = LostRules(frame="crop")
    wrong = dataclasses.replace(right, **{fault: True})
    before, after = (rules.objects(image, CROP) for rules in (right, wrong))
    if change == 1:
        np.testing.assert_array_equal(after, before[:1])
    else:
        assert before.shape == after.shape
        assert not np.allclose(before, after)


def test_cropping_cuts_objects_off_and_loses_those_outside():
    """500 x 250 px become 448 x 224, of which columns 112 to 336 are seen."""
    image = facts(500, 250, [[0, 0, 250, 250], [0, 0, 100, 250], [375, 0, 500, 250]])
    found = LostRules(frame="crop").objects(image, CROP)
    np.testing.assert_allclose(found, [[0, 0, 112, 224]], rtol=0, atol=1e-9)


def test_boxes_are_cut_off_at_the_frame_or_wrongly_at_the_file():
    image = facts(500, 100, [])
    boxes = np.array([[3, 2, 14, 14]])
    padded = CROP.padding(100, 500, 16)
    far = np.array([[30, 5, 32, 7]])
    assert LostRules().to_frame(far, 16, image, padded).tolist() == [[480, 80, 500, 100]]
    in_crop = LostRules(frame="crop")
    assert in_crop.to_frame(boxes, 16, image, CROP).tolist() == [[48, 32, 224, 224]]
    wrong = dataclasses.replace(in_crop, clip_to_file=True)
    assert wrong.to_frame(boxes, 16, image, CROP).tolist() == [[48, 32, 224, 100]]


def test_the_best_object_decides_and_images_without_one_have_no_score():
    scenes = [
        Scene(100, 100, np.array([[0.0, 0, 10, 10], [25, 25, 75, 75]])),
        Scene(100, 100, np.zeros((0, 4))),
    ]
    boxes = np.array([[25.0, 25, 75, 50], [0, 0, 1, 1]])
    np.testing.assert_array_equal(overlaps(boxes, scenes), [0.5, np.nan])
    assert baseline_overlaps("central_box", scenes)[0] == 1.0
    assert baseline_overlaps("full_image", scenes)[0] == 0.25


def test_wilson_s_interval_is_the_closed_form():
    share, n, z = 19 / 68, 68, stats.norm.ppf(0.975)
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    estimate = wilson(19, 68)
    assert estimate.share == share
    assert (estimate.low, estimate.high) == pytest.approx((centre - half, centre + half), abs=1e-12)
    assert wilson(0, 68).high == pytest.approx(0.0535, abs=1e-4)


def test_models_are_compared_image_by_image():
    generator = np.random.default_rng(0)
    first = generator.uniform(0, 1, 300)
    second = first + 0.05 + 0.01 * generator.normal(size=300)
    result = compare(first, second, Bootstrap(300, 400))
    only_second = int(((first < 0.5) & (second >= 0.5)).sum())
    assert result["mcnemar"]["only_first"] == 0
    assert result["mcnemar"]["only_second"] == only_second
    # McNemar's exact test, one side empty: both tails of a fair coin.
    assert result["mcnemar"]["p_value"] == pytest.approx(2 * 0.5**only_second, rel=1e-9)
    difference = result["differences"]["best_iou"]
    assert difference.low < 0.05 < difference.high
    assert difference.high - difference.low < 0.004  # unpaired it would be 0.09
    same = compare(first, first, Bootstrap(300, 400))
    assert same["mcnemar"] == {"only_first": 0, "only_second": 0, "p_value": 1.0}
