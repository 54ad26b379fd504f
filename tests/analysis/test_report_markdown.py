"""Does the Markdown file say what the page says, and do its links lead to the figures?"""

import re
from urllib.parse import unquote

import pytest

from regvit_jax.analysis.options import ReportOptions
from regvit_jax.analysis.report.markdown import _SPECIAL_IN_BRACKETS, _escaped
from regvit_jax.analysis.report.page import write_report
from regvit_jax.errors import InputError
from tests.analysis.test_report import estimate, model, write_results


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("markdown results")
    models = [model("reg|0", 0, "found"), model("reg_4", 4, "not found")]
    change = {
        "outliers/last/3_x_median/share": estimate(-0.02),
        "norm_extremes/largest_over_median": estimate(-1.0, 0.1),
    }
    pairs = [{"from": "reg|0", "to": "reg_4", "differences": change}]
    norms = write_results(folder / "my norms", models=models, comparisons=pairs)
    out = folder / "pages" / "report.html"
    write_report(ReportOptions(results=(norms,), out=out))
    return out


def test_tables_are_whole(written):
    text = written.with_suffix(".md").read_text(encoding="utf-8")
    tables = re.findall(r"(?:^\|.*\|\n?)+", text, re.MULTILINE)
    assert len(tables) == 7
    for table in tables:
        cells = [len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()]
        assert len(set(cells)) == 1, table
        assert set(table.splitlines()[1]) <= set("| -")


def test_figures_are_found_from_the_file(written):
    text = written.with_suffix(".md").read_text(encoding="utf-8")
    links = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", text)
    assert links == ["../my%20norms/norms.png"]
    assert all((written.parent / unquote(link)).is_file() for link in links)


def test_it_says_what_the_page_says(written):
    text = written.with_suffix(".md").read_text(encoding="utf-8")
    page = re.sub(r"<[^>]+>|\s+", " ", written.read_text(encoding="utf-8"))
    page = re.sub(r"\s+", " ", page)
    headings = ("Models", "The study's claims", "Token norms", "Methods", "Caveats", "Citation")
    for heading in headings:
        assert f"\n## {heading}\n" in text
        assert heading in page.replace("&#39;", "'")
    for claim in range(1, 28):
        assert re.search(rf"^\| {claim} \| ", text, re.MULTILINE)
        assert f" {claim}. " in page
    assert text.count("\n- Claim ") == 19
    assert "-2.00 [-3.00, -1.00] points, n 50" in text
    assert "reg\\|0" in text
    assert text.index("```bibtex") < text.index("@software") < text.index("@inproceedings")


@pytest.mark.parametrize(
    ("plain", "expected"),
    [
        ("a|b", r"a\|b"),
        ("reg_0 and _x_", r"reg_0 and \_x\_"),
        ("*bold* <tag>", r"\*bold\* \<tag>"),
        ("[0, 1] [a](b)", r"[0, 1] [a\](b)"),
        ("run `a_b --x *` now", "run `a_b --x *` now"),
        ("a ` b", r"a \` b"),
        ("$x^2$ &amp; ~a~", r"\$x^2\$ \&amp; \~a\~"),
        ("two\nlines", "two lines"),
    ],
)
def test_text_shows_as_it_is(plain, expected):
    assert _escaped(plain) == expected


def test_brackets_of_a_name_do_not_end_a_figures_alternative_text():
    assert _escaped("a] [b](c)", _SPECIAL_IN_BRACKETS) == r"a\] \[b\](c)"


def test_the_html_file_is_not_written_over(tmp_path):
    norms = write_results(tmp_path / "norms")
    with pytest.raises(InputError, match=r"write report\.html"):
        write_report(ReportOptions(results=(norms,), out=tmp_path / "report.md"))
