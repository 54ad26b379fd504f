"""Does the solver find what scikit-learn finds?"""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from regvit_jax.analysis.statistics.logistic import classify, prepare, solve, solve_path, turn

STRENGTHS = 10.0 ** np.array([-5.0, -1.0, 1.0, 3.0])


def mixture(num_images=400, dim=12, num_classes=4, spread=1.0, seed=0):
    """Overlapping clouds whose channels have unlike scales and a common offset."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(num_classes, size=num_images)
    centres = generator.normal(size=(num_classes, dim))
    features = centres[labels] + spread * generator.normal(size=(num_images, dim))
    mixing = generator.normal(size=(dim, dim)) * np.geomspace(3, 0.3, dim)
    return (features @ mixing + 2.0).astype(np.float32), labels


def sum_of_losses(features, labels, weights, bias, strength):
    """The objective in float64, from its definition."""
    logits = features.astype(np.float64) @ weights + bias
    logits -= logits.max(axis=1, keepdims=True)
    loss = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]
    return strength * loss.sum() + 0.5 * np.square(weights).sum()


def in_the_features_own_axes(problem, weights):
    turned = problem.axes @ np.asarray(weights[:-1], np.float64)
    return turned, np.asarray(weights[-1], np.float64) - problem.mean @ turned


@pytest.mark.parametrize("spread", [1.5, 0.05], ids=["overlapping", "separable"])
def test_every_strength_reaches_the_objective_of_scikit_learn(spread):
    features, labels = mixture(spread=spread)
    problem = prepare(features, labels, 4)
    used = np.ones(len(labels), bool)
    solution = solve(problem, used, STRENGTHS, tolerance=1e-9)
    for i, strength in enumerate(STRENGTHS):
        reference = LogisticRegression(
            C=strength, tol=1e-10, solver="newton-cholesky", max_iter=1000
        )
        reference.fit(features.astype(np.float64), labels)
        ours = in_the_features_own_axes(problem, solution.weights[:, i])
        found = sum_of_losses(features, labels, *ours, strength)
        expected = sum_of_losses(
            features, labels, reference.coef_.T, reference.intercept_, strength
        )
        # Measured: at most 8e-8 above scikit-learn's, in units of the objective.
        assert found <= expected * (1 + 1e-6)


def test_classes_are_told_apart_as_scikit_learn_does():
    features, labels = mixture()
    others, _ = mixture(seed=0, num_images=400)
    problem = prepare(features, labels, 4)
    solution = solve(problem, np.ones(400, bool), np.array([1.0]), tolerance=1e-9)
    reference = LogisticRegression(C=1.0, solver="newton-cholesky").fit(features, labels)
    predicted = np.asarray(classify(turn(problem, others), solution.weights))[:, 0]
    assert (predicted == reference.predict(others)).mean() > 0.995


def test_images_that_are_not_used_change_nothing():
    features, labels = mixture()
    used = np.random.default_rng(1).random(400) < 0.7
    problem = prepare(features, labels, 4)
    masked = solve(problem, used, STRENGTHS[1:2], tolerance=1e-9)
    alone = prepare(features[used], labels[used], 4)
    by_itself = solve(alone, np.ones(int(used.sum()), bool), STRENGTHS[1:2], tolerance=1e-9)
    first = in_the_features_own_axes(problem, masked.weights[:, 0])
    second = in_the_features_own_axes(alone, by_itself.weights[:, 0])
    # Two solutions in float32 from other start points: measured 7.7e-5.
    np.testing.assert_allclose(first[0], second[0], rtol=0, atol=3e-4)


def test_the_path_is_what_each_strength_gives_alone():
    features, labels = mixture()
    problem, used = prepare(features, labels, 4), np.ones(400, bool)
    found = np.zeros((13, 4, 4))
    for place, weights in solve_path(problem, used, STRENGTHS, tolerance=1e-9, max_steps=500):
        found[:, place] = weights
    expected = solve(problem, used, STRENGTHS, tolerance=1e-9).weights
    # Weights grow with the strength; measured 4e-4 of their size.
    size = np.abs(expected).max(axis=(0, 2), keepdims=True)
    np.testing.assert_allclose(found / size, expected / size, rtol=0, atol=5e-3)


def test_a_hundred_classes_are_fitted():
    features, labels = mixture(num_images=600, dim=24, num_classes=102, spread=0.2)
    present, labels = np.unique(labels, return_inverse=True)
    problem = prepare(features, labels, len(present))
    solution = solve(problem, np.ones(600, bool), np.array([10.0]), tolerance=1e-7)
    predicted = np.asarray(classify(problem.features, solution.weights))[:, 0]
    reference = LogisticRegression(C=10.0, max_iter=2000).fit(features, labels)
    assert abs((predicted == labels).mean() - reference.score(features, labels)) < 0.01
    assert np.isfinite(np.asarray(solution.weights)).all()
