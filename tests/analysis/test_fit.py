"""Does the loop take torch's steps, stop in time and keep what was best?"""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from regvit_jax.analysis.statistics.fit import fit

torch = pytest.importorskip("torch", reason="the extra torch is not installed")

# Forty AdamW steps in float32: measured 4.5e-6 of weights up to 2.4; torch in float32 is itself
# 1.9e-6 from torch in float64.
STEP_ATOL = 2e-5


def batches_of(x, y, size=8):
    return lambda epoch: [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]


def squared_error(params, x, y):
    return jnp.mean(jnp.square(x @ params["kernel"] - y))


def test_steps_are_those_of_torchs_adamw():
    generator = np.random.default_rng(0)
    x, y, start = (generator.normal(size=s).astype(np.float32) for s in ((32, 5), (32, 3), (5, 3)))
    fitted = fit(
        squared_error,
        {"kernel": start},
        batches_of(x, y),
        lambda params: 0.0,
        optax.adamw(1e-2, weight_decay=0.01),
        *(10, 100),
        keep_best=False,
    )
    kernel = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimiser = torch.optim.AdamW([kernel], lr=1e-2, weight_decay=0.01)
    for _ in range(10):
        for i in range(0, 32, 8):
            optimiser.zero_grad()
            error = torch.from_numpy(x[i : i + 8]) @ kernel - torch.from_numpy(y[i : i + 8])
            error.square().mean().backward()
            optimiser.step()
    found = np.asarray(fitted.params["kernel"])
    assert np.abs(found - start).max() > 0.1
    np.testing.assert_allclose(found, kernel.detach().numpy(), rtol=0, atol=STEP_ATOL)


@pytest.mark.parametrize("keep_best", [True, False])
def test_it_stops_when_patience_is_over_and_returns_what_was_asked_for(keep_best):
    scores = iter([5.0, 3.0, 4.0, 3.5, 3.0, 2.0])
    seen = []

    def score(params):
        seen.append(float(params["kernel"][0, 0]))
        return next(scores)

    x = np.ones((4, 1), np.float32)
    start = {"kernel": np.zeros((1, 1), np.float32)}
    optimiser = optax.sgd(0.01)
    fitted = fit(squared_error, start, batches_of(x, x), score, optimiser, 50, 3, keep_best)
    assert fitted.scores == [5.0, 3.0, 4.0, 3.5, 3.0]
    assert fitted.best_epoch == 1
    assert fitted.stopped_early
    assert float(fitted.params["kernel"][0, 0]) == seen[1 if keep_best else 4]


def test_it_ends_after_the_last_epoch():
    scores = iter([3.0, 2.0, 1.0])
    x = np.ones((4, 1), np.float32)
    start = {"kernel": np.zeros((1, 1), np.float32)}
    fitted = fit(
        squared_error, start, batches_of(x, x), lambda p: next(scores), optax.sgd(0.1), 3, 1
    )
    assert (fitted.best_epoch, fitted.stopped_early, len(fitted.scores)) == (2, False, 3)


def test_small_gains_do_not_keep_it_going_but_the_best_is_kept():
    scores = iter([5.0, 4.0, 3.99, 3.98, 3.97, 1.0])
    x = np.ones((4, 1), np.float32)
    start = {"kernel": np.zeros((1, 1), np.float32)}
    fitted = fit(
        *(squared_error, start, batches_of(x, x), lambda p: next(scores), optax.sgd(0.1), 9, 3),
        min_gain=0.01,  # 3.97 is less than 1 % below 4
    )
    assert (fitted.best_epoch, fitted.stopped_early, len(fitted.scores)) == (4, True, 5)


class StopNow(Exception):
    """What ends a fit in the middle of an epoch."""


@pytest.mark.parametrize("keep_best", [True, False])
def test_a_stopped_fit_goes_on_bit_for_bit(keep_best, tmp_path, monkeypatch):
    monkeypatch.setattr("regvit_jax.analysis.statistics.fit.SECONDS_BETWEEN_SAVES", -1.0)
    generator = np.random.default_rng(3)
    x, y, start = (generator.normal(size=s).astype(np.float32) for s in ((32, 5), (32, 3), (5, 3)))
    learned, held = batches_of(x[:24], y[:24]), (x[24:], y[24:])

    def fitted(batches, saved=None):
        return fit(
            *(squared_error, {"kernel": start}, batches),
            lambda params: float(squared_error(params, *held)),
            *(optax.adamw(0.3, weight_decay=0.01), 12, 4, keep_best),
            saved=saved,
        )

    def stopping(epoch):
        for i, batch in enumerate(learned(epoch)):
            if (epoch, i) == (3, 1):
                raise StopNow
            yield batch

    def only_the_rest(epoch):
        assert epoch >= 3
        return learned(epoch)

    def nothing(epoch):
        raise AssertionError("It was finished.")

    expected, file = fitted(learned), tmp_path / "fit.npz"
    with pytest.raises(StopNow):
        fitted(stopping, file)
    for batches in (only_the_rest, nothing):
        found = fitted(batches, file)
        np.testing.assert_array_equal(found.params["kernel"], expected.params["kernel"])
        assert found[1:] == expected[1:]
    file.write_bytes(file.read_bytes()[:100])
    np.testing.assert_array_equal(fitted(learned, file).params["kernel"], expected.params["kernel"])
