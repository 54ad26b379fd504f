"""Do the parameters move as timm's LAMB moves them, at the rates of the study's logs?"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from regvit_jax.config import VARIANTS
from regvit_jax.model import DeiT3
from regvit_jax.train.optim import is_decayed, make_optimizer, make_schedule, rate_at
from regvit_jax.train.recipe import OptimConfig

# Reference: the learning rates that the study's training logs print.
GOLDEN_RATES = {
    0: 1e-6,
    1: 8.008e-4,
    4: 3.2002e-3,
    5: 3.99961544e-3,
    49: 3.96317995e-3,
    99: 3.85112352e-3,
    199: 3.42120686e-3,
    200: 3.41567803e-3,
    298: 2.78290574e-3,
    398: 2.02066853e-3,
    400: 2.005e-3,
    598: 6.05444806e-4,
    798: 1.00615305e-5,
}
# The rates are float32: one rounding of 4e-3, and the cosine's near the end.
RATE_ATOL = 1e-9


@pytest.mark.parametrize(("epoch", "rate"), GOLDEN_RATES.items())
def test_the_learning_rate_of_an_epoch_is_the_logged_one(epoch, rate):
    np.testing.assert_allclose(rate_at(OptimConfig(), 800.0, epoch), rate, rtol=0, atol=RATE_ATOL)


def test_the_rate_is_constant_within_an_epoch_or_moves_in_every_step():
    by_epoch = make_schedule(OptimConfig(), 800.0, steps_per_epoch=10)
    by_step = make_schedule(OptimConfig(rate_changes="step"), 800.0, steps_per_epoch=10)
    assert float(by_epoch(490)) == float(by_epoch(499)) > float(by_epoch(500))
    assert float(by_step(490)) == float(by_epoch(490)) > float(by_step(491))


@pytest.mark.parametrize(("epoch", "rate"), GOLDEN_RATES.items())
def test_a_rate_that_comes_an_epoch_late_is_that_of_deits_loop(epoch, rate):
    """Its scheduler is stepped after each epoch: epoch e + 1 runs at s(e), epoch 0 at s(0) too."""
    late = make_schedule(OptimConfig(rate_changes="late_epoch"), 800.0, steps_per_epoch=1251)
    np.testing.assert_allclose(late((epoch + 1) * 1251 + 7), rate, rtol=0, atol=RATE_ATOL)
    np.testing.assert_allclose(late(7), 1e-6, rtol=0, atol=RATE_ATOL)


@pytest.mark.parametrize("num_registers", [0, 4])
def test_fifty_tensors_of_deit3_are_decayed(num_registers):
    config = VARIANTS["small"]
    model = DeiT3(type(config)(**{**vars(config), "num_registers": num_registers}))
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))["params"]
    decayed = jax.tree_util.tree_leaves_with_path(is_decayed(shapes))
    names = ["/".join(key.key for key in path) for path, chosen in decayed if chosen]
    assert len(names) == 50
    assert all(name.endswith("kernel") for name in names)


@pytest.fixture
def problem():
    """Start values like a model's and the gradients of three steps, some longer than the clip."""
    generator = np.random.default_rng(0)
    shapes = {"kernel": (7, 5), "pos_embed": (1, 4, 5), "bias": (5,), "zero": {"kernel": (3, 5)}}
    is_shape = lambda leaf: isinstance(leaf, tuple)  # noqa: E731
    draw = lambda scale: jax.tree.map(  # noqa: E731
        lambda shape: (scale * generator.normal(size=shape)).astype(np.float32),
        shapes,
        is_leaf=is_shape,
    )
    params = draw(0.3)
    params["zero"]["kernel"][:] = 0.0  # a norm of 0 means a ratio of 1
    return params, [draw(scale) for scale in (3.0, 0.01, 0.1)]


def run_ours(config, params, gradients):
    optimizer = make_optimizer(config, optax.constant_schedule(config.learning_rate))
    state = optimizer.init(params)
    for grads in gradients:
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_three_lamb_steps_equal_timm(timm, problem):
    import torch
    from timm.optim import Lamb

    params, gradients = problem
    config = OptimConfig(learning_rate=0.01, weight_decay=0.05)
    decayed = jax.tree.leaves(is_decayed(params))
    theirs = [torch.nn.Parameter(torch.tensor(leaf)) for leaf in jax.tree.leaves(params)]
    groups = [
        {"params": [p for p, d in zip(theirs, decayed, strict=True) if d], "weight_decay": 0.05},
        {"params": [p for p, d in zip(theirs, decayed, strict=True) if not d], "weight_decay": 0.0},
    ]
    lamb = Lamb(groups, lr=0.01, eps=1e-8)
    for grads in gradients:
        for parameter, grad in zip(theirs, jax.tree.leaves(grads), strict=True):
            parameter.grad = torch.tensor(grad)
        lamb.step()
    ours = jax.tree.leaves(run_ours(config, params, gradients))
    for got, want in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(got, want.detach().numpy(), rtol=0, atol=2e-7)


def test_lamb_moves_the_tensors_that_are_not_decayed_as_adam(problem):
    params, gradients = problem
    lamb = run_ours(OptimConfig(learning_rate=0.01), params, gradients)
    adam = run_ours(OptimConfig(optimizer="adamw", learning_rate=0.01), params, gradients)
    np.testing.assert_array_equal(lamb["bias"], adam["bias"])
    np.testing.assert_array_equal(lamb["pos_embed"], adam["pos_embed"])
    assert np.abs(lamb["kernel"] - adam["kernel"]).max() > 1e-3


def test_muon_moves_a_matrix_by_its_gradient_with_all_singular_values_made_alike(problem):
    """Against an SVD: five Newton-Schulz steps bring the singular values to between 0.7 and 1.2."""
    params, gradients = problem
    config = OptimConfig(optimizer="muon", learning_rate=0.01, weight_decay=0.0)
    moved = run_ours(config, params, gradients[:1])
    step = params["kernel"] - moved["kernel"]
    left, _, right = np.linalg.svd(gradients[0]["kernel"], full_matrices=False)
    inside = left.T @ step @ right.T  # diagonal where the step has the gradient's directions
    scale = 0.1 * max(1.0, step.shape[1] / step.shape[0]) ** 0.5
    singular = np.diag(inside) / scale
    assert 0.6 < singular.min() < singular.max() < 1.3
    np.testing.assert_allclose(inside / scale, np.diag(singular), rtol=0, atol=1e-3)


def test_three_adamw_steps_equal_torch(problem):
    import torch

    params, gradients = problem
    config = OptimConfig(optimizer="adamw", learning_rate=0.01, clip_norm=1e9)
    theirs = torch.nn.Parameter(torch.tensor(params["kernel"]))
    adamw = torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.05, eps=1e-8)
    for grads in gradients:
        theirs.grad = torch.tensor(grads["kernel"])
        adamw.step()
    ours = run_ours(config, params, gradients)["kernel"]
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=0, atol=1e-6)
