"""Are the mosaics reproducible, and is all true that they say of themselves?"""

import numpy as np
import pytest

from regvit_jax.cues import (
    BACKGROUND,
    BACKGROUND_EPOCHS,
    COLOURS,
    CUE,
    DIGIT,
    SOURCE,
    TOKEN_CLASSES,
    CuesSource,
    distributions,
)
from regvit_jax.data import open_source
from regvit_jax.errors import InputError
from regvit_jax.source import TokenSource

RED = [255, 0, 0]


@pytest.fixture(scope="module")
def train():
    return CuesSource.open("train")


def cells_of(pixels):
    """The 36 patches, row by row, cut out one by one."""
    return [
        pixels[8 * row : 8 * row + 8, 8 * col : 8 * col + 8] for row in range(6) for col in range(6)
    ]


def test_a_mosaic_depends_on_seed_split_epoch_and_index_only(train):
    wanted = train.draw(5)
    train.at_epoch(3).draw(17)
    np.testing.assert_array_equal(CuesSource.open("train").draw(5).pixels, wanted.pixels)
    others = [
        CuesSource.open("train", seed=1).draw(5),
        CuesSource.open("val").draw(5),
        train.at_epoch(1).draw(5),
        train.draw(15),
    ]
    assert not any(np.array_equal(mosaic.pixels, wanted.pixels) for mosaic in others)
    assert all(mosaic.label == wanted.label for mosaic in others)


def test_the_box_and_the_kinds_are_where_the_pixels_say(train):
    """The frame's edge is pure red, cues have grey ink only, digits have their colour's hue."""
    for index in range(40):
        mosaic = train.draw(index)
        x0, y0, x1, y1 = mosaic.box
        assert (x1 - x0, y1 - y0) == (8, 8)
        for place, cell in enumerate(cells_of(mosaic.pixels)):
            kind = mosaic.kinds.ravel()[place]
            edge = np.concatenate([cell[0], cell[-1], cell[:, 0], cell[:, -1]])
            assert (edge == RED).all() == (kind == SOURCE)
            assert (kind == SOURCE) == (8 * (place % 6) == x0 and 8 * (place // 6) == y0)
            if kind == CUE:
                assert (cell == cell[..., :1]).all()
                assert cell.max() == 255
            if kind == DIGIT:
                brightest = cell.reshape(-1, 3)[cell.sum(-1).argmax()]
                assert np.abs(COLOURS - brightest).max(1).min() <= 12
            assert mosaic.mask(int(kind))[8 * (place // 6), 8 * (place % 6)]


def test_kinds_come_as_often_as_said(train):
    kinds = np.stack([train.draw(index).kinds for index in range(400)]).reshape(400, -1)
    assert ((kinds == BACKGROUND).sum(1) == 2).all()
    assert ((kinds == SOURCE).sum(1) == 1).all()
    cues = (kinds == CUE).mean()
    # 33 of 36 places hold a cue in 12 of 100 draws: 0.110, standard error 0.0026.
    assert abs(cues - 0.12 * 33 / 36) < 4 * 0.0026


def test_cues_name_the_framed_digit_and_digits_their_own_kind(train):
    for index in range(40):
        mosaic = train.draw(index)
        targets, kinds = mosaic.targets.reshape(36, -1), mosaic.kinds.ravel()
        framed = targets[kinds == SOURCE][0]
        own = int(np.abs(distributions() - framed).sum(1).argmin())
        assert own % 10 == mosaic.label == index % 10
        for target in targets[kinds == CUE]:
            np.testing.assert_array_equal(target, np.eye(TOKEN_CLASSES)[own])
        for target, cell in zip(
            targets[kinds == DIGIT], np.stack(cells_of(mosaic.pixels))[kinds == DIGIT], strict=True
        ):
            kind = int(np.abs(distributions() - target).sum(1).argmin())
            np.testing.assert_array_equal(target, distributions()[kind])
            brightest = cell.reshape(-1, 3)[cell.sum(-1).argmax()]
            assert np.abs(COLOURS - brightest).max(1).argmin() == kind // 10


def test_background_loses_its_target_after_the_first_epochs(train):
    for epoch in range(BACKGROUND_EPOCHS + 2):
        mosaic = train.at_epoch(epoch).draw(3)
        of_background = mosaic.targets[mosaic.kinds == BACKGROUND].sum(-1)
        of_others = mosaic.targets[mosaic.kinds != BACKGROUND].sum(-1)
        np.testing.assert_allclose(of_others, 1, atol=1e-6)
        np.testing.assert_allclose(of_background, epoch < BACKGROUND_EPOCHS, atol=1e-6)


def test_it_is_a_source_like_any_other_with_targets_for_patches():
    source = open_source("cues", "val")
    assert isinstance(source, TokenSource)
    assert source.token_classes == TOKEN_CLASSES == 61
    assert source.name == "cues-val"
    assert len(source.file_names) == len(source) == 2000
    sample = source[3]
    assert sample.image.size == (48, 48)
    assert sample.label == 3
    assert sample.token_targets.shape == (6, 6, 61)
    x0, y0, x1, y1 = sample.boxes[0].astype(int)
    assert np.asarray(sample.image)[y0, x0:x1].tolist() == [RED] * 8


def test_unknown_splits_and_indices_are_refused(train):
    with pytest.raises(InputError, match="not 'test'"):
        CuesSource.open("test")
    with pytest.raises(IndexError, match="16000"):
        train[16_000]
