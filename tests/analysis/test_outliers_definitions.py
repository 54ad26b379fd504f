"""Are the published definitions and the numbers on the shape those of NumPy and SciPy?"""

import numpy as np
import pytest
import scipy.stats

from regvit_jax.analysis.outliers.definitions import shares, thresholds
from regvit_jax.analysis.outliers.shape import shape_tests
from regvit_jax.analysis.statistics.bootstrap import Bootstrap


def planted(seed, num_images, share, times):
    generator = np.random.default_rng(seed)
    norms = np.exp(generator.normal(3, 0.2, (num_images, 196)))
    norms[generator.random(norms.shape) < share] *= times
    return norms


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
    without = shape_tests(planted(5, 150, 0.0, 1.0), Bootstrap(150, 200))
    assert with_group["dip_upper_5_percent_p"] < 0.001 < 0.05 < without["dip_upper_5_percent_p"]
    assert without["dip_all_p"] > 0.05
