"""Does the page to explore hold what the network computed, and do its controls show it?"""

import base64
import dataclasses
import html.parser
import json
import re
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import regvit_jax
from regvit_jax.analysis.explore import packed as packing
from regvit_jax.analysis.explore.command import explorer
from regvit_jax.analysis.explore.packed import kept_blocks, packed
from regvit_jax.analysis.explore.record import Record, Recorder
from regvit_jax.analysis.look.opened import open_models, open_photographs
from regvit_jax.checkpoint import CheckpointInfo
from regvit_jax.config import VARIANTS
from regvit_jax.errors import InputError
from regvit_jax.model import DeiT3
from regvit_jax.preprocess import Preprocess
from tests.analysis.browser import Browser
from tests.analysis.conftest import TINY, call, random_params

ATOL = 1e-5  # float32 attention and cosines, another program


@pytest.fixture(scope="module")
def photos(pictures):
    return sorted(pictures.rglob("*.png"))[:2]


def traced(checkpoint, photo):
    """Attention (l, k, t, t) of the photograph, by `load` and `trace`."""
    model, params = regvit_jax.load(checkpoint)
    images = jnp.asarray(regvit_jax.load_images(photo, checkpoint))
    trace = jax.jit(lambda p, x: model.apply({"params": p}, x, method="trace"))(params, images)
    return np.stack([np.asarray(block.attn[0]) for block in trace.blocks]), trace


def some_record() -> Record:
    generator = np.random.default_rng(0)
    attention = generator.dirichlet(np.full(9, 0.3), (3, 2, 9)).astype(np.float32)
    similarity = generator.uniform(-1, 1, (9, 8)).astype(np.float32)
    norms = generator.uniform(1, 9, (4, 9)).astype(np.float32)
    return Record(np.zeros((8, 8, 3), np.uint8), attention, similarity, norms)


def test_a_record_holds_cls_registers_and_patches_in_this_order(photos):
    config = dataclasses.replace(TINY, num_registers=2, registers_last=True)
    info = CheckpointInfo(config, preprocess=Preprocess.square(32))
    (opened,) = open_models((DeiT3(config), random_params(config), info))
    (photograph,) = open_photographs(photos[0])
    record = Recorder(opened, [0, 2]).record(photograph)
    images = jnp.asarray(regvit_jax.load_images(photos[0], info))
    run = jax.jit(lambda p, x: opened.model.apply({"params": p}, x, method="trace"))
    trace = run(opened.params, images)
    order = [0, 65, 66, *range(1, 65)]
    for kept, block in zip(record.attention, (trace.blocks[0], trace.blocks[2]), strict=True):
        attn = np.asarray(block.attn)[0][:, order][:, :, order]
        np.testing.assert_allclose(kept, attn, rtol=0, atol=ATOL)
    features = np.asarray(trace.normed, np.float64)[0, order]
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(record.similarity, unit @ unit[3:].T, rtol=0, atol=ATOL)
    assert record.norms.shape == (4, 67)


@pytest.mark.parametrize("levels", [255, 28])
def test_weights_are_kept_to_within_half_a_level_of_their_root(levels):
    record = some_record()
    content = record.content(levels)
    size = record.attention.size
    weights = (np.frombuffer(content[:size], np.uint8) / levels) ** 2
    roots = np.abs(np.sqrt(weights) - np.sqrt(record.attention.ravel()))
    assert roots.max() <= 0.5 / levels + 1e-6
    similarity = np.frombuffer(content[size : size + 72], np.uint8) / 127.5 - 1
    np.testing.assert_allclose(
        similarity, record.similarity.ravel(), rtol=0, atol=0.5 / 127.5 + 1e-6
    )
    np.testing.assert_array_equal(np.frombuffer(content[size + 72 :], "<f4"), record.norms.ravel())


def test_levels_are_as_fine_as_the_size_allows(monkeypatch):
    records = [some_record()] * 2
    levels, texts = packed(records)
    assert levels == 255
    assert zlib.decompress(base64.b64decode(texts[0]), wbits=-15) == records[0].content(255)
    monkeypatch.setattr(packing, "MAX_BYTES", sum(map(len, texts)) - 1)
    levels, coarser = packed(records)
    assert levels < 255
    assert sum(map(len, coarser)) < sum(map(len, texts))


def test_four_photographs_and_two_small_models_keep_every_block_and_larger_ones_some():
    small, large = VARIANTS["small"], VARIANTS["large"]
    assert kept_blocks(small, 201, 1 / 8) == list(range(12))
    kept = kept_blocks(large, 201, 1 / 8)
    assert kept[-1] == 23
    assert len(kept) * large.num_heads * 201**2 <= packing.MAX_WEIGHTS / 8


class Sources(html.parser.HTMLParser):
    """Whatever a page could ask the network for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("src", "href") and value]


def test_one_command_makes_one_file_that_asks_for_nothing(
    checkpoints, photos, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    command = ("explore", *photos, "--checkpoint", checkpoints["plain"], checkpoints["registers"])
    assert call(monkeypatch, *command) == 0
    assert "Page: explore-picture_000.html" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["explore-picture_000.html"]
    text = (tmp_path / "explore-picture_000.html").read_text()
    assert all(source.startswith("data:") for source in Sources(text).found)
    meta = json.loads(re.search(r'id="meta">(.*?)</script>', text)[1])
    assert [model["registers"] for model in meta["models"]] == [0, 4]
    named = ("--out", "explore-picture_000.html")
    assert call(monkeypatch, *command, *named) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert call(monkeypatch, *command, *named, "--overwrite") == 0


def test_a_page_of_too_many_photographs_is_refused(checkpoints, photos):
    with pytest.raises(InputError, match="at most 8 photographs, got 9"):
        explorer([photos[0]] * 9, checkpoints["plain"])


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory, checkpoints, photos):
    path = tmp_path_factory.mktemp("explored") / "explore.html"
    path.write_text(explorer(photos, [checkpoints["plain"], checkpoints["registers"]]))
    return path


def said(browser, model: int = 0) -> str:
    return browser.settled(f"document.querySelectorAll('.said')[{model}].textContent")


def opened(browser, page, **how) -> None:
    browser.open(page, **how)
    for _ in range(200):
        if said(browser):
            return
    pytest.fail("the page never showed a token")


def test_a_patch_under_the_mouse_is_shown_in_both_models(browser, page):
    opened(browser, page)
    browser.point(".map.photo", 2.5 / 8, 5.5 / 8)
    for model in (0, 1):
        assert said(browser, model).startswith("Patch (5, 2), block 2, all heads:")
    assert browser.requests() == [page.as_uri()]
    assert not browser.complaints()


def test_the_brightest_patch_is_the_one_that_the_network_attends_to_most(
    browser, page, checkpoints, photos
):
    attn, _ = traced(checkpoints["registers"], photos[0])
    opened(browser, page)
    browser.point(".map.photo", 2.5 / 8, 5.5 / 8)
    token = 5 + 5 * 8 + 2
    mean = attn[2].mean(axis=0)
    for name, weights in (("to", mean[token]), ("by", mean[:, token])):
        pixels = browser.settled(
            f"(() => {{ const c = document.querySelectorAll('.map.{name} canvas')[1]; "
            "return [...c.getContext('2d').getImageData(0, 0, 8, 8).data]; })()"
        )
        colours = np.array(pixels).reshape(64, 4)[:, :3].sum(axis=1)
        at = int(weights[5:].argmax())
        assert colours[at] >= colours.max() - 12  # weights are rounded: two may share the top
    share = 100 * mean[token, 5:].sum()
    assert abs(float(re.search(r"([\d.]+)\s%", said(browser, 1))[1]) - share) < 1.5


def test_the_keyboard_alone_reaches_every_token_block_head_and_photograph(browser, page):
    opened(browser, page)
    browser.value("document.querySelector('.map.photo').focus()")
    browser.press("ArrowDown")
    browser.press("ArrowLeft")
    assert said(browser).startswith("Patch (5, 3), block 2")
    browser.press("[")
    assert "block 1" in said(browser)
    browser.press("h")
    assert "head 0" in said(browser)
    browser.press("c")
    assert said(browser).startswith("CLS, block 1, head 0")
    browser.press("r")
    browser.press("r")
    assert said(browser) == "This model has no register 1."
    assert said(browser, 1).startswith("Register 1, block 1")
    before = browser.value("document.querySelector('.map.photo img').src")
    browser.press("p")
    assert browser.settled("document.querySelector('.map.photo img').src") != before
    assert not browser.complaints()


def test_a_click_keeps_a_patch_until_escape(browser, page):
    opened(browser, page)
    browser.point(".map.photo", 0.5 / 8, 0.5 / 8, click=True)
    browser.point(".map.photo", 7.5 / 8, 7.5 / 8)
    assert said(browser).startswith("Patch (0, 0)")
    browser.press("Escape")
    browser.point(".map.photo", 6.5 / 8, 7.5 / 8)
    assert said(browser).startswith("Patch (7, 6)")


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_shows_the_page_without_scrolling_sideways(browser, page, dark):
    opened(browser, page, width=360, dark=dark)
    assert browser.value("document.documentElement.scrollWidth") <= 360
    light = browser.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light != dark
