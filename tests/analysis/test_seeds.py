"""Are statements about recipes as rarely wrong as they say?"""

import numpy as np
import pytest
import scipy.stats

from regvit_jax.analysis.statistics.seeds import MIN_SEEDS, difference, mean, scope


@pytest.mark.parametrize("sizes", [(3, 3), (3, 7), (5, 4)])
def test_the_interval_is_scipys_welch(sizes):
    generator = np.random.default_rng(0)
    first, second = generator.normal(0, 1, sizes[0]), generator.normal(1, 3, sizes[1])
    found = difference(first, second)
    expected = scipy.stats.ttest_ind(second, first, equal_var=False).confidence_interval(0.95)
    assert found.value == pytest.approx(second.mean() - first.mean(), abs=1e-12)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize("spreads", [(1.0, 1.0), (1.0, 4.0)])
@pytest.mark.parametrize("runs", [3, 5])
def test_the_interval_covers_the_truth_as_often_as_it_says(spreads, runs):
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(1000):
        found = difference(*(generator.normal(0, spread, runs) for spread in spreads))
        covered += found.low <= 0 <= found.high
    # Measured: 947 to 967. Binomial standard deviation 7.
    assert covered >= 930


def test_two_seeds_of_a_recipe_that_are_called_registers_are_hardly_ever_supported():
    """40 pairs of recipes that are the same, 5 statements each, on 3 runs a side.

    Every run has an effect of its own seed that all of its images share: an interval over images,
    0.1 wide, would leave out zero most of the time.
    """
    generator = np.random.default_rng(2)
    answers, alone = [], 0
    for _ in range(40):
        for _ in range(5):
            runs = generator.normal(0.5, 0.15, (2, MIN_SEEDS)) + generator.normal(0, 0.02, (2, 3))
            answers.append(scope(difference(*runs), expected=1))
            alone += abs(runs[1, 0] - runs[0, 0]) > 0.05
    assert answers.count("supported") <= 0.05 * len(answers)
    assert alone > 0.6 * len(answers)


def test_an_effect_larger_than_the_seeds_is_supported_on_its_side_only():
    found = difference([0.50, 0.52, 0.51], [0.70, 0.72, 0.69])
    assert scope(found, 1) == "supported"
    assert scope(found, -1) == "not supported"
    assert scope(found, 1, null=0.2) == "cannot tell"


def test_fewer_than_three_runs_speak_of_their_pair_only():
    found = difference([0.5], [0.9])
    assert found == (pytest.approx(0.4), (1, 1), None, None)
    assert scope(found, 1) == "in this pair of models"
    assert scope(difference([1, 2, 3], [5, 6]), 1) == "in this pair of models"


def test_runs_without_spread_have_an_interval_of_one_point():
    found = difference([1.0] * 3, [2.0] * 3)
    assert (found.low, found.high) == (1.0, 1.0)


def test_the_interval_of_a_mean_is_scipys_students():
    values = np.random.default_rng(3).normal(2, 1, 5)
    found = mean(values)
    expected = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found.value == pytest.approx(values.mean(), abs=1e-12)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert mean(values[: MIN_SEEDS - 1]).low is None
