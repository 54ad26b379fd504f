"""Does `segment` count what loops over patches count? Masks, agreement, and a classifier."""

import dataclasses
import json
import sys

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import jaccard_score

from regvit_jax import InputError, load
from regvit_jax.analysis.cli import main
from regvit_jax.analysis.questions.segment.patches import (
    accuracy,
    agreement,
    ious,
    mean_iou,
    patch_classes,
)
from regvit_jax.analysis.questions.segment.question import learn
from regvit_jax.cues import CuesSource
from regvit_jax.data import open_source
from regvit_jax.digits import DigitsSource
from regvit_jax.preprocess import Preprocess
from regvit_jax.source import VOID, MaskedSource
from regvit_jax.voc import VocSource
from tests.analysis.conftest import TINY, random_params, save_checkpoint, write_pictures

CONFIG = dataclasses.replace(TINY, num_registers=1)
NUM_IMAGES = 8


def majority(cell):
    """The commonest value, of equals the smallest; -1 for void."""
    values, counts = np.unique(cell, return_counts=True)
    found = int(values[counts.argmax()])
    return -1 if found == VOID else found


def test_a_patch_is_of_the_class_of_most_of_its_pixels():
    mask = np.random.default_rng(0).choice([0, 1, 2, VOID], (12, 8)).astype(np.uint8)
    want = [majority(mask[r : r + 4, c : c + 4]) for r in (0, 4, 8) for c in (0, 4)]
    assert patch_classes(mask, 4, 3).tolist() == want


def test_counts_give_what_scikit_learn_gives():
    generator = np.random.default_rng(1)
    truth, said = generator.integers(-1, 3, (5, 40)), generator.integers(0, 3, (5, 40))
    counts = agreement(truth, said, 4)  # nobody is of class 3
    known = truth >= 0
    each = jaccard_score(truth[known], said[known], average=None, labels=[0, 1, 2])
    means = counts.astype(float).mean(axis=0)
    np.testing.assert_allclose(ious(means)[:3], each)
    assert np.isnan(ious(means)[3])
    assert mean_iou(means) == pytest.approx(each.mean())
    assert accuracy(means) == pytest.approx((truth == said)[known].mean())


def test_the_classifier_is_that_of_scikit_learn():
    generator = np.random.default_rng(2)
    classes = generator.integers(-1, 3, (30, 4))
    features = generator.normal(size=(30, 4, 6)) + 1.5 * np.eye(6)[classes]
    learned = learn(features.astype(np.float32), classes, 4, seed=0)
    known = classes >= 0
    theirs = LogisticRegression(C=learned.strength, tol=1e-10, max_iter=5000)
    theirs.fit(features[known], classes[known])
    ours = features @ learned.weights + learned.intercepts
    assert np.isneginf(ours[..., 3]).all()
    logits = theirs.decision_function(features.reshape(-1, 6)).reshape(30, 4, 3)
    centred = ours[..., :3] - ours[..., :3].mean(axis=-1, keepdims=True)
    np.testing.assert_allclose(centred, logits, rtol=0, atol=2e-3)  # measured 3e-4


def test_digits_and_cues_know_what_their_pixels_show():
    digits, cues = DigitsSource.open("val"), CuesSource.open("val")
    for source in (digits, cues):
        assert isinstance(source, MaskedSource)
        assert len(source.masked) == len(source)
    scene, mask = digits.draw(3), digits.mask(3)
    x0, y0, x1, y1 = scene.box
    inside = mask[y0:y1, x0:x1]
    assert inside.any(axis=0).all() or inside.any(axis=0)[[0, -1]].all()  # the box is tight
    assert inside.any(axis=1)[[0, -1]].all()
    assert mask.sum() == inside.sum()
    pixels = scene.pixels.astype(float).mean(axis=-1)
    assert pixels[mask == 1].mean() > pixels[mask == 0].mean() + 50  # light digits, dark grounds
    mosaic = cues.draw(5)
    for kind in range(4):
        np.testing.assert_array_equal(cues.mask(5) == kind, mosaic.mask(kind))


@pytest.fixture
def voc(tmp_path):
    """A VOC root of two images, of which one has a mask."""
    for folder in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("one", "two"):
        Image.new("RGB", (6, 4)).save(tmp_path / "JPEGImages" / f"{name}.jpg")
    (tmp_path / "ImageSets/Main/val.txt").write_text("one\ntwo\n")
    values = np.array([[0, 0, 15, 15, 255, 1]] * 4, np.uint8)
    mask = Image.fromarray(values, "P")
    mask.putpalette([7, 7, 7] * 256)  # the colours say nothing
    mask.save(tmp_path / "SegmentationClass" / "two.png")
    return tmp_path, values


def test_masks_of_voc_are_read_by_number_not_by_colour(voc):
    root, values = voc
    source = VocSource.open(root, "val")
    assert source.masked.tolist() == [1]
    np.testing.assert_array_equal(source.mask(1), values)
    assert source.mask_classes[15] == "person"
    with pytest.raises(InputError, match=r"There is no mask at .*one\.png"):
        source.mask(0)


def test_masks_that_cannot_be_the_images_are_refused(voc):
    root, values = voc
    source, path = VocSource.open(root, "val"), root / "SegmentationClass" / "two.png"
    Image.fromarray(values[:, :5]).save(path)
    with pytest.raises(InputError, match="5 x 4 px, its image 6 x 4"):
        source.mask(1)
    Image.fromarray(values + np.uint8(20)).save(path)
    with pytest.raises(InputError, match=r"the value (19|20|21|35); expected 0 to 20, or 255"):
        source.mask(1)
    Image.new("RGB", (6, 4)).save(path)
    with pytest.raises(InputError, match="an image of mode RGB; expected numbers"):
        source.mask(1)


@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess(height=8, width=8, short_side=10),
        Preprocess(height=8, width=12, resize="squash"),
        Preprocess.square(8).padding(13, 21, 4),
    ],
)
def test_a_mask_lies_on_what_becomes_of_its_image(preprocess):
    """Left black, right white: the edge of the mask lies where that of the pixels does."""
    mask = np.zeros((13, 21), np.uint8)
    mask[:, 9:] = 1
    found = preprocess.mask(mask, VOID)
    pixels = preprocess.pixels(Image.fromarray(255 * mask))
    assert found.shape == pixels.shape[:2]
    light = pixels[..., 0] > 127
    known = found != VOID
    assert known.all() == (preprocess.resize != "pad")
    np.testing.assert_array_equal(found[known] == 1, light[known])


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("segmented")
    checkpoint = save_checkpoint(folder / "reg1", CONFIG, random_params(CONFIG))
    words = ["segment", "--checkpoint", checkpoint, "--data", "digits", "--num-images", NUM_IMAGES]
    words += ["--num-train-images", 20, "--bootstrap", 100, "--out", folder / "out"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["regvit-analyze", *map(str, words)])
        main()
    assert (folder / "out" / "segment_iou.png").is_file()
    results = json.loads((folder / "out" / "results.json").read_text())
    return checkpoint, results["models"][0]["numbers"]


def test_the_map_of_cls_is_scored_as_loops_score_it(numbers):
    checkpoint, found = numbers
    model, params = load(checkpoint)
    source, preprocess = open_source("digits", "val"), Preprocess.square(32)
    chosen = np.sort(np.random.default_rng(0).choice(len(source), NUM_IMAGES, replace=False))
    both = np.zeros((2, 2))
    truth = []
    for index in chosen.tolist():
        image = preprocess.normalise(preprocess.pixels(source[index].image)[None])
        trace = jax.jit(lambda p, x: model.apply({"params": p}, x, method="trace"))(params, image)
        looked = np.asarray(trace.blocks[-1].attn)[0, :, 0, 2:].mean(axis=0)
        mask = np.asarray(Image.fromarray(source.mask(index)).resize((32, 32), 0))
        for place in range(64):
            row, col = 4 * (place // 8), 4 * (place % 8)
            truth.append(majority(mask[row : row + 4, col : col + 4]))
            both[truth[-1], int(looked[place] > looked.mean())] += 1
    union = both.sum(axis=0) + both.sum(axis=1) - np.diag(both)
    assert found["segment/map/mean_iou"]["value"] == pytest.approx(np.mean(np.diag(both) / union))
    assert found["segment/map/accuracy"]["value"] == pytest.approx(np.trace(both) / both.sum())
    background = 1 - np.mean(truth)
    assert found["segment/nothing/accuracy"]["value"] == pytest.approx(background)
    assert found["segment/nothing/mean_iou"]["value"] == pytest.approx(background / 2)
    assert found["segment/linear/accuracy"]["value"] > 0.5
    for name in ("background", "digit"):
        assert 0 <= found[f"segment_classes/{name}/iou"]["value"] <= 1


def test_data_without_masks_are_refused(numbers, tmp_path, capsys, monkeypatch):
    pictures = write_pictures(tmp_path / "pictures", 10)
    words = ["segment", "--checkpoint", numbers[0], "--data", pictures]
    words += ["--out", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", ["regvit-analyze", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert "has 0 images with a mask; segment needs 2 or more" in capsys.readouterr().err
