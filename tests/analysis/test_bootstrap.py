"""Are the intervals as wide as they should be?"""

import numpy as np
import pytest

from regvit_jax.analysis.statistics.bootstrap import Bootstrap, Estimate

# The 2.5 % quantile of B resampled means has a standard deviation of sqrt(0.025 x 0.975 / B) /
# density(-1.96) = 2.67 / sqrt(B) standard errors; four of them at B = 4000.
REPLICATES = 4000
QUANTILE_ATOL = 4 * 2.67 / REPLICATES**0.5


def test_the_interval_of_a_mean_is_the_normal_one():
    values = np.random.default_rng(0).normal(5.0, 2.0, 300)
    standard_error = values.std() / 300**0.5
    estimate = Bootstrap(300, REPLICATES, seed=1).mean(values)
    assert estimate.value == pytest.approx(values.mean())
    assert (estimate.low - values.mean()) / standard_error == pytest.approx(
        -1.96, abs=QUANTILE_ATOL
    )
    assert (estimate.high - values.mean()) / standard_error == pytest.approx(
        1.96, abs=QUANTILE_ATOL
    )


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(2)
    covered = 0
    for seed in range(300):
        estimate = Bootstrap(100, 400, seed).mean(generator.normal(0.0, 1.0, 100))
        covered += estimate.low <= 0.0 <= estimate.high
    # 95 % of 300 with a binomial standard deviation of 3.8; n = 100 costs about one per cent.
    assert 270 <= covered <= 297


def test_resamples_are_the_same_for_two_models_so_that_differences_are_paired():
    first = np.random.default_rng(3).normal(0, 5, 200)
    second = first + 1.0
    bootstrap = Bootstrap(200, 500, seed=4)
    difference = bootstrap.means(second) - bootstrap.means(first)
    # Means in float32: measured 2.4e-7.
    np.testing.assert_allclose(difference, 1.0, rtol=0, atol=1e-6)


def test_the_seed_decides():
    values = np.random.default_rng(5).normal(size=50)
    assert Bootstrap(50, 200, 1).mean(values) == Bootstrap(50, 200, 1).mean(values)
    assert Bootstrap(50, 200, 1).mean(values) != Bootstrap(50, 200, 2).mean(values)


def test_every_resample_draws_as_many_images_as_there_are():
    ones = Bootstrap(37, 250).means(np.ones((37, 2, 3)))
    assert ones.shape == (250, 2, 3)
    np.testing.assert_array_equal(ones, 1.0)


def test_a_single_image_has_no_interval():
    assert Bootstrap(1).mean(np.array([3.0])) == Estimate(3.0, 1, None, None)
    assert Estimate(3.0, 1).to_json() == {"value": 3.0, "n": 1, "interval": None}
