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


def test_the_interval_of_a_share_of_single_coins_is_cloppers_and_pearsons():
    coins = (np.arange(400) < 100).astype(float)
    found = Bootstrap(400).share(coins)
    expected = scipy.stats.binomtest(100, 400).proportion_ci(0.95, "exact")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_a_share_that_few_images_hold_is_less_sure_than_one_that_all_share():
    spread, few = np.full(100, 0.02), np.zeros(100)
    spread[::2] = 0.0
    few[:4] = 0.25
    found = [Bootstrap(100).share(shares) for shares in (spread, few)]
    assert [each.value for each in found] == pytest.approx([0.01, 0.01])
    assert found[1].high - found[1].low > 3 * (found[0].high - found[0].low)


def test_quantiles_of_single_values_have_the_binomial_ranks():
    values = np.random.default_rng(7).permutation(200.0 + np.arange(200))[:, None]
    (median,) = Bootstrap(200).quantiles(values, [0.5])
    low, high = scipy.stats.binomtest(100, 200).proportion_ci(0.95, "exact")
    # Shares change by 1/200 from value to value; edges are interpolated between.
    assert (median.low, median.high) == pytest.approx((200 + 200 * low, 200 + 200 * high), abs=2)


def test_a_quantile_that_so_few_images_cannot_tell_has_no_interval():
    values = np.random.default_rng(8).normal(size=(20, 196))
    values += np.random.default_rng(9).normal(0, 1, (20, 1))
    median, high = Bootstrap(20).quantiles(values, [0.5, 0.995])
    assert median.low < median.value < median.high
    assert (high.low, high.high) == (None, None)


@pytest.mark.parametrize("n", [2, 5, 20, 1000])
def test_percentiles_are_moved_out_to_those_of_students_t(n):
    samples = scipy.stats.norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    found = Bootstrap(n, 20_000).estimate(0.0, samples)
    expected = min(scipy.stats.t.ppf(0.975, n - 1) * (n / (n - 1)) ** 0.5, samples[-1])
    # The kurtosis of these samples is -0.001: no degree of freedom is lost.
    assert (found.low, found.high) == pytest.approx((-expected, expected), abs=0.01)


def test_where_few_images_decide_the_interval_is_wider():
    values = np.zeros(50)
    values[:3] = 1.0
    heavy = Bootstrap(50, 4000).mean(values)
    plain = np.quantile(Bootstrap(50, 4000).means(values), [0.025, 0.975])
    assert heavy.low <= plain[0]
    assert heavy.high > plain[1]


def test_a_share_that_is_the_same_in_all_images_has_no_interval():
    for value in (0.0, 0.25, 1.0):
        assert Bootstrap(50).share(np.full(50, value)) == Estimate(value, 50)
