"""Is the page whole by itself, and does it say what the results say?"""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from regvit_jax.analysis.engine.results import RESULTS_FILE
from regvit_jax.analysis.options import ReportOptions
from regvit_jax.analysis.plotting import new_figure, save_figure
from regvit_jax.analysis.report.contents import collect
from regvit_jax.analysis.report.opening import sentences
from regvit_jax.analysis.report.page import write_report
from regvit_jax.analysis.report.training import training_hours
from regvit_jax.errors import InputError

# The smallest PNG: one transparent pixel.
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360606060000000050001a5f64540"
    "0000000049454e44ae426082"
)


def estimate(value, spread=0.01, n=50):
    return {"value": value, "n": n, "interval": [value - spread, value + spread]}


DEFINITIONS = {"quantile_98": "largest 2 %", "3_x_median": "3 x median"}
MEASURED = {
    "outliers": {
        "title": "Definitions of an outlier side by side",
        "axes": ["tensor", "definition"],
        "on_page": True,
        "words": DEFINITIONS | {"last": "after the last block"},
        "quantities": {
            "share": {"title": "patches that are outliers", "is_share": True, "on_page": True},
            "cut": {"title": "norm of an outlier", "is_share": False, "on_page": True},
            "num": {"title": "hidden", "is_share": False, "on_page": False},
        },
    },
    "norm_tests": {
        "title": "Tests that can fail",
        "axes": ["tensor"],
        "on_page": True,
        "words": {},
        "quantities": {
            "dip_all_p": {"title": "dip test, p", "is_share": False, "on_page": True},
        },
    },
}


def fixed(value):
    return {"value": value, "n": 50, "interval": None}


def model(label, registers, answer):
    numbers: dict = {"norm_tests/last/dip_all_p": fixed(1e-6)}
    for name in DEFINITIONS:
        place = f"outliers/last/{name}"
        numbers |= {f"{place}/share": estimate(0.0342), f"{place}/cut": fixed(12.5)}
        numbers[f"{place}/num"] = fixed(777.0)
    return {
        "label": label,
        "title": f"{label} ({registers} registers)",
        "checkpoint": f"/models/{label}",
        "is_twin": False,
        "num_registers": registers,
        "num_parameters": 22_059_496,
        "metrics": {"top1": {"share": 0.8105, "low": 0.8005, "high": 0.8205, "n": 2000}},
        "model": {"depth": 3},
        "preprocess": {"height": 32},
        "source": {"sha256": "abc123"},
        "verdict": {"answer": answer, "reason": "Because of <tests>."},
        "group": None,
        "numbers": numbers,
        "remarks": [],
    }


def write_illustrated(folder: Path) -> Path:
    """Results with one figure for all images, and one of single images."""
    pictures = [
        {"file": name, "vector": "", "title": f"Figure {name}", "caption": "A <caption>."}
        for name in ("norms.png", "norm_maps.png")
    ]
    written = write_results(folder, figures=pictures)
    (written / "norm_maps.png").write_bytes(PIXEL)
    return written


def write_results(folder: Path, **changes) -> Path:
    folder.mkdir()
    (folder / "norms.png").write_bytes(PIXEL)
    results = {
        "format": 2,
        "analysis": "norms",
        "configuration": {"data": "digits", "seed": 0, "image_size": None},
        "data": {"name": "digits-val", "split": "val", "num_images": 50, "skipped": ["a", "b"]},
        "models": [model("reg0", 0, "found"), model("reg4", 4, "not found")],
        "about": {
            "heading": "Token norms",
            "text": "Outlier tokens are long.",
            "verdict": "outlier tokens",
            "per_image": ["norm_maps"],
        },
        "measured": MEASURED,
        "lead": [
            {
                "key": "outliers/last/3_x_median/share",
                "title": "patches above 3 x the median norm",
                "is_share": True,
            }
        ],
        "remarks": [],
        "comparisons": [],
        "figures": [
            {
                "file": "norms.png",
                "vector": "norms.svg",
                "title": "Norms",
                "caption": "All of them.",
            }
        ],
        "tables": [],
        "versions": {"jax": "0.10.2"},
        "files": ["norms.png"],
    }
    (folder / RESULTS_FILE).write_text(json.dumps(results | changes))
    return folder


class Page(HTMLParser):
    """Text, links, headings and identifiers of a page whose tags are all closed."""

    VOID = frozenset({"meta", "link", "img", "br", "hr"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html, self.text = html, ""
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)
        assert not self.open

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [values for name, values in self.tags if name == tag]

    def values(self, attribute: str) -> list[str]:
        return [values[attribute] or "" for _, values in self.tags if attribute in values]

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def write(tmp_path, **options) -> Page:
    out = tmp_path / "pages" / "report.html"
    write_report(ReportOptions(out=out, **options))
    written = {path.name for path in out.parent.iterdir()}
    assert written - {"report_training.svg"} == {"report.html", "report.md"}
    return Page(out.read_text(encoding="utf-8"))


def test_the_page_holds_the_numbers_and_needs_nothing_else(tmp_path):
    page = write(tmp_path, results=(write_results(tmp_path / "norms"),))
    for text in (
        "81.0 [80.0, 82.0]",
        "2000",
        "22,059,496",
        "after the last blocklargest 2 %3.42 [2.42, 4.42]12.500",
        "patches above 3 x the median norm3.42 [2.42, 4.42] %, n 50",
        "Because of <tests>.",
        "not found",
        "1.0e-06",
        "2 unreadable images were left out",
        "abc123",
        "The images are synthetic",
        "jax",
    ):
        assert text in re.sub(r"\s+", " ", page.text), text
    assert "777" not in page.text
    links = [*page.values("src"), *page.values("href")]
    for link in links:
        assert link.startswith(("data:", "#")), link
        if link.startswith("#"):
            assert link[1:] in page.values("id")
    for name in ("url(", "@import", "srcset", "fetch(", "XMLHttpRequest"):
        assert name not in page.html
    policy = next(meta["content"] for meta in page.of("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_an_analysis_that_the_tool_does_not_know_is_shown_like_its_own(tmp_path):
    about = {"heading": "Another <question>", "text": "Why?", "verdict": "", "per_image": []}
    models = [{k: v for k, v in model("reg0", 0, "found").items() if k != "verdict"}]
    folder = write_results(tmp_path / "another", analysis="another", models=models, about=about)
    page = write(tmp_path, results=(folder,))
    for text in ("Another <question>", "Why?", "All of them.", "patches above 3 x"):
        assert text in page.text


def test_headline_numbers_have_interval_count_and_paired_difference(tmp_path):
    corloc, iou = estimate(0.25, 0.05, 80), estimate(0.4, 0.02, 80)
    numbers = {"lost/corloc": corloc, "lost/best_iou": iou}
    models = [
        {k: v for k, v in model(f"reg{i}", i, "found").items() if k != "verdict"}
        | {"numbers": numbers}
        for i in (0, 4)
    ]
    change = {"lost/corloc": estimate(-0.1, 0.02, 80)}
    pair = {"from": "reg0", "to": "reg4", "differences": change}
    baseline = {"name": "central_box", "corloc": estimate(0.3), "mean_best_iou": estimate(0.35)}
    lost = write_results(
        tmp_path / "lost",
        analysis="lost",
        models=models,
        comparisons=[pair],
        baselines=[baseline],
        measured={},
        lead=[
            {"key": "lost/corloc", "title": "LOST: CorLoc", "is_share": True},
            {"key": "lost/best_iou", "title": "LOST: best overlap", "is_share": False},
        ],
        remarks=["Central box: CorLoc 30.0 % [29.0, 31.0]"],
    )
    headline = {
        "question": "lost",
        "title": "LOST: CorLoc",
        "is_share": True,
        "values": {"reg0": corloc},
        "differences": {"reg4": estimate(-0.1, 0.02, 80)},
    }
    compare = write_results(
        tmp_path / "compare",
        analysis="compare",
        data={"name": "results of other analyses", "skipped": []},
        models=models,
        first="reg0",
        headlines=[headline],
    )
    write(tmp_path, results=(lost, compare))
    html = (tmp_path / "pages" / "report.html").read_text(encoding="utf-8")
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))
    for expected in (
        "LOST: CorLoc 25.00 [20.00, 30.00] %, n 80 25.00 [20.00, 30.00] %, n 80",
        "LOST: best overlap 0.400 [0.380, 0.420], n 80",
        "Central box: CorLoc 30.0 % [29.0, 31.0]",
        "LOST: CorLoc reg0 → reg4 -10.00 [-12.00, -8.00] points, n 80",
        "lost: LOST: CorLoc 25.00 [20.00, 30.00] %, n 80 –",
        "Results of other analyses.",
    ):
        assert expected in text, expected


def test_runs_bring_accuracy_and_curves(tmp_path, checkpoints):
    run = tmp_path / "run"
    run.mkdir()
    (run / "model").symlink_to(checkpoints["registers"])
    lines = [{"step": step, "loss": 0.7 / step} for step in range(1, 40)]
    lines.append({"step": 39, "top1": {"share": 0.9, "low": 0.88, "high": 0.92, "n": 2000}})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run / "metrics.jsonl").write_text(text + '{"step": 40, "lo')
    page = write(tmp_path, results=(write_results(tmp_path / "norms"),), runs=(run,))
    assert "50.0 [40.0, 60.0]" in page.text
    curves = next(link for link in page.values("src") if link.startswith("data:image/svg+xml"))
    assert len(curves) > 10_000
    assert "](report_training.svg)" in (tmp_path / "pages" / "report.md").read_text()
    assert (tmp_path / "pages" / "report_training.svg").read_bytes().startswith(b"<?xml")


def test_missing_parts_are_named(tmp_path):
    with pytest.raises(InputError, match=r"no results\.json"):
        write(tmp_path, results=(tmp_path / "nothing",))
    folder = write_results(tmp_path / "norms")
    (folder / "norms.png").unlink()
    with pytest.raises(InputError, match=r"norms\.png is missing"):
        write(tmp_path, results=(folder,))
    (folder / RESULTS_FILE).write_text("{")
    with pytest.raises(InputError, match="damaged"):
        write(tmp_path, results=(folder,))
    with pytest.raises(InputError, match="--results"):
        write(tmp_path, results=())
    assert not (tmp_path / "pages").exists() or not list((tmp_path / "pages").iterdir())


def test_hours_of_training_are_those_of_the_log(tmp_path):
    lines = [
        {"step": 100, "loss": 1.0, "images_per_second": 10.0},
        {"step": 50, "loss": 1.0, "images_per_second": 10.0},  # resumed; these were computed before
        {"step": 300, "loss": 1.0, "images_per_second": 5.0},
        {"step": 300, "top1": {"share": 0.5, "n": 10}},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert training_hours(tmp_path) is None
    (tmp_path / "recipe.json").write_text(json.dumps({"data": {"batch_size": 36}}))
    assert training_hours(tmp_path) == pytest.approx((100 * 36 / 10 + 200 * 36 / 5) / 3600)
    assert training_hours(tmp_path / "nothing") is None


def test_a_report_begins_with_what_was_found(tmp_path):
    results = write_illustrated(tmp_path / "norms")
    contents = collect(ReportOptions(results=(results,), out=tmp_path / "report.html"))
    assert contents.answer[:2] == [
        "2 models were measured on 50 images of digits-val: reg0 and reg4.",
        "Outlier tokens: found in reg0; not found in reg4.",
    ]
    judged = [judgement.answer for judgement in contents.judgements if judgement.claim.judge]
    begins = f"Of the {len(judged)} published claims that a rule can judge, "
    assert contents.answer[2].startswith(begins)
    counts = map(int, re.findall(r"(\d+) (?:is|are)", contents.answer[2]))
    assert sum(counts) == len(judged)
    assert contents.opening is not None
    assert contents.opening.title == "Figure norm_maps.png"


def test_a_page_shows_the_drawing_that_follows_its_colours_where_there_is_one(tmp_path):
    results = write_illustrated(tmp_path / "norms")
    figure = new_figure(4.0, 2.0, "Title")
    figure.add_subplot().plot([0, 1], [0, 1])
    save_figure(figure, tmp_path, "drawing")
    drawing = (tmp_path / "drawing.svg").read_bytes()
    assert b"prefers-color-scheme:dark" in drawing
    assert b"#000000" not in drawing
    (results / "drawing.svg").write_bytes(drawing)
    document = json.loads((results / "results.json").read_text())
    document["figures"][0]["vector"] = "drawing.svg"
    (results / "results.json").write_text(json.dumps(document))
    contents = collect(ReportOptions(results=(results,), out=tmp_path / "report.html"))
    (shown,) = contents.sections[0].pictures
    assert (shown.media_type, shown.size) == ("image/svg+xml", (384, 192))
    (other,) = contents.sections[0].gallery
    assert other.media_type == "image/png"


def test_runs_are_counted_where_there_are_several_with_each_number_of_registers():
    def model(count, answer, is_twin=False):
        verdict = {"answer": answer}
        return {"label": "m", "num_registers": count, "is_twin": is_twin, "verdict": verdict}

    models = [model(0, "found"), model(4, "not found"), model(0, "not found", is_twin=True)]
    results = {"data": {}, "about": {"verdict": "Are there outlier tokens"}, "models": models}
    (alone,) = sentences([results], [], [])
    assert alone == "Outlier tokens: found in m; not found in m and an untrained control."
    models += [model(0, "found"), model(4, "cannot tell")]
    (counted,) = sentences([results], [], [])
    assert counted == (
        "Outlier tokens: found in 2 of 2 models without registers, 0 of 2 models with 4 registers "
        "(undecided in 1) and 0 of 1 untrained ones."
    )


def test_sections_of_one_analysis_are_told_apart_by_the_ends_of_their_folders(tmp_path):
    (tmp_path / "demo" / "pair").mkdir(parents=True)
    folders = [write_results(tmp_path / "demo" / name) for name in ("norms", "pair/norms")]
    contents = collect(ReportOptions(results=tuple(folders), out=tmp_path / "report.html"))
    assert [section.heading for section in contents.sections] == [
        "Token norms (demo/norms)",
        "Token norms (pair/norms)",
    ]
