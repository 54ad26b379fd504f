"""Does `neurons` find the one unit that writes outliers, and do test-time registers undo it?"""

import csv
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from regvit_jax import DeiT3, ViTConfig, load
from regvit_jax.analysis.cli import main
from regvit_jax.analysis.questions.neurons.question import choose
from regvit_jax.analysis.questions.neurons.sweep import Tried, conditions_of
from regvit_jax.analysis.questions.neurons.units import activity, ranked
from regvit_jax.checkpoint import flatten, unflatten
from regvit_jax.preprocess import Preprocess
from tests.analysis.conftest import random_params, save_checkpoint

CONFIG = ViTConfig(
    *(24, 3, 3), patch_size=4, image_size=32, num_classes=2, mlp_ratio=2.0, pooling="patches"
)
BLOCK, UNIT = 1, 7
NUM_IMAGES, PER_IMAGE = 60, 2
ANCHOR, WRITTEN = 5, 3
"""Channels: one that all trained tokens share and a token of zeros lacks; the outliers' own."""


def pictures(folder):
    """Smooth pictures in which two patches are checkerboards; where these are, (n, 64)."""
    generator = np.random.default_rng(0)
    is_board = np.zeros((NUM_IMAGES, 8, 8), bool)
    board = 40 + 175 * (np.indices((4, 4)).sum(axis=0) % 2)
    for i, cells in enumerate(is_board):
        coarse = generator.integers(100, 150, (5, 5, 3)).astype(np.uint8)
        pixels = np.array(Image.fromarray(coarse).resize((32, 32), Image.Resampling.BICUBIC))
        for row, col in (
            (generator.integers(3), generator.integers(8)),
            (6, generator.integers(8)),
        ):
            pixels[4 * row : 4 * row + 4, 4 * col : 4 * col + 4] = board[..., None]
            cells[row, col] = True
        path = folder / ("ant", "bee")[i % 2] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return is_board.reshape(NUM_IMAGES, 64)


def anchored_params():
    """Random weights in which nobody looks at a token that lacks the anchor's channel."""
    flat = {name: np.array(value) for name, value in flatten(random_params(CONFIG)).items()}
    flat["patch_embed/kernel"][..., ANCHOR] = 0
    flat["patch_embed/bias"][ANCHOR] = 0
    flat["pos_embed"][..., ANCHOR] = flat["cls_token"][..., ANCHOR] = 30
    for block in range(CONFIG.depth):
        flat[f"blocks_{block}/norm1/bias"][:] = 0
        kernel, bias = (flat[f"blocks_{block}/attn/qkv/{name}"] for name in ("kernel", "bias"))
        for head in range(3):
            query, key = 8 * head, 24 + 8 * head
            kernel[:, [query, key]] = bias[key] = 0
            bias[query], kernel[ANCHOR, key] = 40, 1
    return flat


def stream_before(flat, images):
    """What the norm of the planted block's MLP gives, (n, t, d)."""
    trace = traced(unflatten(flat), images)
    x = np.asarray(trace.blocks[BLOCK].after_attn, np.float64)
    normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return normed * flat[f"blocks_{BLOCK}/norm2/scale"] + flat[f"blocks_{BLOCK}/norm2/bias"]


def traced(params, images, **options):
    run = jax.jit(lambda p, x: DeiT3(CONFIG).apply({"params": p}, x, method="trace", **options))
    return run(params, images)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """The model, the same without the unit, the images, and which patches the unit reads."""
    folder = tmp_path_factory.mktemp("planted")
    is_board = pictures(folder / "images")
    files = sorted((folder / "images").rglob("*.png"))
    order = [int(file.stem) for file in files]
    preprocess = Preprocess.square(32)
    images = preprocess.normalise(np.stack([preprocess.pixels(file) for file in files]))
    flat = anchored_params()
    seen, is_board = stream_before(flat, images)[:, 1:], is_board[order]
    direction = seen[is_board].mean(axis=0) - seen[~is_board].mean(axis=0)
    direction[[ANCHOR, WRITTEN]] = 0
    along = seen @ direction
    low, high = along[~is_board].max(), along[is_board].min()
    assert low < high
    steepness = 60 / (high - low)
    fc1, fc2 = (f"blocks_{BLOCK}/mlp/{name}/kernel" for name in ("fc1", "fc2"))
    flat[fc1][:, UNIT] = steepness * direction
    flat[f"blocks_{BLOCK}/mlp/fc1/bias"][UNIT] = -steepness * (low + high) / 2
    flat[fc2][UNIT] = 0
    clean = unflatten({name: value.copy() for name, value in flat.items()})
    flat[fc2][UNIT, WRITTEN] = 20 / flat[f"blocks_{BLOCK}/ls2"][WRITTEN]
    params = unflatten(flat)
    checkpoint = save_checkpoint(folder / "writer", CONFIG, params)
    return folder, checkpoint, params, clean, images, is_board


@pytest.fixture(scope="module")
def found(planted):
    folder, checkpoint, *_ = planted
    arguments = ["--data", folder / "images", "--num-images", 0, "--units", 1, 2, "--out"]
    arguments += [folder / "results", "--save", folder / "saved", "--bootstrap", 100]
    with pytest.MonkeyPatch.context() as patch:
        words = ["regvit-analyze", "neurons", "--checkpoint", checkpoint, *arguments]
        patch.setattr(sys, "argv", list(map(str, words)))
        main()
    results = json.loads((folder / "results" / "results.json").read_text())
    return results["models"][0]


def test_exactly_the_planted_unit_is_found(found):
    assert found["outliers"]["answer"] == "found"
    assert found["looked_for"]["top_block"] == BLOCK
    assert found["test_time_registers"]["units"] == [[BLOCK, UNIT]]
    numbers = found["numbers"]
    assert numbers["test_time_registers/num_units"]["value"] == 1
    share = PER_IMAGE / 64
    assert numbers["neurons/untouched/0/outliers"]["value"] == pytest.approx(share)
    assert numbers["neurons/shifted/1/outliers"]["value"] == 0
    assert numbers["neurons/zeroed/1/outliers"]["value"] == 0
    assert numbers["neurons/random_shifted/1/outliers"]["value"] == pytest.approx(share)
    assert found["outliers_after"]["answer"] != "found"


def test_scores_are_those_of_the_algorithm_written_out(planted, found):
    """For every image the mean activation at its outliers, and the mean over the images."""
    folder, _, params, _, images, _ = planted
    where = found["looked_for"]
    trace = traced(params, images)
    norms = np.linalg.norm(np.asarray(trace.blocks[where["block"]].tokens)[:, 1:], axis=-1)
    score = np.zeros((where["top_block"] + 1, CONFIG.mlp_dim))
    for image in range(NUM_IMAGES):
        outliers = np.flatnonzero(norms[image] >= where["cut_ratio"] * np.median(norms[image]))
        for block in range(len(score)):
            hidden = np.asarray(trace.blocks[block].hidden, np.float64)[image, 1:]
            score[block] += hidden[outliers].mean(axis=0) / NUM_IMAGES
    rows = list(csv.DictReader((folder / "results" / "units.csv").read_text().splitlines()))
    for row, (block, unit) in zip(rows[:5], ranked(score)[:5].tolist(), strict=True):
        assert (int(row["block"]), int(row["unit"])) == (block, unit)
        assert float(row["score"]) == pytest.approx(score[block, unit], rel=1e-4)


def test_test_time_registers_leave_what_the_model_says_without_the_unit(planted, found):
    folder, _, params, clean, images, is_board = planted
    assert found["test_time_registers"]["number"] == 1
    model, there = load(folder / "saved" / "writer+test-time-registers")
    run = jax.jit(lambda p, x: model.apply({"params": p}, x, method="trace"))
    edited, wanted, as_is = run(there, images), traced(clean, images), traced(params, images)
    np.testing.assert_allclose(edited.logits, wanted.logits, rtol=0, atol=1e-4)  # measured 4e-6
    assert np.abs(np.asarray(as_is.logits) - wanted.logits).max() > 0.01
    layout = model.layout(images.shape)
    assert layout.num_registers == 1
    norms = np.linalg.norm(np.asarray(edited.blocks[BLOCK].tokens), axis=-1)
    patches = norms[:, layout.patches]
    assert patches.max() < 1.5 * np.median(patches)
    assert norms[:, layout.registers].min() > 3 * np.median(patches)  # it carries them


def test_a_model_without_outliers_has_no_units_to_find(planted, tmp_path, capsys, monkeypatch):
    folder = planted[0] / "images"
    plain = save_checkpoint(tmp_path / "plain", CONFIG, planted[3])
    words = ["neurons", "--checkpoint", plain, "--data", folder]
    words += ["--num-images", 40, "--bootstrap", 100, "--out", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", ["regvit-analyze", *map(str, words)])
    main()
    assert "so no unit is looked for" in capsys.readouterr().out
    assert not list((tmp_path / "out").glob("*.csv"))


@pytest.mark.parametrize("rule", ["paper", "released"])
def test_activity_is_the_mean_over_the_outliers_of_each_image(rule):
    generator = np.random.default_rng(1)
    hidden = generator.normal(size=(3, 2, 6, 4)).astype(np.float32)
    is_outlier = generator.random((3, 6)) < 0.4
    is_outlier[1] = False
    mean, has_any = activity(jnp.asarray(hidden), jnp.asarray(is_outlier), rule)
    values = np.abs(hidden) if rule == "released" else hidden
    for image in range(3):
        chosen = values[image][:, is_outlier[image]]
        want = chosen.mean(axis=1) if chosen.size else np.zeros((2, 4))
        np.testing.assert_allclose(mean[image], want, rtol=0, atol=1e-6)
    assert has_any.tolist() == is_outlier.any(axis=1).tolist()


def test_the_fewest_units_that_leave_hardly_an_outlier_are_chosen():
    order = np.array([[0, 1], [1, 2], [0, 0], [1, 1], [0, 2]])
    tried = conditions_of(order, (2, 1, 4, 9), (2, 3), 0)
    assert [(c.name, c.num_units) for c in tried[:4]] == [("shifted", k) for k in (1, 2, 4, 5)]
    assert tried[1].mask.tolist() == [[False, True, False], [False, False, True]]
    others = [0.0] * 8
    assert choose(tried, [0.1, 0.09, 0.004, 0.0, 0.0, *others]).num_units == 2
    assert choose(tried, [0.1, 0.09, 0.06, 0.05, 0.07, *others]).num_units == 4
    assert isinstance(tried[0], Tried)
