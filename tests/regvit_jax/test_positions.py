"""Are position embeddings resampled as PyTorch resamples them?"""

import jax.numpy as jnp
import numpy as np
import pytest

from regvit_jax.positions import resample_pos_embed

BOUND = 1e-5  # for embeddings of deviation 1; measured 9e-6, torch's own rounding of coordinates


@pytest.mark.parametrize("rule", ["antialias", "plain", "offset"])
@pytest.mark.parametrize("target", [(16, 16), (14, 20), (20, 31), (60, 45), (7, 40)])
def test_resampling_equals_torch(target, rule):
    import torch
    import torch.nn.functional as F

    grid = (37, 37)
    pos_embed = np.random.default_rng(0).standard_normal((1, 37 * 37, 8), np.float32)
    image = torch.from_numpy(pos_embed).reshape(1, *grid, 8).permute(0, 3, 1, 2)
    if rule == "offset":
        factors = tuple((want + 0.1) / 37 for want in target)
        expected = F.interpolate(image, scale_factor=factors, mode="bicubic")
    else:
        expected = F.interpolate(image, target, mode="bicubic", antialias=rule == "antialias")
    expected = expected.permute(0, 2, 3, 1).reshape(1, -1, 8).numpy()
    got = resample_pos_embed(jnp.asarray(pos_embed), grid, target, rule)
    np.testing.assert_allclose(got, expected, rtol=0, atol=BOUND)


def test_the_same_grid_is_left_untouched():
    pos_embed = jnp.ones((1, 6, 4))
    assert resample_pos_embed(pos_embed, (2, 3), (2, 3), "offset") is pos_embed


def test_a_constant_stays_constant():
    resampled = resample_pos_embed(jnp.full((1, 6, 4), 0.7), (2, 3), (5, 4), "plain")
    np.testing.assert_allclose(resampled, 0.7, rtol=0, atol=1e-6)
