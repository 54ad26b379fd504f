"""Are the losses those of DeiT?"""

import jax.numpy as jnp
import numpy as np
import pytest

from regvit_jax.train.losses import binary_cross_entropy, cross_entropy, targets_of


def test_binary_cross_entropy_of_zero_logits_is_ln_2():
    targets = targets_of(jnp.array([0, 6]), 7, 0.0)
    loss = binary_cross_entropy(jnp.zeros((2, 7)), targets)
    np.testing.assert_allclose(loss, np.log(2), rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", ["bce", "cross_entropy"])
def test_the_losses_equal_torch(name):
    import torch.nn.functional as F

    generator = np.random.default_rng(0)
    logits = (5 * generator.normal(size=(6, 9))).astype(np.float32)
    shares = generator.dirichlet(np.ones(3), 6)
    targets = np.zeros((6, 9), np.float32)
    targets[:, :3] = shares if name == "cross_entropy" else shares
    import torch

    theirs, t = torch.tensor(logits), torch.tensor(targets)
    if name == "bce":
        ours = binary_cross_entropy(jnp.asarray(logits), jnp.asarray(targets))
        t = t.gt(0.0).type(t.dtype)  # what DeiT does with the targets of mixed images
        want = F.binary_cross_entropy_with_logits(theirs, t, reduction="none").mean(1)
    else:
        ours = cross_entropy(jnp.asarray(logits), jnp.asarray(targets))
        want = F.cross_entropy(theirs, t, reduction="none")
    np.testing.assert_allclose(ours, want.numpy(), rtol=0, atol=2e-6)


def test_smoothed_labels_equal_torch():
    import torch
    import torch.nn.functional as F

    logits = np.random.default_rng(0).normal(size=(6, 10)).astype(np.float32)
    labels = np.arange(6, dtype=np.int32)
    targets = targets_of(jnp.asarray(labels), 10, 0.1)
    ours = cross_entropy(jnp.asarray(logits), targets)
    want = F.cross_entropy(
        torch.tensor(logits), torch.tensor(labels).long(), label_smoothing=0.1, reduction="none"
    )
    np.testing.assert_allclose(ours, want.numpy(), rtol=0, atol=1e-6)
