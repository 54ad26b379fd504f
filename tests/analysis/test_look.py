"""Does a look show what the network computed, and frame what lies far out?"""

import dataclasses
import html.parser
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import regvit_jax
from regvit_jax.analysis.look.colours import component_colours, matched
from regvit_jax.analysis.look.far_out import far_out
from regvit_jax.analysis.look.opened import Photograph, open_models, open_photographs
from regvit_jax.analysis.look.seen import see
from regvit_jax.analysis.look.view import views_of
from regvit_jax.checkpoint import CheckpointInfo
from regvit_jax.errors import InputError
from regvit_jax.model import DeiT3
from regvit_jax.preprocess import Preprocess
from tests.analysis.conftest import TINY, call, random_params

GRID = (4, 6)
ATOL = 2e-5  # float32 norms of about 10, against float64


@pytest.fixture(scope="module")
def photos(pictures):
    return sorted(pictures.rglob("*.png"))[:3]


def traced_by(opened, images):
    run = jax.jit(lambda params, x: opened.model.apply({"params": params}, x, method="trace"))
    return run(opened.params, images)


def ratios(far: dict[int, float], layers: int = 3) -> np.ndarray:
    """Norms of which only those of the last layer are not all 1."""
    found = np.ones((layers, GRID[0] * GRID[1]))
    for patch, value in far.items():
        found[-1, patch] = value
    return found


def test_a_few_large_patches_that_stand_alone_are_framed():
    found = far_out(ratios({3: 2.5, 14: 4.0}), GRID)
    assert np.flatnonzero(found.is_framed).tolist() == [3, 14]
    assert found.sentence == (
        "2 of 24 patches are far out: 2.5 to 4.0 times the median norm after the last block."
    )


def test_they_are_framed_where_they_are_furthest_out():
    norms = ratios({3: 2.0})
    norms[1, 3] = 5.0
    found = far_out(norms, GRID)
    assert found.layer == 1
    assert "5.0 times the median norm after block 0" in found.sentence


@pytest.mark.parametrize(
    ("far", "words"),
    [
        ({}, "No patch is far out"),
        ({7: 2.0, 8: 2.0}, "side by side"),
        (dict.fromkeys((0, 2, 4, 12, 14, 16), 2.0), "too many for outlier tokens"),
    ],
)
def test_regions_and_content_are_not_framed_and_the_sentence_says_why(far, words):
    found = far_out(ratios(far), GRID)
    assert not found.is_framed.any()
    assert words in found.sentence


def test_patches_that_were_as_large_before_the_blocks_are_not_framed():
    norms = ratios({3: 2.0})
    norms[0, 3] = 1.9
    found = far_out(norms, GRID)
    assert not found.is_framed.any()
    assert "1.9 before the first" in found.sentence


def test_colours_are_the_principal_components_of_all_patches():
    features = np.random.default_rng(0).normal(size=(2, 30, 8)) * np.array([9, 6, 4, *[1] * 5])
    found = component_colours(features)
    flat = features.reshape(-1, 8) - features.reshape(-1, 8).mean(axis=0)
    expected = flat @ np.linalg.svd(flat, full_matrices=False)[2][:3].T
    for mine, theirs in zip(found.reshape(-1, 3).T, expected.T, strict=True):
        inside = (mine > 0) & (mine < 1)  # the tails are cut
        assert abs(np.corrcoef(mine[inside], theirs[inside])[0, 1]) > 1 - 1e-9
    assert (found.min(), found.max()) == (0, 1)


def test_another_models_colours_are_ordered_and_turned_like_the_first_ones():
    first = component_colours(np.random.default_rng(0).normal(size=(2, 30, 8)))
    other = np.stack([1 - first[..., 2], first[..., 0], 1 - first[..., 1]], axis=-1)
    np.testing.assert_allclose(matched(other, first), first, rtol=0, atol=1e-12)


def test_norms_and_attention_are_those_of_the_trace(tiny, photos):
    config, params = tiny
    info = CheckpointInfo(config, preprocess=Preprocess.square(32))
    (opened,) = open_models((DeiT3(config), params, info))
    seen = see(opened, open_photographs(photos), block=1)
    images = jnp.asarray(regvit_jax.load_images(photos, info))
    trace = traced_by(opened, images)
    streams = [trace.embedded, *(block.tokens for block in trace.blocks)]
    norms = np.stack([np.linalg.norm(np.asarray(x, np.float64), axis=-1) for x in streams], axis=1)
    np.testing.assert_allclose(seen.norms, norms, rtol=0, atol=ATOL)
    layout = seen.layout
    attn = np.asarray(trace.blocks[1].attn)[:, :, : layout.num_specials, layout.patches]
    expected = attn * layout.num_tokens
    np.testing.assert_allclose(seen.attention, expected, rtol=0, atol=ATOL)
    assert seen.queries == layout.special_names


def test_a_model_without_cls_shows_the_mean_patch_and_registers_that_stand_last(photos):
    config = dataclasses.replace(
        TINY, class_token=False, pooling="patches", num_registers=2, registers_last=True
    )
    info = CheckpointInfo(config, preprocess=Preprocess.square(32))
    (opened,) = open_models((DeiT3(config), random_params(config), info))
    seen = see(opened, open_photographs(photos[0]))
    assert seen.queries == ("mean patch", "register 0", "register 1")
    images = jnp.asarray(regvit_jax.load_images(photos[0], info))
    trace = traced_by(opened, images)
    attn = np.asarray(trace.blocks[-1].attn) * seen.layout.num_tokens
    n = seen.layout.num_patches
    expected = np.concatenate(
        [attn[:, :, :n, :n].mean(axis=2, keepdims=True), attn[:, :, n:, :n]], 2
    )
    np.testing.assert_allclose(seen.attention, expected, rtol=0, atol=ATOL)


def test_a_planted_outlier_is_framed_and_the_plain_model_has_none(checkpoints, photos):
    models = open_models([checkpoints["plain"], checkpoints["planted"]])
    photographs = open_photographs(photos)
    views = views_of(photographs, [see(model, photographs) for model in models])
    assert not any(row[0].is_framed.any() for row in views.views)
    assert any(row[1].is_framed.any() for row in views.views)


def test_one_command_makes_a_picture_and_a_page(checkpoints, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ("look", photos[0], "--checkpoint", checkpoints["plain"], checkpoints["registers"])
    for name in ("look-picture_000", "look-picture_000-2"):
        assert call(monkeypatch, *command) == 0
        assert f"Page: {name}/look.html" in capsys.readouterr().out
        assert {p.name for p in (tmp_path / name).iterdir()} == {"look.html", "picture_000.png"}
    page = (tmp_path / name / "look.html").read_text()
    images: list[str] = []
    parser = html.parser.HTMLParser()
    parser.handle_starttag = lambda tag, found: images.extend(v for k, v in found if k == "src")
    parser.feed(page)
    # Photograph, norms, colours, CLS and 4 layers for each model; 4 registers.
    assert len(images) == 2 * 8 + 4
    assert all(source.startswith("data:image/") for source in images)
    with Image.open(tmp_path / name / "picture_000.png") as picture:
        assert picture.width > 1000


def test_photographs_of_one_name_have_pictures_of_their_own(
    checkpoints, photos, tmp_path, monkeypatch
):
    (tmp_path / "other").mkdir()
    other = shutil.copy(photos[0], tmp_path / "other")
    out = tmp_path / "out"
    command = ("look", photos[0], other, "--checkpoint", checkpoints["plain"], "--out", out)
    assert call(monkeypatch, *command) == 0
    files = {path.name for path in out.iterdir()}
    assert files == {"look.html", "picture_000.png", "picture_000-2.png"}


def test_a_folder_with_other_things_is_left_alone(
    checkpoints, photos, tmp_path, monkeypatch, capsys
):
    command = ("look", photos[0], "--checkpoint", checkpoints["plain"], "--out", tmp_path)
    (tmp_path / "mine.txt").write_text("mine")
    assert call(monkeypatch, *command) == 2
    assert "holds other things" in capsys.readouterr().err
    (tmp_path / "look.html").write_text("an earlier look")
    assert call(monkeypatch, *command) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert call(monkeypatch, *command, "--overwrite") == 0
    assert (tmp_path / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("no.png", "--checkpoint", "x"), "There is no image no.png"),
        (("--checkpoint", "x", "photo.jpg"), "photo.jpg is an image"),
        (("--checkpoint", "x"), "Name a photograph"),
    ],
)
def test_a_slip_is_answered_with_what_to_do(arguments, words, monkeypatch, capsys):
    assert call(monkeypatch, "look", *arguments) == 2
    assert words in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_a_line_in_a_notebook_shows_norms_attention_and_the_look(checkpoints, photos):
    model = checkpoints["registers"]
    norms = regvit_jax.norms(photos, model)
    assert norms.cls.shape == (3, 4)
    assert norms.registers.shape == (3, 4, 4)
    assert norms.patches.shape == (3, 4, 8, 8)
    for figure in (
        regvit_jax.look(photos, [checkpoints["plain"], model], index=2),
        regvit_jax.show_attention(str(photos[0]), str(model), block=0),
    ):
        assert figure._repr_png_().startswith(b"\x89PNG")


def test_what_is_no_model_or_photograph_is_named(checkpoints, photos):
    with pytest.raises(InputError, match="do not say how a photograph is prepared"):
        regvit_jax.look(photos, regvit_jax.load(checkpoints["plain"]))
    with pytest.raises(InputError, match="named twice"):
        regvit_jax.look(photos, [checkpoints["plain"]] * 2)
    with pytest.raises(InputError, match="Expected one model, got 2"):
        regvit_jax.norms(photos, [checkpoints["plain"], checkpoints["registers"]])
    with pytest.raises(InputError, match="No such blocks"):
        regvit_jax.show_attention(photos, checkpoints["plain"], block=3)
    with pytest.raises(InputError, match="index is from 0 to 2"):
        regvit_jax.look(photos, checkpoints["plain"], index=3)


def test_pictures_in_memory_have_names(photos):
    with Image.open(photos[0]) as image:
        named = open_photographs([image, np.zeros((9, 9, 3), np.uint8)])
    assert [photograph.name for photograph in named] == ["picture_000.png", "image 2"]
    assert isinstance(named[0], Photograph)
