"""Does `ablate` measure what plain loops do? Each image alone, edited by hand, scored in NumPy."""

import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from regvit_jax import load
from regvit_jax.analysis.cli import main
from regvit_jax.analysis.questions.ablate.conditions import (
    Moments,
    as_arrays,
    conditions_of,
    image_keys,
    random_patches,
    replacing,
)
from regvit_jax.analysis.questions.ablate.judged import divergence
from regvit_jax.boxes import best_iou
from regvit_jax.data import open_source
from regvit_jax.preprocess import Preprocess
from regvit_jax.tokens import TokenLayout

from .conftest import TINY, random_params, save_checkpoint

NUM_IMAGES, SEED = 9, 0
CONFIG = dataclasses.replace(TINY, num_registers=2, num_classes=10)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "reg2"
    return save_checkpoint(folder, CONFIG, random_params(CONFIG))


@pytest.fixture(scope="module")
def numbers(tmp_path_factory, checkpoint):
    out = tmp_path_factory.mktemp("analysed") / "ablate"
    arguments = ["--data", "digits", "--num-images", NUM_IMAGES, "--num-train-images", 30]
    arguments += ["--batch-size", 4, "--bootstrap", 100, "--out", out]
    with pytest.MonkeyPatch.context() as patch:
        words = ["regvit-analyze", "ablate", "--checkpoint", checkpoint, *arguments]
        patch.setattr(sys, "argv", list(map(str, words)))
        main()
    assert (out / "ablate_costs.png").is_file()
    results = json.loads((out / "results.json").read_text())
    return results["models"][0]["numbers"]


@pytest.fixture(scope="module")
def by_hand(checkpoint):
    """Per condition: predicted classes, cosines, divergences and hits of LOST, image by image."""
    model, params = load(checkpoint)
    source = open_source("digits", "val")
    chosen = np.sort(np.random.default_rng(SEED).choice(len(source), NUM_IMAGES, replace=False))
    samples = [source[i] for i in chosen.tolist()]
    preprocess = Preprocess.square(32)
    images = preprocess.normalise(np.stack([preprocess.pixels(s.image) for s in samples]))
    untouched = jax.jit(lambda p, x: model.apply({"params": p}, x, method="trace"))
    plain = untouched(params, images)
    mean = np.stack([np.asarray(block.tokens).mean(axis=0) for block in plain.blocks])
    replaced = {
        "untouched": ((), 0.0),
        "registers_zeroed": ((1, 2), 0.0),
        "registers_mean": ((1, 2), 1.0),
        "register_1_zeroed": ((2,), 0.0),
        "cls_mean": ((0,), 1.0),
    }

    @jax.jit
    def run(new, is_new):
        def edit(layer, x):
            return jnp.where(is_new[None, :, None], new[layer][None], x)

        return model.apply({"params": params}, images, None, edit, method="trace")

    found = {}
    for name, (places, weight) in replaced.items():
        trace = run(weight * mean, np.isin(np.arange(67), places))
        found[name] = scored(trace, plain, samples, preprocess, slice(3, None))
    without = dataclasses.replace(CONFIG, num_registers=0)
    rest = {k: v for k, v in params.items() if k != "reg_tokens"}
    drop = jax.jit(lambda p, x: type(model)(without).apply({"params": p}, x, method="trace"))
    trace = drop(rest, images)
    found["registers_dropped"] = scored(trace, plain, samples, preprocess, slice(1, None))
    labels = np.array([sample.label for sample in samples])
    return labels, found


def scored(trace, plain, samples, preprocess, patches):
    normed, before = (np.asarray(t.normed, np.float64) for t in (trace, plain))
    a, b = normed[:, patches], before[:, 3:]
    cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    attn, attn_before = (np.asarray(t.blocks[-1].attn, np.float64) for t in (trace, plain))
    if attn.shape != attn_before.shape:
        attn = np.insert(attn, [1, 1], 0.0, axis=-1)[:, :, patches]
    else:
        attn = attn[:, :, patches]
    rows = jensenshannon(attn, attn_before[:, :, 3:], axis=-1) ** 2
    values = np.asarray(trace.blocks[-1].value)[:, :, patches].transpose(0, 2, 1, 3)
    boxes = [lost_by_hand(v.reshape(64, -1).astype(np.float64)) for v in values]
    hits = [
        best_iou(4.0 * box, preprocess.boxes(s.boxes, *s.image.size)) >= 0.5
        for box, s in zip(boxes, samples, strict=True)
    ]
    predicted = np.asarray(trace.logits).argmax(axis=1)
    return predicted, cosine.mean(axis=1), rows.mean(axis=(1, 2)), np.array(hits)


def lost_by_hand(features):
    """The published algorithm on an 8 x 8 grid; k = 100 is every patch."""
    gram = features @ features.T
    degrees = ((gram > 0) & ~np.eye(64, dtype=bool)).sum(axis=1)
    seed = int(degrees.argmin())
    mask = (gram[gram[seed] > 0].sum(axis=0) > 0).reshape(8, 8)
    reached, waiting = set(), [divmod(seed, 8)]
    while waiting:
        row, col = waiting.pop()
        if (row, col) in reached:
            continue
        reached.add((row, col))
        around = [(row + 1, col), (row - 1, col), (row, col + 1), (row, col - 1)]
        waiting += [(r, c) for r, c in around if 0 <= r < 8 and 0 <= c < 8 and mask[r, c]]
    rows, cols = zip(*reached, strict=True)
    return np.array([min(cols), min(rows), max(cols) + 1, max(rows) + 1])


def test_scores_of_every_condition_are_those_of_plain_loops(numbers, by_hand):
    labels, found = by_hand
    answers, _, _, hits_before = found["untouched"]
    assert numbers["ablate/untouched/top1"]["value"] == pytest.approx((answers == labels).mean())
    for name, (predicted, cosine, rows, hits) in found.items():
        assert numbers[f"ablate/{name}/corloc"]["value"] == pytest.approx(hits.mean())
        if name == "untouched":
            continue
        got = {k: numbers[f"ablate/{name}/{k}"]["value"] for k in ("cosine", "divergence")}
        # Float32 against float64: 3e-7 was measured.
        assert got["cosine"] == pytest.approx(cosine.mean(), abs=3e-6), name
        assert got["divergence"] == pytest.approx(rows.mean(), abs=3e-6), name
        same = numbers[f"ablate/{name}/same_answer"]["value"]
        assert same == pytest.approx((predicted == answers).mean())
        change = numbers[f"ablate/{name}/top1_change"]["value"]
        right = (predicted == labels).astype(float) - (answers == labels)
        assert change == pytest.approx(right.mean(), abs=1e-6)
        change = numbers[f"ablate/{name}/corloc_change"]["value"]
        assert change == pytest.approx(hits.mean() - hits_before.mean(), abs=1e-6)


def test_all_conditions_have_all_scores_and_intervals(numbers):
    layout = TokenLayout(2, (8, 8))
    conditions = conditions_of(layout, 4)
    assert len(conditions) == 5 + 2 + 2 + 1
    for condition in conditions:
        for score in ("top1", "linear", "neighbours", "corloc"):
            change = numbers[f"ablate/{condition.name}/{score}_change"]
            assert change["interval"][0] <= change["value"] <= change["interval"][1]


def test_noise_has_the_moments_and_other_images_are_real_ones():
    layout = TokenLayout(2, (4, 4))
    generator = np.random.default_rng(0)
    mean, sd, others = (
        generator.uniform(1, 2, s).astype(np.float32)
        for s in (
            (2, 3, 5),
            (2, 3, 5),
            (7, 2, 3, 5),
        )
    )
    moments = Moments(*map(jnp.asarray, (mean, sd, others)))
    conditions = [c for c in conditions_of(layout, 3) if not c.drops]
    arrays = as_arrays(conditions, layout)
    images = jnp.asarray(generator.normal(size=(500, 4, 4, 3)), jnp.float32)
    keys = image_keys(images, 0)
    patches = random_patches(keys, layout, 3)
    x = jnp.asarray(generator.normal(size=(500, 19, 5)), jnp.float32)

    @jax.jit
    def edited(row):
        edit = replacing(row, moments, keys, layout, patches)
        return [edit.after(layer, x) for layer in range(2)]

    found = {}
    for place, condition in enumerate(conditions):
        rows = edited({name: jnp.asarray(array[place]) for name, array in arrays.items()})
        found[condition.name] = [np.asarray(row) for row in rows]
    for layer in range(2):
        noise = found["registers_noise"][layer]
        np.testing.assert_array_equal(
            noise[:, [0, *range(3, 19)]], x[:, jnp.array([0, *range(3, 19)])]
        )
        error = 5 * sd[layer, 1:] / np.sqrt(500)
        assert (np.abs(noise[:, 1:3].mean(axis=0) - mean[layer, 1:]) < error).all()
        assert (np.abs(noise[:, 1:3].std(axis=0) / sd[layer, 1:] - 1) < 0.2).all()
        taken = found["registers_other_image"][layer][:, 1:3]
        which = [(taken[i] == others[:, layer, 1:]).all(axis=(1, 2)).argmax() for i in range(500)]
        np.testing.assert_array_equal(taken, others[which, layer, 1:])
        assert set(which) == set(range(7))
        zeroed = (found["patches_zeroed"][layer] == 0).all(axis=2)
        assert (zeroed.sum(axis=1) == 3).all()
        assert not zeroed[:, :3].any()
    assert len({tuple(row.nonzero()[0]) for row in zeroed}) > 50
    first, second = (found["registers_other_image"][i][:, 1] for i in (0, 1))
    same = [
        (others[:, 0, 1] == a).all(1).argmax() == (others[:, 1, 1] == b).all(1).argmax()
        for a, b in zip(first, second, strict=True)
    ]
    assert 0.05 < np.mean(same) < 0.3  # each block takes another image's: 1 in 7


def test_an_image_has_the_same_key_in_any_batch():
    images = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 4, 3)), jnp.float32)
    together, alone = image_keys(images, 1), image_keys(images[1:2], 1)
    assert jax.random.key_data(together[1]).tolist() == jax.random.key_data(alone[0]).tolist()
    assert len({tuple(key.tolist()) for key in jax.random.key_data(together)}) == 3


def test_divergence_is_zero_for_equals_and_log_2_for_strangers():
    one, other = jnp.array([[0.25, 0.75, 0.0, 0.0]]), jnp.array([[0.0, 0.0, 1.0, 0.0]])
    np.testing.assert_allclose(divergence(one, other), np.log(2), rtol=1e-6)
    np.testing.assert_allclose(divergence(one, one), 0, atol=1e-7)
