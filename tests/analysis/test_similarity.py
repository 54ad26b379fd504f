"""Are the cosines torch's, and the numbers scikit-learn's and scipy's?"""

from typing import NamedTuple

import numpy as np
import pytest
from scipy.stats import gaussian_kde
from sklearn.metrics import roc_auc_score

from regvit_jax.analysis.engine.columns import Columns
from regvit_jax.analysis.outliers.labels import labelled
from regvit_jax.analysis.questions.similarity.similarity import (
    DENSITY_AT,
    _median,
    auc,
    flat_pairs,
    measure_similarity,
    neighbour_cosines,
    outlier_ends,
    pair_columns,
)
from regvit_jax.analysis.statistics.bootstrap import Bootstrap
from regvit_jax.preprocess import Preprocess
from tests.analysis.conftest import some_images

torch = pytest.importorskip("torch", reason="the extra torch is not installed")

# Sums of 24 products in float32, against float64: measured 2.0e-7.
COSINE_ATOL = 1e-6
# Sums in float64 of 3,700 float32 numbers: measured 0; they may differ by 3,700 x 1.1e-16.
MEAN_ATOL = 1e-12
# Both count the same ties: measured 1.1e-16.
AUC_ATOL = 1e-15
# Samples lie anywhere in their bins, as wide as BIN_ANGLE times the sine of their angle. Measured
# 3.9e-5 of densities up to 4.4; with 2^14, 2^15, 2^18 and 2^20 bins 2.1e-4, 1.3e-4, 2.0e-5, 5.0e-6.
DENSITY_ATOL = 2e-4
NUM_BINS = 65536
BIN_ANGLE = np.pi / NUM_BINS
GRID = (4, 5)


class Neighbours(NamedTuple):
    """Cosines with the patch to the right and with the one below, and norms in both tensors."""

    right: np.ndarray
    below: np.ndarray
    last: np.ndarray
    normed: np.ndarray


def collected(images=60, seed=0, sharpness=1.0):
    """Neighbours where large norms go with high similarity, and ties exist."""
    generator = np.random.default_rng(seed)
    rows, cols = GRID
    base = 1 - 0.3 * generator.random((images, 1, 1))
    right = base - 0.4 * generator.random((images, rows, cols - 1)) ** 3
    below = base - 0.4 * generator.random((images, rows - 1, cols)) ** 3
    right[::7], below[::9, 0] = 1.0, 1.0
    right[2, 0, 0] = -0.25
    norms = np.exp(generator.normal(2, 0.3, (images, rows, cols)))
    norms[:, :, :-1] += sharpness * right**4 * generator.random(right.shape) * 20
    norms = norms.reshape(images, -1)
    return Neighbours(*(x.astype(np.float32) for x in (right, below, norms, norms[:, ::-1])))


@pytest.fixture
def summarised():
    neighbours = collected()
    pairs = Columns(pair_columns(*neighbours[:2]))
    bootstrap = Bootstrap(60, 300)
    tensors = ("last", "normed")
    labels = {name: labelled(getattr(neighbours, name), bootstrap) for name in tensors}
    found = measure_similarity(pairs, labels, GRID, bootstrap)
    return neighbours, {(each.tensor, each.by.definition): each for each in found}


def loop_samples(neighbours, is_outlier):
    """(cosine, label, image) of every patch and direction, by loops."""
    rows, cols = GRID
    found = []
    for image in range(len(is_outlier)):
        for r in range(rows):
            for c in range(cols):
                label = is_outlier[image, r * cols + c]
                if c > 0:
                    found.append((neighbours.right[image, r, c - 1], label, image))
                if c < cols - 1:
                    found.append((neighbours.right[image, r, c], label, image))
                if r > 0:
                    found.append((neighbours.below[image, r - 1, c], label, image))
                if r < rows - 1:
                    found.append((neighbours.below[image, r, c], label, image))
    cosines, labels, images = (np.array(column) for column in zip(*found, strict=True))
    return cosines.astype(np.float64), labels, images


def test_cosines_are_torchs(traced):
    _, _, trace, layout = traced
    found = neighbour_cosines(some_images(), Preprocess(32, 24)).reduce(trace, layout)
    rows, cols = layout.grid
    assert (rows, cols) == (8, 6)
    patches = torch.from_numpy(np.array(trace.patch_embed, np.float64)).reshape(6, rows, cols, -1)
    cosine = torch.nn.CosineSimilarity(dim=-1)
    right = cosine(patches[:, :, 1:], patches[:, :, :-1])
    below = cosine(patches[:, 1:], patches[:, :-1])
    np.testing.assert_allclose(found[0], right, rtol=0, atol=COSINE_ATOL)
    np.testing.assert_allclose(found[1], below, rtol=0, atol=COSINE_ATOL)


def test_each_pair_counts_once_from_either_side():
    neighbours = collected(images=3)
    is_outlier = np.random.default_rng(1).random((3, 20)) < 0.3
    pairs, ends = flat_pairs(*neighbours[:2]), outlier_ends(is_outlier.reshape(3, *GRID))
    expected_cosines, expected_labels, images = loop_samples(neighbours, is_outlier)
    for image in range(3):
        found = [(c, True) for c in np.repeat(pairs[image], ends[image]).tolist()]
        found += [(c, False) for c in np.repeat(pairs[image], 2 - ends[image]).tolist()]
        chosen = images == image
        expected = zip(
            expected_cosines[chosen].tolist(), expected_labels[chosen].tolist(), strict=True
        )
        assert sorted(found) == sorted(expected)


def test_numbers_are_scikit_learns_and_numpys(summarised):
    neighbours, summary = summarised
    for tensor, norms in (("last", neighbours.last), ("normed", neighbours.normed)):
        for definition in ("quantile_98", "quantile_99_5", "mean_plus_3sd"):
            found = summary[tensor, definition]
            is_outlier = norms > found.by.cut
            assert (found.by.num_normal, found.by.num_outliers) == (
                (~is_outlier).sum(),
                is_outlier.sum(),
            )
            cosines, labels, _ = loop_samples(neighbours, is_outlier)
            assert found.num_samples == ((~labels).sum(), labels.sum())
            numbers = found.numbers
            # Within a bin the order of samples is lost: equal to the AUC of the numbers of their
            # bins, which is off by at most half of the pairs that only binning makes ties.
            bins = bin_numbers(cosines)
            binned = roc_auc_score(labels, bins)
            assert numbers["auc"].value == pytest.approx(binned, abs=AUC_ATOL)
            bound = (share_of_ties(labels, bins) - share_of_ties(labels, cosines)) / 2
            assert binned == pytest.approx(roc_auc_score(labels, cosines), abs=bound + AUC_ATOL)
            assert bound < 1e-4
            for group, chosen in (("normal", ~labels), ("outlier", labels)):
                mean, median = cosines[chosen].mean(), np.median(cosines[chosen])
                assert numbers[f"mean_{group}"].value == pytest.approx(mean, abs=MEAN_ATOL)
                # The width of the bin there; where the cosine is 1, that of the last bin.
                width = BIN_ANGLE * max(np.sqrt(1 - median**2), BIN_ANGLE)
                assert numbers[f"median_{group}"].value == pytest.approx(median, abs=width)


def bin_numbers(cosines):
    """The bin of each cosine, among bins of equal angle."""
    return np.floor((np.pi - np.arccos(cosines)) / BIN_ANGLE).clip(0, NUM_BINS - 1)


def share_of_ties(labels, values):
    """Share of the pairs of an outlier's and a normal sample that have equal values."""
    return (values[labels][:, None] == values[~labels][None]).mean()


def test_densities_are_scipys(summarised):
    neighbours, summary = summarised
    found = summary["last", "quantile_98"]
    cosines, labels, _ = loop_samples(neighbours, neighbours.last > found.by.cut)
    for values, chosen in zip(found.density, (~labels, labels), strict=True):
        expected = gaussian_kde(cosines[chosen])(DENSITY_AT)
        assert expected.max() > 2
        np.testing.assert_allclose(values, expected, rtol=0, atol=DENSITY_ATOL)


def test_the_interval_of_the_auc_is_that_of_resampling_by_hand(summarised):
    neighbours, summary = summarised
    found = summary["last", "mean_plus_3sd"]
    cosines, labels, images = loop_samples(neighbours, neighbours.last > found.by.cut)
    by_image = [np.flatnonzero(images == image) for image in range(60)]
    generator = np.random.default_rng(4)
    drawn = []
    for _ in range(300):
        rows = np.concatenate([by_image[i] for i in generator.integers(60, size=60)])
        drawn.append(roc_auc_score(labels[rows], cosines[rows]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    estimate = Bootstrap(60, 300).estimate(*found.numbers["auc"])
    # Two independent sets of 300 resamples: 4 x sqrt(2) x 2.67 / sqrt(300) standard errors.
    atol = 4 * 2**0.5 * 2.67 / 300**0.5 * np.std(drawn)
    assert estimate.low == pytest.approx(low, abs=atol)
    assert estimate.high == pytest.approx(high, abs=atol)


def test_medians_of_resamples_are_those_of_their_samples(summarised):
    neighbours, summary = summarised
    found = summary["last", "quantile_98"].numbers["median_normal"]
    # The 128 coarse bins hold a 128th of the samples each: that of the median is as wide as the
    # samples' quantiles half a 128th to either side, or the next ones, are apart.
    cosines, labels, _ = loop_samples(
        neighbours, neighbours.last > summary["last", "quantile_98"].by.cut
    )
    low, high = np.quantile(cosines[~labels], [0.5 - 1 / 128, 0.5 + 1 / 128])
    spread = np.std(found.samples) * 1.25 * 4 / 300**0.5  # four standard errors of a median
    assert np.median(found.samples) == pytest.approx(found.value, abs=high - low + spread)
    estimate = Bootstrap(60, 300).estimate(*found)
    assert estimate.low < found.value < estimate.high


def test_an_empty_outlier_set_is_said_to_be_empty(summarised):
    _, summary = summarised
    found = summary["last", "absolute_150"]
    assert (found.by.num_normal, found.by.num_outliers) == (60 * 20, 0)
    assert found.num_samples[1] == 0
    assert set(found.numbers) == {"mean_normal", "median_normal"}
    assert not found.density[1].any()
    assert all(np.isfinite(number.value) for number in found.numbers.values())


def test_separate_groups_have_an_auc_of_one_and_equal_ones_of_a_half():
    low, high = np.eye(4)[:2] + 1, np.eye(4)[2:] + 1
    counts = np.array([3.0, 2.0, 0.0, 1.0])
    assert auc(np.array([1.0, 2, 0, 0]), np.array([0.0, 0, 3, 1])) == 1
    assert auc(counts, counts) == 0.5
    assert np.isnan(auc(counts, 0 * counts))
    np.testing.assert_array_equal(auc(low, high), [auc(low[0], high[0]), auc(low[1], high[1])])


def test_a_median_between_two_samples_is_their_middle():
    edges = np.array([0.0, 1, 2, 3, 5, 6])
    assert _median(np.array([0.0, 4, 0, 0, 4]), edges) == 3.5  # between the edges 2 and 5
    assert _median(np.array([0.0, 4, 4, 0, 0]), edges) == 2
    assert _median(np.array([0.0, 1, 0, 6, 0]), edges) == 3 + 2 * 2.5 / 6
    assert np.isnan(_median(np.zeros(5), edges))


def test_a_model_does_not_differ_from_itself(summarised):
    _, summary = summarised
    number = summary["last", "quantile_98"].numbers["auc"]
    difference = Bootstrap(60, 300).difference(number, number)
    assert difference == (0.0, 60, 0.0, 0.0)


def test_a_number_that_few_resamples_define_has_no_interval():
    samples = np.concatenate([np.full(40, np.nan), np.ones(60)])
    assert Bootstrap(10, 100).estimate(1.0, samples).low is None
    samples[:37] = 1.0
    assert Bootstrap(10, 100).estimate(1.0, samples).low == 1.0
