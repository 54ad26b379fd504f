"""Do a report's methods say what was assumed of each model?"""

import pytest

from regvit_jax.analysis.options import ReportOptions
from regvit_jax.analysis.report.page import write_report
from regvit_jax.convert.decision import Assumed
from tests.analysis.test_report import Page, model, write_results

HEADS = Assumed("attention heads", 6, "--num-heads", "6 heads", "as in models of this width")
PIXELS = Assumed("mean", [0.5], "--mean", "ImageNet mean and std", "as published")


def methods(folder, sources):
    """What the page and the Markdown file say under "Methods", as text."""
    models = [model(f"m{i}", 0, "found") | {"source": each} for i, each in enumerate(sources)]
    results = write_results(folder / "norms", models=models)
    out = folder / "report.html"
    write_report(ReportOptions(results=(results,), out=out))
    page = Page(out.read_text(encoding="utf-8")).text.split(" versions")[0]
    text = out.with_suffix(".md").read_text(encoding="utf-8")
    return page, text[text.index("## Methods") : text.index("## Caveats")]


def test_methods_say_what_was_assumed_and_how_to_say_otherwise(tmp_path):
    source = {"sha256": "abc", "assumed": [HEADS._asdict(), PIXELS._asdict()]}
    expected = (
        "Assumed of m0, because no file says it: 6 heads (as in models of this width; otherwise: "
        "--num-heads); ImageNet mean and std (as published; otherwise: --mean)."
    )
    for text in methods(tmp_path, [source, {"sha256": "abc"}]):
        assert expected in " ".join(text.split())
        assert text.count("Assumed of") == 1


@pytest.mark.parametrize("source", [{}, None, {"assumed": []}, {"assumed": None}])
def test_nothing_is_said_where_nothing_was_assumed(tmp_path, source):
    assert all("Assumed" not in text for text in methods(tmp_path, [source]))


@pytest.mark.parametrize(
    "odd",
    [
        "6 heads",
        ["6 heads", None, 3],
        [{"what": "attention heads", "value": 6}],
        {"what": "heads", "value": [6]},
        [{"text": None, "what": ["x"], "option": {}, "why": 3}],
        [[]],
        7,
    ],
)
def test_another_form_is_shown_as_it_stands(tmp_path, odd):
    assert all("Assumed of m0" in text for text in methods(tmp_path, [{"assumed": odd}]))
