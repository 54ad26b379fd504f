"""Is the verdict on a model that of its layers, through the command and with controls?"""

import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from regvit_jax.analysis.cli import main
from regvit_jax.analysis.outliers.layers import judge_layers, of_model
from regvit_jax.analysis.outliers.planted import places, plant
from regvit_jax.analysis.outliers.verdict import Verdict
from regvit_jax.checkpoint import flatten, unflatten
from regvit_jax.model import DeiT3
from regvit_jax.preprocess import Preprocess
from tests.analysis.conftest import TINY, plant_outliers, random_params, save_checkpoint

GRID = (7, 8)


def stream(num_layers, found, times=5.0, num_images=400, seed=0):
    """Norms by layer; in some, the same 3 % of the patches are larger."""
    generator = np.random.default_rng(seed)
    layers = np.exp(generator.normal(2, 0.15, (num_layers, num_images, 56)))
    is_outlier = generator.random((num_images, 56)) < 0.03
    for layer in found:
        layers[layer][is_outlier] *= times + 0.5 * layer
    return layers, is_outlier


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ([3, 4, 5, 6], "Found from block 2 to block 5, strongest at 5; gone at the end."),
        ([6, 7], "Found from block 5 to block 6, strongest at 6."),
        ([2], "Found in block 1; gone at the end."),
        ([1, 3, 4], "Found in block 0, from block 2 to block 3, strongest at 3; gone at the end."),
    ],
)
def test_a_model_is_what_its_layers_are(found, says):
    layers, is_outlier = stream(8, found)
    verdict = judge_layers(layers, GRID, np.ones((400, 56)))
    assert verdict.answer == "found"
    assert verdict.reason.startswith(says)
    assert [i for i, layer in enumerate(verdict.layers) if layer.answer == "found"] == found
    np.testing.assert_array_equal(verdict.labels(layers[verdict.strongest]), is_outlier)


def test_what_enters_the_first_block_decides_nothing_and_must_be_outgrown():
    layers, _ = stream(4, [0, 1, 2, 3], times=6.0)
    verdict = judge_layers(layers, GRID, np.ones((400, 56)))
    assert verdict.layers[0].answer == "found"
    assert verdict.answer == "not found"
    assert verdict.strongest is None
    assert not verdict.labels(layers[0]).any()


def test_one_layer_that_cannot_tell_leaves_the_model_open():
    layers = [Verdict(answer, f"{answer}.", None) for answer in ("not found", "cannot tell")]
    assert of_model([*layers, layers[0]]).answer == "cannot tell"
    assert of_model([layers[1], layers[0], layers[0]]).answer == "not found"


def lose_outliers(config, params, block, planted_size):
    """Parameters whose MLP of a block takes the planted vector away where it stands out."""
    flat = {name: np.array(value) for name, value in flatten(params).items()}
    name = f"blocks_{block}"
    # A vector in channel 3 alone has, normalised, sqrt(d - 1) there.
    cut = 0.9 * (config.embed_dim - 1) ** 0.5
    scale, bias = (flat[f"{name}/norm2/{kind}"][3] for kind in ("scale", "bias"))
    for unit, shift, sign in ((0, 0.5, -1.0), (1, -0.5, 1.0)):
        column = np.zeros(config.embed_dim)
        column[3] = 400.0 / scale
        flat[f"{name}/mlp/fc1/kernel"][:, unit] = column
        flat[f"{name}/mlp/fc1/bias"][unit] = -400.0 * (cut + bias / scale) + shift
        vector = np.zeros(config.embed_dim)
        vector[3] = planted_size
        flat[f"{name}/mlp/fc2/kernel"][unit] = sign * vector / flat[f"{name}/ls2"]
    return unflatten({name: jnp.asarray(value) for name, value in flat.items()})


def test_weights_that_grow_outliers_and_lose_them_are_seen_in_these_blocks(
    tmp_path, pictures, monkeypatch
):
    config = dataclasses.replace(TINY, depth=4)
    files = sorted(pictures.rglob("*.png"))[:60]
    pixels = np.stack([Preprocess.square(32).pixels(Image.open(file)) for file in files])
    images = Preprocess.square(32).normalise(jnp.asarray(pixels))
    params = plant_outliers(config, random_params(config), images)
    planted = flatten(params)
    vector = np.asarray(planted["blocks_1/mlp/fc2/kernel"][0] * planted["blocks_1/ls2"])
    params = lose_outliers(config, params, 3, vector[3])
    folder = save_checkpoint(tmp_path / "model", config, params)
    given = ["--checkpoint", folder, "--data", pictures, "--num-images", 0, "--bootstrap", 100]
    for name in ("norms", "similarity"):
        arguments = [name, *given, "--num-shown", 1, "--out", tmp_path / name]
        monkeypatch.setattr(sys, "argv", ["regvit-analyze", *map(str, arguments)])
        main()
    trained, twin = json.loads((tmp_path / "norms" / "results.json").read_text())["models"]
    assert trained["verdict"]["reason"].startswith("Found from block 1 to block 2, strongest at")
    assert "gone at the end" in trained["verdict"]["reason"]
    answers = [verdict["answer"] == "found" for verdict in trained["verdict_by_layer"]]
    assert answers == [False, False, True, True, False]
    assert twin["verdict"]["answer"] != "found"
    assert trained["planted_control"]["answer"] == "found"
    assert trained["planted_control"]["seen"] > 0.9
    (alike,) = json.loads((tmp_path / "similarity" / "results.json").read_text())["models"]
    for model in (trained, alike):
        assert model["outlier_layer"] == trained["strongest_layer"]
        assert model["where"] in ("after block 1", "after block 2")
        assert model["definition"] == "group"
    assert alike["numbers"]["similarity/labels/group/share"]["value"] == pytest.approx(
        0.02, abs=0.01
    )


def test_norms_planted_into_a_model_are_found_after_their_block():
    model, params = DeiT3(TINY), random_params(TINY)
    images = jax.random.normal(jax.random.key(0), (300, 32, 32, 3))
    layout = model.layout(images.shape)

    def norms(edit=None):
        trace = model.apply({"params": params}, images, method="trace", edit=edit)
        tokens = [trace.embedded, *(block.tokens for block in trace.blocks)]
        return jnp.stack([jnp.linalg.norm(x[:, layout.patches], axis=-1) for x in tokens])

    plain = np.asarray(jax.jit(norms)())
    control = np.asarray(jax.jit(lambda: norms(plant(layout, 1)))())
    assert judge_layers(plain, layout.grid).answer != "found"
    verdict = judge_layers(control, layout.grid)
    assert verdict.answer == "found"
    # What block 1 leaves is recorded before the edit; block 2 is the first to read it.
    assert [layer.answer == "found" for layer in verdict.layers] == [False, False, False, True]
    labels = verdict.labels(control[verdict.strongest])
    expected = np.zeros(layout.num_patches, bool)
    expected[places(layout.grid, 0.02, 0)] = True
    assert (labels == expected).mean() > 0.999


def test_planted_places_are_apart():
    for grid, share in (((8, 8), 0.02), ((14, 14), 0.05), ((3, 4), 0.001)):
        chosen = places(grid, share, 1)
        assert len(chosen) == max(1, round(share * grid[0] * grid[1]))
        points = [divmod(place, grid[1]) for place in chosen]
        for a in points:
            for b in points:
                assert a == b or abs(a[0] - b[0]) + abs(a[1] - b[1]) > 1
