"""Are the intervals as wide as they should be?"""

import numpy as np
import pytest
import scipy.stats

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


@pytest.mark.parametrize(("n", "least"), [(20, 0.90), (100, 0.91)])
def test_the_interval_of_a_share_covers_the_truth_though_few_images_hold_it(n, least):
    generator = np.random.default_rng(6)
    covered = 0
    for _ in range(300):
        # Images of unlike scale: patches above 1.9 medians are 2.25 % in all, 0 in most images.
        logs = generator.normal(0, 0.25, (n, 1)) + generator.normal(0, 0.2, (n, 196))
        found = Bootstrap(n).share((logs > np.log(1.9)).mean(axis=1))
        covered += found.low <= 0.0225 <= found.high
    # Measured over 500 draws: 0.928 and 0.938, from resampling 0.70 and 0.88; 0.015 by chance.
    assert covered >= least * 300


def test_the_interval_of_a_share_of_single_coins_is_nearly_wilsons():
    coins = (np.arange(400) < 100).astype(float)
    found = Bootstrap(400).share(coins)
    expected = scipy.stats.binomtest(100, 400).proportion_ci(0.95, "wilson")
    # t of 99 degrees of freedom instead of the normal: 1.2 % wider.
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-3)


def test_a_share_that_is_the_same_in_all_images_has_no_interval():
    for value in (0.0, 0.25, 1.0):
        assert Bootstrap(50).share(np.full(50, value)) == Estimate(value, 50)
