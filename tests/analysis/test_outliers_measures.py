"""Are the numbers on outliers those of plain loops in float64?"""

import math

import numpy as np
import pytest

from regvit_jax.analysis.outliers import measures

GRID = (3, 4)
generator = np.random.default_rng(0)
TOKENS = generator.normal(size=(5, 12, 6)).astype(np.float32)
IS_OUTLIER = generator.random((5, 12)) < 0.25
IS_OUTLIER[2] = False  # an image without any
# Sums of a dozen products in float64 against another order of addition: measured 2e-16.
ATOL = 1e-12


def check(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=ATOL)


def mean(values):
    values = list(values)
    return sum(values) / len(values) if values else math.nan


def test_outliers_are_counted():
    check(measures.number(IS_OUTLIER), [sum(row) for row in IS_OUTLIER.tolist()])


def test_isolation_asks_the_neighbours_one_by_one():
    expected = []
    for row in IS_OUTLIER:
        inside = {divmod(p, GRID[1]) for p in range(12) if row[p]}
        around = ((0, 1), (1, 0), (0, -1), (-1, 0))
        expected.append(
            mean(all((r + a, c + b) not in inside for a, b in around) for r, c in inside)
        )
    check(measures.isolation(IS_OUTLIER, GRID), expected)


def test_value_norms_are_means_over_each_group():
    expected = []
    for image in range(5):
        norms = [math.sqrt(sum(float(v) ** 2 for v in TOKENS[image, p])) for p in range(12)]
        inside = mean(norms[p] for p in range(12) if IS_OUTLIER[image, p])
        expected.append(inside / mean(norms[p] for p in range(12) if not IS_OUTLIER[image, p]))
    check(measures.value_ratio(TOKENS, IS_OUTLIER), expected)


def test_massive_channels_are_each_outliers_own_and_compared_over_images():
    expected, seen = [], []
    for image in range(5):
        shares = []
        for patch in np.flatnonzero(IS_OUTLIER[image]):
            squares = [float(v) ** 2 for v in TOKENS[image, patch]]
            order = sorted(range(6), key=lambda channel: -squares[channel])[:3]
            shares.append(sum(squares[channel] for channel in order) / sum(squares))
            seen += order
        expected.append(mean(shares))
    found = measures.massive(TOKENS, IS_OUTLIER)
    check(found.share, expected)
    counts = sorted((seen.count(channel) for channel in range(6)), reverse=True)
    assert found.common == pytest.approx(sum(counts[:3]) / len(seen), abs=ATOL)


def test_the_same_three_channels_in_all_images_are_seen():
    tokens = TOKENS.copy()
    tokens[..., [1, 4, 5]] *= 1000
    found = measures.massive(tokens, IS_OUTLIER)
    assert found.common == 1
    assert set(found.channels) == {1, 4, 5}
    assert np.nanmin(found.share) > 0.99
    assert math.isnan(measures.massive(tokens, np.zeros_like(IS_OUTLIER)).common)


def test_effective_rank_is_that_of_the_singular_values():
    expected = []
    for image in TOKENS.astype(np.float64):
        values = np.sqrt(np.maximum(np.linalg.eigvalsh(image.T @ image), 0))
        shares = [float(v) / float(values.sum()) for v in values]
        expected.append(math.exp(-sum(s * math.log(s) for s in shares)))
    # Roots of the Gram matrix's eigenvalues against singular values: measured 1e-14.
    check(measures.effective_rank(TOKENS), expected)
    same = np.broadcast_to(TOKENS[:, :1], TOKENS.shape)
    # Singular values of zero are 1e-16 of the largest: entropy 1e-14 each.
    np.testing.assert_allclose(measures.effective_rank(same), 1.0, atol=1e-6)
    check(measures.effective_rank(np.eye(6)[None]), [6.0])


def test_cosines_of_cls_are_means_over_the_patches():
    cls_token, expected = TOKENS[:, 0] + 1, []
    for image in range(5):
        a = cls_token[image].astype(np.float64)
        cosines = []
        for patch in TOKENS[image].astype(np.float64):
            product = sum(x * y for x, y in zip(a, patch, strict=True))
            cosines.append(product / math.sqrt(sum(x * x for x in a) * sum(y * y for y in patch)))
        expected.append(mean(cosines))
    check(measures.cls_cosine(cls_token, TOKENS), expected)
