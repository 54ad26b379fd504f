"""Does `sinks` add up what loops over heads and tokens do? Weights, values and contributions."""

import json
import sys

import jax
import numpy as np
import pytest

from regvit_jax import load
from regvit_jax.analysis.cli import main
from regvit_jax.data import open_source
from regvit_jax.preprocess import Preprocess

NUM_IMAGES = 40
KINDS = ("cls", "registers", "outliers", "patches")


@pytest.fixture(scope="module")
def results(tmp_path_factory, checkpoints, pictures):
    out = tmp_path_factory.mktemp("analysed") / "sinks"
    with pytest.MonkeyPatch.context() as patch:
        words = ["sinks", "--checkpoint", checkpoints["planted"], checkpoints["registers"]]
        words += ["--data", pictures, "--num-images", NUM_IMAGES, "--bootstrap", 100, "--out", out]
        patch.setattr(sys, "argv", ["regvit-analyze", *map(str, words)])
        main()
    assert (out / "sinks_flow.png").is_file()
    assert (out / "sinks_heads.png").is_file()
    return json.loads((out / "results.json").read_text())


@pytest.fixture(scope="module")
def images(pictures):
    source = open_source(str(pictures), "val")
    chosen = np.sort(np.random.default_rng(0).choice(len(source), NUM_IMAGES, replace=False))
    preprocess = Preprocess.square(32)
    return preprocess.normalise(
        np.stack([preprocess.pixels(source[i].image) for i in chosen.tolist()])
    )


@pytest.mark.parametrize("name", ["planted", "registers"])
def test_numbers_are_those_of_loops(name, results, checkpoints, images):
    (entry,) = (model for model in results["models"] if model["label"] == name)
    numbers = entry["numbers"]
    model, params = load(checkpoints[name])
    trace = jax.jit(lambda p, x: model.apply({"params": p}, x, method="trace"))(params, images)
    layout = model.layout(images.shape)
    outliers = np.zeros((NUM_IMAGES, layout.num_tokens), bool)
    if entry["outliers"]["answer"] == "found":
        tokens = np.asarray(trace.blocks[1].tokens, np.float64)
        norms = np.linalg.norm(tokens, axis=-1)
        medians = np.median(norms[:, layout.patches], axis=1, keepdims=True)
        outliers[:, layout.patches] = (norms > 4 * medians)[:, layout.patches]  # a wide valley
        assert outliers.any()
    before = np.asarray(trace.embedded, np.float64)
    for index, block in enumerate(trace.blocks):
        p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params[f"blocks_{index}"])
        added = (np.asarray(block.after_attn, np.float64) - before)[:, 0]
        before = np.asarray(block.tokens, np.float64)
        projection = p["attn"]["proj"]["kernel"].reshape(3, 8, 24) * p["ls1"]
        bias = p["attn"]["proj"]["bias"] * p["ls1"]
        attn, value = (np.asarray(x, np.float64) for x in (block.attn, block.value))
        total = np.mean([added[i] @ bias / (added[i] @ added[i]) for i in range(NUM_IMAGES)])
        for head in range(3):
            found = by_hand(
                attn[:, head], value[:, head] @ projection[head], added, layout, outliers
            )
            for kind in KINDS:
                for quantity, want in found[kind].items():
                    key = f"sinks_heads/{index}/{head}/{kind}/{quantity}"
                    if key not in numbers:
                        assert not (name == "planted" and kind == "outliers"), key
                        continue
                    # Float32 against float64: 2e-6 was measured.
                    assert numbers[key]["value"] == pytest.approx(want, rel=2e-5, abs=2e-5), key
        parts = [numbers.get(f"sinks/{index}/{kind}/contribution") for kind in KINDS]
        assert sum(part["value"] for part in parts if part) + total == pytest.approx(1, abs=1e-4)


def by_hand(attn, written, added, layout, outliers):
    """Means of one head over the images, those that have the kind for values.

    Args:
      attn: (n, t, t).
      written: What each token's value becomes, (n, t, d).
      added: To CLS by all heads and the bias, (n, d).
      layout: Of the tokens.
      outliers: Which tokens are outliers, (n, t).
    """
    found = {kind: {"received": 0.0, "from_cls": 0.0, "contribution": 0.0} for kind in KINDS}
    lengths = {kind: [] for kind in KINDS}
    for i in range(len(attn)):
        sizes = {kind: [] for kind in KINDS}
        for token in range(layout.num_tokens):
            kind = "cls" if token == 0 else "registers"
            if token >= layout.patches.start:
                kind = "outliers" if outliers[i, token] else "patches"
            found[kind]["received"] += attn[i, :, token].mean() / len(attn)
            found[kind]["from_cls"] += attn[i, 0, token] / len(attn)
            part = attn[i, 0, token] * written[i, token] @ added[i] / (added[i] @ added[i])
            found[kind]["contribution"] += part / len(attn)
            sizes[kind].append(np.linalg.norm(written[i, token]))
        for kind in KINDS:
            if sizes[kind]:
                lengths[kind].append(np.mean(sizes[kind]) / np.mean(sizes["patches"]))
    for kind in KINDS:
        if lengths[kind]:
            found[kind]["value"] = np.mean(lengths[kind])
    return found


def test_what_a_model_lacks_has_no_numbers(results):
    planted, registers = results["models"]
    assert planted["outliers"]["answer"] == "found"
    kinds = [
        {key.split("/")[1] for key in m["numbers"] if key.startswith("sinks_kinds/")}
        for m in (
            planted,
            registers,
        )
    ]
    assert kinds == [{"cls", "outliers", "patches"}, {"cls", "registers", "patches"}]
    for kind in kinds[0]:
        estimate = planted["numbers"][f"sinks_kinds/{kind}/contribution"]
        assert estimate["interval"][0] <= estimate["value"] <= estimate["interval"][1]
