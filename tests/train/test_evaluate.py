"""Is every image counted once, and is the interval Wilson's?"""

import jax
import numpy as np
import pytest
from scipy.stats import binomtest

from regvit_jax.checkpoint import CheckpointInfo
from regvit_jax.digits import DigitsSource
from regvit_jax.errors import InputError
from regvit_jax.model import DeiT3, init_params
from regvit_jax.shares import Share, wilson
from regvit_jax.train.evaluate import check_classes, evaluate


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (10, 10), (1850, 2000), (3, 7)])
def test_the_interval_is_scipys_wilson(hits, n):
    share = wilson(hits, n)
    expected = binomtest(hits, n).proportion_ci(method="wilson")
    np.testing.assert_allclose(share[:3], (hits / n, *expected), rtol=0, atol=1e-12)


def test_a_share_reads_as_percent():
    assert str(Share(0.925, 0.91, 0.94, 2000)) == "92.50 % (91.00 to 94.00, n = 2000)"


def test_the_padding_of_the_last_batch_is_not_counted(recipe, preprocess):
    """70 images are one batch of 64 and a padded one; numpy counts them one by one."""
    source = DigitsSource.open("val", num_images=70)
    model = DeiT3(recipe.model)
    params = init_params(model, jax.random.key(3))
    accuracy = evaluate(model, params, source, preprocess)
    pixels = np.stack([preprocess.pixels(source[i].image) for i in range(70)])
    labels = np.array([source[i].label for i in range(70)])
    apply = jax.jit(lambda images: model.apply({"params": params}, images))
    order = np.argsort(-np.asarray(apply(preprocess.normalise(pixels))), axis=1)
    assert accuracy.top1 == wilson(int((order[:, 0] == labels).sum()), 70)
    assert accuracy.top5 == wilson(int((order[:, :5] == labels[:, None]).any(1).sum()), 70)


def test_other_classes_are_refused(recipe, change):
    source = DigitsSource.open("val", num_images=1)
    with pytest.raises(InputError, match="knows the classes cat, dog"):
        check_classes(CheckpointInfo(recipe.model, class_names=("cat", "dog")), source)
    with pytest.raises(InputError, match="has 7 classes"):
        check_classes(CheckpointInfo(change(recipe, num_classes=7).model), source)
    with pytest.raises(InputError, match="has no head"):
        check_classes(CheckpointInfo(change(recipe, num_classes=0).model), source)
