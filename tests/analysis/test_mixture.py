"""Does the mixture find two populations where there are two?"""

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

from regvit_jax.analysis.statistics.mixture import fit_mixture


def two_populations(share=0.03, ratio=8.0, num=60_000):
    generator = np.random.default_rng(0)
    norms = 20 * np.exp(0.15 * generator.normal(size=num))
    is_upper = generator.random(num) < share
    norms[is_upper] = 20 * ratio * np.exp(0.2 * generator.normal(size=is_upper.sum()))
    return norms.astype(np.float32)


def test_two_populations_are_found_as_scikit_learn_finds_them():
    norms = two_populations()
    found = fit_mixture(norms)
    logs = np.log(norms.astype(np.float64))[:, None]
    reference = GaussianMixture(2, random_state=0, tol=1e-8, max_iter=500).fit(logs)
    alone = GaussianMixture(1).fit(logs)
    upper = int(reference.means_.argmax())
    assert found.upper_share == pytest.approx(reference.weights_[upper], abs=1e-4)
    expected = np.exp(reference.means_[upper, 0]) / np.median(norms)
    assert found.upper_ratio == pytest.approx(expected, rel=1e-3)
    gap = abs(np.diff(reference.means_[:, 0])[0])
    width = np.sqrt(reference.covariances_.mean())
    assert found.separation == pytest.approx(gap / width, rel=1e-2)
    assert found.bic_gain == pytest.approx(alone.bic(logs) - reference.bic(logs), rel=1e-3)


def test_one_population_gains_nothing():
    found = fit_mixture(two_populations(share=0.0))
    assert found.bic_gain < 0


def test_a_skewed_population_is_not_separated():
    generator = np.random.default_rng(1)
    found = fit_mixture(generator.gamma(4.0, size=60_000).astype(np.float32))
    assert found.separation < 2


def test_equal_norms_have_no_mixture():
    assert fit_mixture(np.ones(100, np.float32)) is None
