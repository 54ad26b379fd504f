"""Does the page work in a browser, by itself, on a phone and with the keyboard alone?"""

import pytest

from regvit_jax.analysis.options import ReportOptions
from regvit_jax.analysis.report.contents import collect
from regvit_jax.analysis.report.page import page as render
from tests.analysis.browser import Browser
from tests.analysis.test_report import write_illustrated

FOCUS = "(e => e.getAttribute('aria-label') || e.textContent.trim())(document.activeElement)"
IS_OPEN = "document.querySelector('dialog').open"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    norms = write_illustrated(folder / "norms")
    path = folder / "report.html"
    path.write_text(render(collect(ReportOptions(results=(norms,), out=path))))
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize("dark", [False, True])
def test_a_page_complains_of_nothing_and_asks_for_nothing(browser, report, dark):
    browser.open(report, dark=dark)
    assert browser.complaints() == []
    assert browser.requests() == [report.as_uri()]


def test_dark_mode_is_dark_and_light_mode_light(browser, report):
    shades = []
    for dark in (False, True):
        browser.open(report, dark=dark)
        colour = browser.value("getComputedStyle(document.body).backgroundColor")
        shades.append(sum(int(part) for part in colour.strip("rgba()").split(",")[:3]) / 3)
    assert shades[0] > 200
    assert shades[1] < 60


def test_a_phone_scrolls_down_but_not_sideways(browser, report):
    browser.open(report, width=360)
    assert browser.value("document.documentElement.scrollWidth") <= 360
    assert browser.value("document.documentElement.scrollHeight") > 800


def test_the_keyboard_alone_skips_to_the_content_and_enlarges_figures(browser, report):
    browser.open(report)
    browser.press("Tab")
    assert "Skip" in browser.value(FOCUS)
    browser.press("Enter")
    assert browser.value("document.activeElement.id") == "content"
    for _ in range(100):
        browser.press("Tab")
        if browser.value(FOCUS).startswith("Enlarge"):
            break
    figure = browser.value(FOCUS)
    assert figure.startswith("Enlarge: Figure ")
    browser.press("Enter")
    assert browser.value(IS_OPEN)
    title = browser.value("document.querySelector('dialog').textContent")
    browser.press("ArrowRight")
    assert browser.value("document.querySelector('dialog').textContent") != title
    browser.press("Escape")
    assert not browser.value(IS_OPEN)
    assert browser.value(FOCUS).startswith("Enlarge: Figure ")
