"""Are images and targets mixed as timm does, wherever the batch is cut?"""

# ruff: noqa: NPY002 (timm draws from NumPy's global generator)

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from regvit_jax.train.batches import pair_order
from regvit_jax.train.mixing import (
    Mix,
    draw_mixes,
    make_mix,
    mix_images,
    mix_targets,
    swap_partners,
    symmetric_beta,
)
from regvit_jax.train.recipe import DataConfig

SIZE, CLASSES, BATCH = 32, 5, 8
# One float32 rounding of pixels near 3: measured 2.4e-7.
PIXELS_ATOL = 1e-6
draw = jax.jit(draw_mixes, static_argnums=(2, 3))
BOTH = DataConfig(batch_size=BATCH, mixup_alpha=0.8, cutmix_alpha=1.0)


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(0), (BATCH, SIZE, SIZE, 3))


@pytest.fixture(scope="module")
def labels():
    return np.random.default_rng(1).integers(0, CLASSES, BATCH)


def timm_draws(seed):
    """What timm draws first from NumPy's generator: kind, share, centre of the box."""
    np.random.seed(seed)
    np.random.rand()  # whether to mix at all
    is_cutmix = np.random.rand() < 0.5
    share = np.random.beta(1.0, 1.0) if is_cutmix else np.random.beta(0.8, 0.8)
    y, x = (np.random.randint(0, SIZE) for _ in range(2)) if is_cutmix else (0, 0)
    return is_cutmix, share, (x, y)


@pytest.mark.parametrize("seed", range(12))
def test_mixing_equals_timm_with_the_same_draws(timm, images, labels, seed):
    import torch
    from timm.data import Mixup

    is_cutmix, share, centre = timm_draws(seed)
    np.random.seed(seed)
    mixup = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.0, num_classes=CLASSES)
    mixed, targets = mixup(
        torch.tensor(np.array(images).transpose(0, 3, 1, 2)), torch.tensor(labels)
    )

    order = pair_order(BATCH, BATCH)
    mix = make_mix(
        jnp.full(BATCH, is_cutmix),
        jnp.full(BATCH, share),
        jnp.tile(jnp.array(centre), (BATCH, 1)),
        SIZE,
    )
    ours = np.asarray(mix_images(images[order], mix))
    want = mixed.numpy().transpose(0, 2, 3, 1)[order]
    np.testing.assert_allclose(ours, want, rtol=0, atol=PIXELS_ATOL)
    one_hot = jax.nn.one_hot(labels[order], CLASSES)
    ours = mix_targets(one_hot, mix)
    np.testing.assert_allclose(ours, targets.numpy()[order], rtol=0, atol=PIXELS_ATOL)


def test_the_twelve_draws_have_both_kinds():
    kinds = [timm_draws(seed)[0] for seed in range(12)]
    assert 3 <= sum(kinds) <= 9


def test_a_box_that_the_edge_clips_takes_its_true_share_of_the_label():
    mix = make_mix(jnp.array([True]), jnp.array([0.75]), jnp.array([[0, 30]]), SIZE)
    np.testing.assert_array_equal(mix.box, [[0, 22, 8, 32]])  # of 16 x 16 px
    np.testing.assert_allclose(mix.keep, [1 - 80 / 1024], rtol=0, atol=1e-7)


def test_half_the_groups_are_pasted():
    mixes = draw(jax.random.key(0), jnp.arange(4000), SIZE, BOTH)
    assert abs((np.asarray(mixes.opacity) == 1.0).mean() - 0.5) < 0.04  # five standard deviations


@pytest.mark.parametrize("alpha", [0.5, 0.8, 1.0, 3.0])
def test_shares_are_drawn_from_beta(alpha):
    first, second = jax.random.uniform(jax.random.key(1), (2, 20_000))
    drawn = jax.jit(symmetric_beta)(jnp.full(20_000, alpha), first, second)
    assert scipy.stats.kstest(np.asarray(drawn), scipy.stats.beta(alpha, alpha).cdf).pvalue > 1e-3


@pytest.mark.parametrize("alpha", ["mixup_alpha", "cutmix_alpha"])
def test_one_kind_alone_is_drawn_always(alpha):
    data = DataConfig(batch_size=BATCH, **{alpha: 1.0})
    mixes = draw(jax.random.key(0), jnp.arange(50), SIZE, data)
    assert (np.asarray(mixes.opacity) == 1.0).all() == (alpha == "cutmix_alpha")
    assert (np.asarray(mixes.box) == 0).all() == (alpha == "mixup_alpha")


def test_a_group_shares_one_draw_that_no_other_group_or_step_has():
    groups = jnp.array([0, 0, 1, 1])
    first, second = (draw(jax.random.key(i), groups, SIZE, BOTH) for i in range(2))
    keep = np.concatenate([first.keep, second.keep])
    np.testing.assert_array_equal(keep[::2], keep[1::2])
    assert len(set(keep.tolist())) == 4


def test_pairs_may_be_mixed_apart_from_the_rest_of_the_batch(images):
    """Devices and chunks hold neighbouring pairs."""
    mix = draw(jax.random.key(3), jnp.arange(BATCH) // 4, SIZE, BOTH)
    whole = mix_images(images, mix)
    for start in range(0, BATCH, 2):
        part = slice(start, start + 2)
        np.testing.assert_array_equal(
            mix_images(images[part], Mix(*(field[part] for field in mix))), whole[part]
        )


def test_partners_are_each_others():
    np.testing.assert_array_equal(swap_partners(jnp.arange(6)), [1, 0, 3, 2, 5, 4])
