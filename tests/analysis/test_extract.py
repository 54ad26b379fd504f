"""Does the extraction loop give each image its own trace, once and in order, on all devices?"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from regvit_jax import DeiT3, ViTConfig
from regvit_jax.analysis.engine.extract import extract
from regvit_jax.batches import Batches
from regvit_jax.data import open_source
from regvit_jax.model import init_params
from regvit_jax.preprocess import Preprocess

CONFIG = ViTConfig(
    embed_dim=24, depth=2, num_heads=3, patch_size=8, image_size=32, num_registers=2, num_classes=5
)
PREPROCESS = Preprocess(height=16, width=32, resize="squash")


@pytest.fixture(scope="module")
def network():
    model = DeiT3(CONFIG)
    return model, init_params(model, jax.random.key(0))


@pytest.fixture
def source(tmp_path):
    generator = np.random.default_rng(0)
    for i in range(21):
        noise = generator.integers(0, 256, (16, 32, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{i:02}.png")
    return open_source(str(tmp_path))


@pytest.mark.parametrize("batch_size", [4, 10, 64])
def test_extraction_equals_one_image_at_a_time(network, source, batch_size):
    """On four virtual devices; 21 images do not divide by any batch size."""
    model, params = network

    def reduce(trace, layout):
        return {
            "norms": jnp.linalg.norm(trace.blocks[-1].tokens, axis=-1),
            "patches": trace.normed[:, layout.patches],
        }

    batches = Batches(source, PREPROCESS, batch_size)
    found = list(extract(model, params, batches, reduce, layers=1))
    indices = np.concatenate([batch.indices for batch, _ in found])
    np.testing.assert_array_equal(indices, np.arange(21))
    norms = np.concatenate([tree["norms"] for _, tree in found])
    patches = np.concatenate([tree["patches"] for _, tree in found])
    trace_one = jax.jit(lambda image: model.apply({"params": params}, image, method="trace"))
    for i in range(21):
        image = PREPROCESS.normalise(PREPROCESS.pixels(source[i].image)[None])
        trace = trace_one(image)
        expected = np.linalg.norm(np.asarray(trace.blocks[-1].tokens[0], np.float64), axis=-1)
        np.testing.assert_allclose(norms[i], expected, rtol=0, atol=1e-5)  # measured 1e-6
        np.testing.assert_allclose(patches[i], trace.normed[0, 3:], rtol=0, atol=1e-5)


def test_a_reader_that_stops_early_leaves_no_thread_behind(network, source):
    import threading

    model, params = network
    batches = Batches(source, PREPROCESS, batch_size=4)
    loop = extract(model, params, batches, lambda trace, _: trace.logits)
    next(loop)
    loop.close()
    names = [thread.name for thread in threading.enumerate() if thread.is_alive()]
    assert not [name for name in names if name.startswith(("stream", "decode"))]
