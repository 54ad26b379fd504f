"""Can everybody use the page: with a keyboard, a screen reader, in the dark, on paper?"""

import re
from pathlib import Path

import pytest

import regvit_jax.analysis.report
from regvit_jax.analysis.options import ReportOptions
from regvit_jax.analysis.report.contents import Picture, collect
from regvit_jax.analysis.report.page import page as render
from tests.analysis.test_report import PIXEL, Page, write_illustrated, write_results

STYLE = Path(regvit_jax.analysis.report.__file__).with_name("style.css.jinja")
AA = 4.5
"""Least contrast of normal text, by WCAG 2.1 AA."""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Page:
    folder = tmp_path_factory.mktemp("page")
    norms = write_illustrated(folder / "norms")
    again = write_results(folder / "again")
    options = ReportOptions(results=(norms, again), out=folder / "report.html")
    return Page(render(collect(options)))


def test_the_page_has_one_language_title_and_main_part(page):
    assert page.of("html") == [{"lang": "en"}]
    assert len(page.of("main")) == len(page.of("h1")) == len(page.of("title")) == 1
    assert page.html.startswith("<!DOCTYPE html>")


def test_identifiers_are_unique_and_links_lead_somewhere(page):
    names = page.values("id")
    assert len(set(names)) == len(names)
    assert {"norms", "norms-2", "claims", "citation"} <= set(names)
    targets = [link[1:] for link in page.values("href") if link.startswith("#")]
    assert set(targets) <= set(names)
    for attribute in ("data-copies", "aria-labelledby"):
        assert set(page.values(attribute)) <= set(names)


def test_the_first_link_skips_to_the_content(page):
    first = page.of("a")[0]
    assert first == {"class": "skip", "href": "#content"}
    assert page.of("main") == [{"id": "content", "tabindex": "-1"}]


def test_headings_leave_out_no_level(page):
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))


def test_every_picture_has_words_and_a_button_that_enlarges_it(page):
    pictures = page.of("img")
    assert len(pictures) == 4
    assert all(picture["alt"] and picture["src"].startswith("data:image/") for picture in pictures)
    buttons = [b for b in page.of("button") if "enlarge" in b.get("class", "")]
    assert [b["aria-label"] for b in buttons] == [
        "Enlarge: Figure norm_maps.png",  # the page begins with it
        "Enlarge: Figure norms.png",
        "Enlarge: Figure norm_maps.png",
        "Enlarge: Norms",
    ]
    assert page.html.index("Image by image") < page.html.rindex("Figure norm_maps.png")


def test_every_button_has_a_name(page):
    for text, attributes in re.findall(r"<button([^>]*)>(.*?)</button>", page.html):
        assert "aria-label" in text or re.sub(r"<[^>]*>", "", attributes).strip()


def test_what_scrolls_can_be_reached_with_the_keyboard(page):
    boxes = [values for _, values in page.tags if values.get("class") in ("scroll", "stage")]
    boxes += page.of("pre")
    assert len(boxes) > 5
    assert {(box["tabindex"], box["role"]) for box in boxes} == {("0", "region")}
    labels = [box["aria-label"] for box in boxes]
    assert len(set(labels)) == len(labels)
    assert all(labels)


def test_tables_name_their_columns_and_rows(page):
    assert {values["scope"] for values in page.of("th")} == {"col", "row"}
    assert page.html.count("<table") == page.html.count("<thead")


def test_every_claim_is_a_row_with_its_rule(page):
    rows = [name for name in page.values("id") if name.startswith("claim-")]
    assert sorted(rows) == sorted(f"claim-{number}" for number in range(1, 28))
    folded = page.html.index('class="folded"')
    places = [page.html.index(f'id="{row}" class=') for row in rows]
    unjudged = [place for place in places if 'class="not-judged"' in page.html[place : place + 60]]
    assert len(unjudged) == 8
    assert all((place > folded) == (place in unjudged) for place in places)
    assert page.html.count("<summary>The rule") == 19
    assert "regvit-analyze lost --checkpoint" in page.text
    assert "`" not in page.text.split("BibTeX")[0]


def test_colours_are_told_apart_in_the_light_and_in_the_dark():
    style = STYLE.read_text()
    for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL)[:2]:
        colours = dict(re.findall(r"--(\w+): (#\w{6})", block))
        assert len(colours) == 9
        for ground in ("page", "card"):
            for ink in ("text", "quiet", "accent", "found", "absent", "unsure"):
                contrast = _contrast(colours[ink], colours[ground])
                assert contrast >= AA, (ink, ground, contrast)


def test_the_dark_scheme_is_for_screens_only():
    assert "@media screen and (prefers-color-scheme: dark)" in STYLE.read_text()


def test_a_picture_is_as_large_as_it_was_drawn():
    assert Picture("Title?", "Text.", PIXEL, "image/png").size == (1, 1)
    header = PIXEL[:16] + (1600).to_bytes(4, "big") + (2000).to_bytes(4, "big")
    picture = Picture("Title", "Text.", header, "image/png")
    assert picture.size == (960, 1200)  # 160 dots an inch become 96
    assert picture.is_tall
    assert picture.sentence == "Title. Text."
    assert Picture("Training", "", b"<svg/>", "image/svg+xml").size is None


def _contrast(one: str, other: str) -> float:
    """WCAG's ratio of luminances."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
