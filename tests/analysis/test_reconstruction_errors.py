"""Are the errors those of loops, and is matching for variance fair?"""

import dataclasses

import numpy as np
import pytest

from regvit_jax.analysis.engine.columns import Columns
from regvit_jax.analysis.outliers.labels import labelled
from regvit_jax.analysis.questions.reconstruction import errors
from regvit_jax.analysis.questions.reconstruction.errors import (
    judge,
    pixel_probes,
    summarise_errors,
    token_errors,
)
from regvit_jax.analysis.questions.reconstruction.matching import (
    FLAT,
    MATCHED_BINS,
    WIDEST_BIN,
    matched_means,
    variance_bins,
)
from regvit_jax.analysis.questions.reconstruction.probes import (
    Probes,
    normalised_patches,
    start_mlp,
)
from regvit_jax.analysis.statistics.bootstrap import Bootstrap
from regvit_jax.patches import patchify
from regvit_jax.preprocess import Preprocess

PREPROCESS = dataclasses.replace(Preprocess.square(8), std=(0.2, 0.3, 0.25))
# Sums of 48 squares in float32, against float64: measured 6.2e-5 of values up to 1,070.
SQUARES_ATOL = 2e-4
# The same in colours: measured 5.1e-6 of values up to 67.
RGB_ATOL = 2e-5
# A root in float32: measured 3.3e-8.
DISTANCE_ATOL = 2e-7
# Sums of squares up to 5.2: measured 9.2e-7.
PATCH_ATOL = 5e-6
# Means of float32 numbers and roots: measured 7.1e-10 of values up to 1.6.
MEAN_ATOL = 5e-9
# Roots in float32, up to 0.72: measured 6.6e-10.
LOOP_ATOL = 5e-9
GRID = (2, 3)
PIXEL = ("linear", "mlp")


@pytest.fixture(scope="module")
def judged():
    """Probes of random weights, tokens, patches, and what `token_errors` says of them."""
    generator = np.random.default_rng(0)
    linear = {"kernel": generator.normal(size=(5, 48)), "bias": generator.normal(size=48)}
    position = {"kernel": generator.normal(size=(5, 6)), "bias": generator.normal(size=6)}
    linear, position = (
        {name: value.astype(np.float32) for name, value in p.items()} for p in (linear, position)
    )
    means = np.array([0.1, -0.2, 0.3], np.float32)
    probes = Probes(linear, start_mlp(5, 20, 48, 1), position, means)
    tokens = generator.normal(size=(7, 6, 5)).astype(np.float32)
    patches = patchify(generator.integers(0, 256, (7, 8, 12, 3)).astype(np.uint8), 4)
    found = token_errors(probes, PREPROCESS, GRID)(tokens, patches)
    return probes, tokens, patches, {name: np.asarray(value) for name, value in found.items()}


def test_errors_of_every_predictor_are_those_of_loops(judged):
    probes, tokens, patches, found = judged
    targets = np.asarray(normalised_patches(patches, PREPROCESS), np.float64)
    std = np.array(PREPROCESS.std)
    for image in range(7):
        for token in range(6):
            true = targets[image, token].reshape(16, 3)
            predicted = {
                "linear": (tokens[image, token] @ probes.linear["kernel"] + probes.linear["bias"]),
                "patch_mean": np.tile(true.mean(axis=0), 16),
                "global_mean": np.tile(probes.channel_means, 16),
            }
            for name, value in predicted.items():
                error = value.reshape(16, 3) - true
                normalised, rgb = found[f"{name}_normalised"], found[f"{name}_rgb"]
                assert normalised[image, token] == pytest.approx((error**2).sum(), abs=SQUARES_ATOL)
                assert rgb[image, token] == pytest.approx(((error * std) ** 2).sum(), abs=RGB_ATOL)
    colours = patches.reshape(7, 6, 16, 3) / 255
    shown = ((colours - colours.mean(axis=2, keepdims=True)) ** 2).sum(axis=(2, 3))
    np.testing.assert_allclose(found["patch_mean_rgb"], shown, rtol=0, atol=PATCH_ATOL)


def test_positions_are_told_by_the_largest_logit(judged):
    probes, tokens, _, found = judged
    for image in range(7):
        for token in range(6):
            logits = tokens[image, token] @ probes.position["kernel"] + probes.position["bias"]
            guess = int(logits.argmax())
            assert found["position_hit"][image, token] == (guess == token)
            away = np.hypot(guess // 3 - token // 3, guess % 3 - token % 3)
            distance = found["position_distance"][image, token]
            assert distance == pytest.approx(away, abs=DISTANCE_ATOL)


def stored(images=80, patches=20, seed=0, effect=1.0):
    """Columns where outliers sit on flat patches, and errors grow with variance only."""
    generator = np.random.default_rng(seed)
    variance = np.exp(generator.normal(0, 1, (images, patches)))
    last = np.exp(generator.normal(2, 0.2, (images, patches))) + 4 * np.exp(-4 * variance)
    is_large = last > np.quantile(last, 0.98)
    error = variance * np.exp(generator.normal(0, 0.1, variance.shape))
    error *= np.where(is_large, effect, 1.0)
    columns = {
        "linear_normalised": error,
        "linear_rgb": 0.05 * error,
        "patch_mean_normalised": variance,
        "patch_mean_rgb": 0.05 * variance,
        "global_mean_normalised": variance + 1,
        "global_mean_rgb": 0.05 * (variance + 1),
        "position_hit": generator.random(variance.shape) < 0.5,
        "position_distance": generator.random(variance.shape) * 3,
        "last": last,
    }
    return {name: np.asarray(value, np.float32) for name, value in columns.items()}


def summarised(columns, num_values=12):
    last = columns["last"]
    bootstrap = Bootstrap(len(last), 200)
    return summarise_errors(
        Columns(columns), labelled(last, bootstrap), ("linear",), num_values, bootstrap
    )


def test_numbers_are_pooled_over_the_tokens_of_each_group():
    columns = stored()
    groups = {group.by.definition: group for group in summarised(columns)}
    for definition in ("quantile_98", "mean_plus_3sd"):
        group = groups[definition]
        is_outlier = columns["last"] > group.by.cut
        counts = (group.by.num_normal, group.by.num_outliers)
        assert counts == ((~is_outlier).sum(), is_outlier.sum())
        chosen = {"all": is_outlier | True, "normal": ~is_outlier, "outlier": is_outlier}
        for name, mask in chosen.items():
            error = columns["linear_normalised"][mask].astype(np.float64)
            baseline = columns["patch_mean_normalised"][mask].astype(np.float64)
            distance = columns["position_distance"][mask].astype(np.float64).mean()
            expected = {
                "linear/normalised/mse": error.mean() / 12,
                "linear/normalised/l2": np.sqrt(error).mean(),
                "linear/normalised/r2_patch_mean": 1 - error.sum() / baseline.sum(),
                "position/top1": columns["position_hit"][mask].mean(dtype=np.float64),
                "position/distance": distance,
            }
            for key, value in expected.items():
                assert group.numbers[f"{name}/{key}"].value == pytest.approx(value, abs=MEAN_ATOL)


@pytest.mark.parametrize("seed", [0, 1])
def test_matching_removes_what_variance_explains_and_keeps_what_it_does_not(seed):
    for effect in (1.0, 2.0):
        columns = stored(400, seed=seed, effect=effect)
        (group,) = (g for g in summarised(columns) if g.by.definition == "quantile_98")
        numbers = group.numbers
        # An error is the patch's variance times noise of 10 %: its mean is off by 0.1 times the
        # root of the sum of squared weights, over the sum of the 160 outliers' weights.
        is_outlier = columns["last"] > group.by.cut
        variance = columns["patch_mean_normalised"]
        weights = variance[is_outlier]
        atol = 4 * 0.1 * float(np.sqrt(np.square(weights).sum()) / weights.sum())
        # The plain contrast is that of the variances; flat patches are easy.
        uneven = float(weights.mean() / variance[~is_outlier].mean())
        assert 1 - uneven > 4 * atol
        raw = numbers["contrast/linear/normalised/mse_ratio"].value
        assert raw / effect == pytest.approx(uneven, rel=atol)
        # The matched one has only what bins, no wider than 1.25, leave of it: measured 1.008 and
        # 1.023, at most 1.029 with six seeds.
        left = numbers["matched/variance/ratio"].value
        assert left == pytest.approx(1, abs=0.07)
        matched = numbers["matched/linear/normalised/mse/ratio"]
        assert matched.value / effect == pytest.approx(left, rel=atol)
        estimate = Bootstrap(400, 200).estimate(*matched)
        assert estimate.low < matched.value < estimate.high
        assert group.matching.num_outliers + group.matching.num_left_out == 160


def test_matching_is_that_of_loops_over_the_bins():
    columns = stored()
    (group,) = (g for g in summarised(columns) if g.by.definition == "quantile_98")
    is_outlier = columns["last"] > group.by.cut
    bins = variance_bins(columns["patch_mean_normalised"], is_outlier)
    error = np.sqrt(columns["linear_normalised"].astype(np.float64))
    totals, count = np.zeros(2), 0
    for number in range(bins.max() + 1):
        high, low = (chosen & (bins == number) for chosen in (is_outlier, ~is_outlier))
        if high.any() and low.any():
            totals += error[high].sum(), high.sum() * error[low].mean()
            count += high.sum()
    name = "matched/linear/normalised/l2"
    found = [group.numbers[f"{name}/{kind}"].value for kind in ("outlier", "normal")]
    assert found == pytest.approx(totals / count, abs=LOOP_ATOL)
    assert group.matching.num_outliers == count


def test_an_empty_outlier_set_leaves_no_nan():
    groups = {group.by.definition: group for group in summarised(stored())}
    empty = groups["absolute_150"]
    assert empty.by.num_outliers == 0
    assert empty.matching is None
    assert not [name for name in empty.numbers if name.startswith(("outlier", "contrast"))]
    assert all(np.isfinite(number.value) for number in empty.numbers.values())
    everything = stored()
    everything["last"] += 200
    full = {g.by.definition: g for g in summarised(everything)}["absolute_150"]
    assert full.by.num_normal == 0
    assert not [name for name in full.numbers if name.startswith("normal")]


def test_bins_hold_equal_numbers_of_outliers_and_similar_variances():
    generator = np.random.default_rng(1)
    variance = (1 + 0.2 * generator.random((50, 40))).astype(np.float32)  # no bin is too wide
    is_outlier = generator.random((50, 40)) < 0.1
    bins = variance_bins(variance, is_outlier)
    counts = np.bincount(bins[is_outlier])
    assert counts.sum() == is_outlier.sum()
    assert counts.max() - counts.min() <= 1
    outside = (variance < variance[is_outlier].min()) | (variance > variance[is_outlier].max())
    np.testing.assert_array_equal(bins == -1, outside)
    wide = np.exp(generator.normal(0, 4, (50, 40))).astype(np.float32)
    bins = variance_bins(wide, is_outlier)
    least = FLAT * wide[is_outlier].max()
    for number in np.unique(bins[bins >= 0]):
        inside = wide[bins == number]
        assert inside.max() <= max(WIDEST_BIN * inside.min(), least) * (1 + 1e-6)
    assert bins.max() < MATCHED_BINS + np.log(1 / FLAT) / np.log(WIDEST_BIN) + 2 + MATCHED_BINS
    flat = variance_bins(np.zeros((3, 4), np.float32), np.eye(3, 4, dtype=bool))
    assert not flat.any()


def test_matched_means_weigh_bins_by_their_outliers():
    # Bin 0: 10 normal of mean 2, 3 outliers of mean 4. Bin 1: 1 normal of 8, 1 outlier of 6.
    # Bin 2 has no normal patch and is left out.
    sums = np.array([[[10.0, 20], [3, 12]], [[1, 8], [1, 6]], [[0, 0], [5, 500]]])
    expected = [(12 + 6) / 4, (3 * 2 + 8) / 4, 18 / 14, 1.0]
    np.testing.assert_allclose(matched_means(sums), expected, rtol=0, atol=1e-12)
    assert np.isnan(matched_means(0 * sums)).all()


def test_errors_are_computed_block_by_block_and_taken_up_after_a_stop(
    judged, tmp_path, monkeypatch
):
    probes, tokens, patches, expected = judged
    assert pixel_probes(probes) == PIXEL
    assert pixel_probes(probes._replace(mlp=None)) == ("linear",)
    monkeypatch.setattr(errors, "BLOCK_IMAGES", 3)
    columns = Columns({"tokens": tokens, "pixels": patches})
    calls = []

    def stopping():
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(errors, "check", stopping)
    with pytest.raises(KeyboardInterrupt):
        judge(probes, PREPROCESS, GRID, columns, tmp_path / "errors")
    for _ in range(2):  # goes on, and is done
        found = judge(probes, PREPROCESS, GRID, columns, tmp_path / "errors")
        assert found.num_rows == 7
        for name, values in expected.items():
            np.testing.assert_allclose(found.read(name), values, rtol=0, atol=SQUARES_ATOL)
    assert len(calls) == 4
