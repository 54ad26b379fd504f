"""Do the nearest neighbours vote as a plain loop says?"""

import numpy as np

from regvit_jax.analysis.statistics import neighbours
from regvit_jax.analysis.statistics.neighbours import vote


def votes_of_a_loop(features, known, labels, num_classes, k):
    winners = []
    for vector in features.astype(np.float64):
        cosines = [
            vector @ other / (np.linalg.norm(vector) * np.linalg.norm(other)) for other in known
        ]
        votes = np.zeros(num_classes)
        for i in np.argsort(cosines)[::-1][:k]:
            votes[labels[i]] += np.exp(cosines[i] / 0.07)
        winners.append(votes.argmax())
    return np.array(winners)


def examples():
    generator = np.random.default_rng(0)
    labels = generator.integers(5, size=90)
    centres = generator.normal(size=(5, 8))
    known = (centres[labels] + 1.2 * generator.normal(size=(90, 8))).astype(np.float32)
    features = (centres[labels[:37]] + 1.2 * generator.normal(size=(37, 8))).astype(np.float32)
    return features, known, labels


def test_votes_are_those_of_a_plain_loop():
    features, known, labels = examples()
    found = vote(features, known, labels, 5, (1, 3, 20))
    for column, k in enumerate((1, 3, 20)):
        expected = votes_of_a_loop(features, known, labels, 5, k)
        np.testing.assert_array_equal(found[:, column], expected)


def test_chunks_change_nothing(monkeypatch):
    features, known, labels = examples()
    expected = vote(features, known, labels, 5, (10, 20))
    monkeypatch.setattr(neighbours, "SIMILARITY_BYTES", 4 * 90 * 8)
    np.testing.assert_array_equal(vote(features, known, labels, 5, (10, 20)), expected)


def test_more_neighbours_than_images_are_all_of_them():
    features, known, labels = examples()
    found = vote(features, known, labels, 5, (90, 500))
    np.testing.assert_array_equal(found[:, 0], found[:, 1])


def test_a_vector_of_zeros_is_classified():
    features, known, labels = examples()
    features[0] = 0.0
    assert 0 <= vote(features, known, labels, 5, (3,))[0, 0] < 5
