"""Are the probes least squares, softmax regression and an MLP that learns?"""

import jax
import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression

from regvit_jax.analysis.engine.columns import Columns
from regvit_jax.analysis.questions.reconstruction.equations import NormalEquations
from regvit_jax.analysis.questions.reconstruction.learning import Budget, fit_mlp, fit_position
from regvit_jax.analysis.questions.reconstruction.probe_files import load_probe, save_probe
from regvit_jax.analysis.questions.reconstruction.probes import (
    apply_dense,
    apply_mlp,
    normalised_patches,
    start_mlp,
    token_l2,
)
from regvit_jax.analysis.questions.reconstruction.tokens import (
    TrainingTokens,
    drawn_tokens,
    layer_patches,
)
from regvit_jax.errors import InputError
from regvit_jax.patches import patchify, unpatchify
from regvit_jax.preprocess import Preprocess

torch = pytest.importorskip("torch", reason="the extra torch is not installed")

PREPROCESS = Preprocess.square(8)
# Coefficients up to 0.11, rounded to float32, with a ridge of 1e-8: measured 9.7e-9.
LEAST_SQUARES_ATOL = 5e-8
# Predictions up to 5.2 from features about 40, in float32: measured 1.9e-6.
PREDICTED_ATOL = 1e-5
# Moments in float64: measured 5.3e-15 of 3.9 (standard deviations), 0 of 40 (means).
MOMENT_ATOL = 3e-14
# A sum of 5,400 squared errors, about a minimum, so that errors count by their squares, and of
# predictions in float32: measured 2.0e-8 of it.
RESIDUAL_RTOL = 1e-7
# Two dense layers in float32: measured 1.8e-7 of outputs up to 1.3.
MLP_ATOL = 1e-6
# Norms up to 10 in float32, in two orders: measured 9.5e-7, one unit in the last place.
NORM_ATOL = 5e-6
# The mean of norms up to 1.2 in float32: measured 1.2e-7.
SCORE_ATOL = 5e-7


def test_features_are_the_patches_before_the_last_layer_norm(traced):
    config, _, trace, layout = traced
    found = layer_patches(config.depth - 1)(trace, layout)
    last = np.asarray(trace.blocks[-1].tokens)[:, 1 + config.num_registers :]
    np.testing.assert_array_equal(found, last)
    middle = layer_patches(1)(trace, layout)
    expected = np.asarray(trace.blocks[1].tokens)[:, layout.patches]
    np.testing.assert_array_equal(middle, expected)


def test_targets_are_the_pixels_of_the_tokens_own_patch():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 12, 3)).astype(np.uint8)
    patches = patchify(pixels, 4)
    for row in range(2):
        for col in range(3):
            own = pixels[:, 4 * row : 4 * row + 4, 4 * col : 4 * col + 4]
            np.testing.assert_array_equal(patches[:, row * 3 + col], own.reshape(2, -1))
    targets = normalised_patches(patches, PREPROCESS)
    whole = PREPROCESS.normalise(pixels)
    np.testing.assert_array_equal(targets, patchify(whole, 4))
    np.testing.assert_array_equal(unpatchify(targets, 4, (2, 3)), whole)


def test_the_linear_probe_is_least_squares():
    generator = np.random.default_rng(1)
    mixing = generator.normal(size=(12, 12))
    x = (generator.normal(size=(900, 12)) @ mixing + 40).astype(np.float32)
    x[:, 5] = 7.0  # a feature that never changes
    y = (generator.normal(size=(900, 6)) + x[:, :6] * 0.1).astype(np.float32)
    equations = NormalEquations({})
    for part in np.array_split(np.arange(900), 7):
        equations = NormalEquations(equations.plus(x[part], y[part]).arrays)
    found = equations.solve()
    expected = LinearRegression().fit(x.astype(np.float64), y.astype(np.float64))
    coefficients = expected.coef_.copy()
    coefficients[:, 5] = 0
    np.testing.assert_allclose(found["kernel"].T, coefficients, rtol=0, atol=LEAST_SQUARES_ATOL)
    predicted = np.asarray(apply_dense(found, x))
    np.testing.assert_allclose(predicted, expected.predict(x), rtol=0, atol=PREDICTED_ATOL)
    mean = x.mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(equations.feature_mean, mean, rtol=0, atol=MOMENT_ATOL)
    sd = x.std(axis=0, dtype=np.float64)
    sd[5] = 1
    np.testing.assert_allclose(equations.feature_sd, sd, rtol=0, atol=MOMENT_ATOL)
    augmented = np.concatenate([x, np.ones((900, 1))], axis=1).astype(np.float64)
    solved = np.linalg.lstsq(augmented, y.astype(np.float64))[0]
    residual = np.square(augmented @ solved - y).sum()
    assert np.square(predicted - y).sum() == pytest.approx(residual, rel=RESIDUAL_RTOL)


def test_the_mlp_is_timms(tmp_path):
    probe = start_mlp(6, 24, 10, seed=3)
    x = np.random.default_rng(2).normal(0, 2, (4, 7, 6)).astype(np.float32)
    linear = torch.nn.Linear(6, 24), torch.nn.Linear(24, 10)
    network = torch.nn.Sequential(linear[0], torch.nn.GELU(), linear[1])
    with torch.no_grad():
        for layer, name in zip(linear, ("fc1", "fc2"), strict=True):
            layer.weight.copy_(torch.from_numpy(probe[name]["kernel"].T.copy()))
            layer.bias.copy_(torch.from_numpy(probe[name]["bias"]))
        expected = network(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(apply_mlp(probe, x), expected, rtol=0, atol=MLP_ATOL)
    save_probe(tmp_path / "probe.npz", probe, {"epoch": 3})
    loaded, info = load_probe(tmp_path / "probe.npz")
    assert info == {"epoch": 3}
    jax.tree.map(np.testing.assert_array_equal, loaded, probe)


def test_the_error_of_a_token_is_over_its_pixels():
    generator = np.random.default_rng(3)
    first, second = generator.normal(size=(2, 3, 4, 12)).astype(np.float32)
    expected = torch.linalg.vector_norm(torch.from_numpy(first - second), dim=2)
    np.testing.assert_allclose(token_l2(first, second), expected, rtol=0, atol=NORM_ATOL)


def scene(num_images=60, grid=(2, 3), dim=10, seed=0):
    """Tokens that know the colour of their patch exactly, and their place to some degree."""
    generator = np.random.default_rng(seed)
    num = grid[0] * grid[1]
    patches = generator.integers(0, 256, (num_images, num, 1, 3)).astype(np.uint8)
    patches = np.broadcast_to(patches, (num_images, num, 4, 3)).reshape(num_images, num, 12)
    fixed = np.random.default_rng(99)
    places, mixing = fixed.normal(size=(num, dim)), fixed.normal(size=(3, dim))
    values = np.asarray(normalised_patches(patches, PREPROCESS))[..., :3]
    tokens = values @ mixing + 1.5 * places[None] + 5
    tokens += generator.normal(0, 0.5, tokens.shape)
    return tokens.astype(np.float32), np.ascontiguousarray(patches)


@pytest.fixture
def learned():
    tokens, patches = scene()
    targets = np.asarray(normalised_patches(patches, PREPROCESS))
    equations = NormalEquations({}).plus(tokens.reshape(-1, 10), targets.reshape(-1, 12))
    parts = (slice(0, 31), slice(31, 60))
    rows = [drawn_tokens(tokens[p], patches[p], np.arange(60)[p], 4, seed=1) for p in parts]
    columns = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    return tokens, patches, equations, TrainingTokens(Columns(columns), seed=1)


def test_tokens_are_kept_with_their_own_pixels_and_cells(learned):
    tokens, patches, _, cache = learned
    images = np.array([2, 40])
    cells = cache.rows("cells", images)
    assert all(len(set(row)) == 4 for row in cells.tolist())
    for i, image in enumerate(images):
        np.testing.assert_array_equal(cache.rows("tokens", images)[i], tokens[image, cells[i]])
        np.testing.assert_array_equal(cache.rows("pixels", images)[i], patches[image, cells[i]])
    train, held = cache.split()
    assert len(held) == 6
    assert sorted([*train, *held]) == list(range(60))


def test_the_mlp_learns_and_reads_tokens_as_they_are(learned):
    tokens, patches, equations, cache = learned
    targets = np.asarray(normalised_patches(patches, PREPROCESS))
    probe, fitted = fit_mlp(cache, equations, PREPROCESS, Budget(200, 5, 0))
    assert fitted.scores[fitted.best_epoch] == min(fitted.scores)
    _, held = cache.split()
    cells = cache.rows("cells", held)
    predicted = np.take_along_axis(np.asarray(apply_mlp(probe, tokens[held])), cells[..., None], 1)
    wanted = np.take_along_axis(targets[held], cells[..., None], 1)
    by_hand = np.linalg.norm(predicted - wanted, axis=-1).mean()
    assert by_hand == pytest.approx(min(fitted.scores), abs=SCORE_ATOL)
    assert by_hand < 0.6 * np.linalg.norm(targets - targets.mean((0, 1)), axis=-1).mean()


def test_the_position_probe_is_nearly_scikit_learns(learned):
    tokens, _, equations, cache = learned
    probe, _ = fit_position(cache, equations, 6, Budget(400, 20, 0))
    test, _ = scene(num_images=200, seed=1)
    guessed = np.asarray(apply_dense(probe, test)).argmax(-1)
    accuracy = (guessed == np.arange(6)).mean()
    train, _ = cache.split()
    x = cache.rows("tokens", train).reshape(-1, 10)
    y = cache.rows("cells", train).ravel()
    expected = LogisticRegression(C=1e4, max_iter=2000).fit(x, y)
    reference = expected.score(test.reshape(-1, 10), np.tile(np.arange(6), len(test)))
    assert accuracy > 0.9
    # Measured 0; of 1,200 tokens, two standard errors of a share of 0.996 are 0.0036.
    assert accuracy == pytest.approx(reference, abs=0.004)


@pytest.mark.parametrize("case", ["absent", "text", "keys", "shapes", "type", "array", "cut"])
def test_a_file_that_is_no_probe_is_refused(case, tmp_path):
    path = tmp_path / "probe.npz"
    arrays = {f"{k}/{n}": v for k, layer in start_mlp(3, 4, 5, 0).items() for n, v in layer.items()}
    if case == "text":
        path.write_text("no probe")
    elif case == "array":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif case != "absent":
        if case == "keys":
            del arrays["fc2/bias"]
        elif case == "shapes":
            arrays["fc2/bias"] = np.zeros(4, np.float32)
        elif case == "type":
            arrays["fc2/bias"] = np.zeros(5)
        np.savez(path, allow_pickle=False, **arrays)
        if case == "cut":
            path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match="probe"):
        load_probe(path)
