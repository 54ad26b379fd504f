"""Is a planted group of outliers found, and is none found where there is none?"""

import numpy as np
import pytest
import scipy.stats

from regvit_jax.analysis.outliers.verdict import judge, shape_tests, shares, thresholds
from regvit_jax.analysis.statistics.bootstrap import Bootstrap

NUM_PATCHES = 196


def bulk(seed, num_images, spread=0.2):
    generator = np.random.default_rng(seed)
    return generator, np.exp(generator.normal(3, spread, (num_images, NUM_PATCHES)))


def planted(seed, num_images, share, times):
    generator, norms = bulk(seed, num_images)
    norms[generator.random(norms.shape) < share] *= times
    return norms


UNIMODAL = {
    "normal": lambda g, shape: g.normal(40, 4, shape),
    "skewed": lambda g, shape: np.exp(g.normal(3, 0.6, shape)),
    "heavy-tailed": lambda g, shape: 1 + g.pareto(2, shape),
    "student": lambda g, shape: 20 + 5 * np.abs(g.standard_t(3, shape)),
    "of unlike images": lambda g, shape: np.exp(
        g.normal(3, 0.25, shape) + g.normal(0, 0.4, (shape[0], 1))
    ),
}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", UNIMODAL)
def test_one_mode_has_no_outliers_however_long_its_tail(name, seed):
    norms = UNIMODAL[name](np.random.default_rng(seed), (150, NUM_PATCHES))
    assert judge(norms, None, Bootstrap(150, 300)).answer == "not found"


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("share", "times"), [(0.02, 10.0), (0.02, 4.0), (0.003, 6.0), (0.08, 5.0)])
def test_a_planted_group_is_found(seed, share, times):
    verdict = judge(planted(seed, 150, share, times), None, Bootstrap(150, 300))
    assert verdict.answer == "found"
    # Binomial spread of the planted share: at most a fifth of it here.
    assert verdict.group.share.value == pytest.approx(share, rel=0.35)
    assert verdict.group.share.low < verdict.group.share.value < verdict.group.share.high


def test_a_group_that_was_in_the_pixels_already_is_not_the_networks():
    norms = planted(0, 150, 0.03, 6.0)
    assert judge(norms, norms / 2, Bootstrap(150, 300)).answer == "not found"
    flat = np.ones_like(norms)
    verdict = judge(norms, flat, Bootstrap(150, 300))
    assert verdict.answer == "found"
    assert verdict.group.growth == pytest.approx(6.0, rel=0.2)


@pytest.mark.parametrize("num_images", [110, 1000])
def test_one_odd_image_proves_nothing(num_images):
    _, norms = bulk(0, num_images)
    norms[0, :60] *= 8
    assert judge(norms, None, Bootstrap(num_images, 300)).answer != "found"


def test_too_few_images_leave_the_question_open():
    _, few = bulk(1, 5)
    assert judge(few, None, Bootstrap(5, 300)).answer == "cannot tell"
    _, some = bulk(1, 30)
    verdict = judge(some, None, Bootstrap(30, 300))
    assert verdict.answer == "cannot tell"
    assert "103 images are needed" in verdict.reason


def test_a_common_group_is_content_and_no_outlier():
    assert judge(planted(2, 150, 0.3, 5.0), None, Bootstrap(150, 300)).answer == "not found"


def test_equal_norms_have_no_outliers():
    norms = np.full((150, NUM_PATCHES), 7.0)
    assert judge(norms, norms, Bootstrap(150, 300)).answer == "not found"


def test_thresholds_and_shares_are_numpys():
    norms = planted(3, 40, 0.02, 5.0)
    cuts = thresholds(norms)
    pooled = norms.ravel()
    expected = {
        "quantile_98": np.quantile(pooled, 0.98),
        "quantile_99_5": np.quantile(pooled, 0.995),
        "mean_plus_3sd": np.mean(pooled) + 3 * np.std(pooled),
        "3_x_median": 3 * np.median(pooled),
        "absolute_150": 150.0,
    }
    assert cuts == pytest.approx(expected, rel=1e-12)
    above = shares(norms, cuts, Bootstrap(40, 200))
    for name, cut in expected.items():
        by_hand = sum(norm > cut for norm in pooled) / len(pooled)
        assert above[name].value == pytest.approx(by_hand, abs=1e-12)
    assert above["quantile_98"].value == pytest.approx(0.02, abs=1e-3)


def test_kurtosis_is_scipys():
    norms = planted(4, 40, 0.02, 5.0)
    tests = shape_tests(norms, Bootstrap(40, 200))
    expected = scipy.stats.kurtosis(norms.ravel(), fisher=True, bias=True)
    # float64 sums of standardised fourth powers: rounding stays below 1e-10 of about 60.
    assert tests["excess_kurtosis"].value == pytest.approx(expected, abs=1e-8)
    assert tests["max_over_median"].value == pytest.approx(norms.max() / np.median(norms))


def test_the_dip_of_the_upper_tail_sees_a_rare_group_that_the_whole_hides():
    with_group = shape_tests(planted(5, 150, 0.01, 6.0), Bootstrap(150, 200))
    without = shape_tests(bulk(5, 150)[1], Bootstrap(150, 200))
    assert with_group["dip_upper_5_percent_p"] < 0.001 < 0.05 < without["dip_upper_5_percent_p"]
    assert without["dip_all_p"] > 0.05
