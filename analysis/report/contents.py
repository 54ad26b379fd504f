"""What stands in a report, before it is a page or Markdown? Read from results, computed nowhere."""

import base64
import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from regvit_jax.analysis.claims.evidence import Evidence
from regvit_jax.analysis.claims.judgement import Judgement, judge_claims
from regvit_jax.analysis.engine.results import read_complete
from regvit_jax.analysis.engine.subjects import short_labels
from regvit_jax.analysis.options import ReportOptions
from regvit_jax.analysis.plotting import DPI
from regvit_jax.analysis.report.assumptions import assumed_sentences
from regvit_jax.analysis.report.citations import bibtex
from regvit_jax.analysis.report.models import by_name, model_facts, models_of, models_table
from regvit_jax.analysis.report.opening import FIRST_FIGURES, sentences
from regvit_jax.analysis.report.tables import TOGETHER, Table, tables_of
from regvit_jax.analysis.report.training import training_hours, training_svg
from regvit_jax.analysis.statistics.bootstrap import MIN_IMAGES
from regvit_jax.analysis.statistics.seeds import MIN_SEEDS
from regvit_jax.checkpoint import versions
from regvit_jax.data import EMBEDDED
from regvit_jax.errors import InputError

Json = Mapping[str, Any]

PNG = b"\x89PNG\r\n\x1a\n"
MAX_FIGURE_BYTES = 64 * 2**20
MAX_SVG = 3 * 2**20
"""Bytes; a larger drawing would make the page slow, and its PNG is shown."""
SVG_HEAD, SVG_TAG = b"<?xml", b"<svg"
_SVG_SIZE = re.compile(rb'<svg[^>]* width="([0-9.]{1,9})pt" height="([0-9.]{1,9})pt"')
TALL = 1.15
"""Height of a tall figure, in units of its width."""

INTRODUCTION = (
    "Registers are extra learned tokens that a vision transformer processes together with the "
    "patches of an image and whose output is discarded. They give the network a place to store "
    "global information, which it otherwise stores in a few background patches: their norms grow "
    "very large and spoil attention maps."
)
METHODS = (
    "Every image passes each network once; all models see the same images in the same order. A "
    "token's norm is the L2 norm over its channels, before the last LayerNorm unless said "
    "otherwise. Attention is the softmax of a block; maps are its weights on the patches, not "
    "renormalised. Intervals are 95 % expanded percentile intervals from resampling the images "
    "(Korn's and Graubard's for shares and quantiles of all patches, Wilson's for accuracy and "
    "CorLoc); differences of two models are paired. Outliers are told in the layer where the "
    "verdict finds them furthest out, or else after the last block; every section says which."
)
CLAIMS = (
    "The study is “Registers in Small Vision Transformers: A Reproducibility Study of Vision "
    "Transformers Need Registers” (Bach et al., TMLR 2025); claims from 20 on "
    "are those of the papers that they name. A verdict is about the models and the images that it "
    "names, and follows from a rule fixed beforehand: an interval must exclude the "
    f"null and rest on at least {MIN_IMAGES} images, all models or pairs must agree, and what is "
    "said of outliers needs a model that has them. What is said of registers needs at least "
    f"{MIN_SEEDS} training runs without and with them, and an interval over runs; otherwise the "
    "verdict is “in this pair of models”. Nothing is corrected for the number of claims."
)
EMBEDDED_DATA = (
    "The images are synthetic, designed so that small models learn them in minutes. Results on "
    "them say little about models of the published size on photographs, where outlier tokens were "
    "described. This page demonstrates the method; the same commands work with any checkpoint and "
    "any folder of images."
)
CAVEAT = (
    "Two uncertainties are kept apart. Intervals over images, paired where models are compared, "
    "say how sure a number is of these models. How another random start of the training would "
    "vary is told by intervals over training runs alone, where there are enough. “Not found” "
    "means no separate group in these images under the stated rule; it is no proof that there is "
    "none elsewhere."
)


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure that a page carries within itself."""

    title: str
    caption: str
    content: bytes
    media_type: str
    path: Path | None = None
    """Its file; None where it was drawn for the report."""

    @property
    def source(self) -> str:
        """A data URL."""
        return f"data:{self.media_type};base64,{base64.b64encode(self.content).decode('ascii')}"

    @property
    def sentence(self) -> str:
        """Title and caption."""
        return f"{self.title}{'' if self.title.endswith('?') else '.'} {self.caption}"

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height on the page, in CSS pixels of 1/96 inch; None where it does not say."""
        if self.media_type != "image/png":
            found = _SVG_SIZE.search(self.content)
            return (round(float(found[1]) / 0.75), round(float(found[2]) / 0.75)) if found else None
        ends = (self.content[16:20], self.content[20:24])
        width, height = (round(96 / DPI * int.from_bytes(end, "big")) for end in ends)
        return max(width, 1), max(height, 1)

    @property
    def is_tall(self) -> bool:
        """Whether it needs a page of its own when printed."""
        return self.size is not None and self.size[1] > TALL * self.size[0]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """An answer that a section leads with."""

    model: str
    answer: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Section:
    """One analysis."""

    anchor: str
    heading: str
    text: str
    note: str
    asks: str
    """What its verdicts are about."""
    verdicts: list[Verdict]
    tables: list[Table]
    remarks: list[str]
    """Sentences under the tables."""
    pictures: list[Picture]
    gallery: list[Picture]
    """Figures that show single images."""
    results: Json
    """For the methods: configuration, data, versions."""

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What became of the images: for all models at once where that is the same."""
        by_model = {model["title"]: model["preprocess"] for model in self.results["models"]}
        is_one = all(value == next(iter(by_model.values())) for value in by_model.values())
        return {"all models": next(iter(by_model.values()))} if by_model and is_one else by_model


@dataclasses.dataclass(frozen=True)
class Contents:
    """All of a report."""

    title: str
    answer: list[str]
    """In a few sentences, what was found."""
    opening: Picture | None
    """The figure that shows it."""
    models: Table
    model_facts: Mapping[str, Json]
    """By model's name, for the methods: where it comes from, and its shape."""
    assumptions: Sequence[str]
    """Sentences for the methods on what was assumed of the models."""
    judgements: list[Judgement]
    training: Picture | None
    sections: list[Section]
    caveats: list[str]
    citations: str

    @property
    def judged(self) -> list[Judgement]:
        """Judgements of the claims that have a rule."""
        return [judgement for judgement in self.judgements if judgement.answer != "not judged"]

    @property
    def unjudged(self) -> list[Judgement]:
        """Judgements of the claims that no rule can judge."""
        return [judgement for judgement in self.judgements if judgement.answer == "not judged"]

    @property
    def tally(self) -> str:
        """How many claims have which verdict."""
        answers = [judgement.answer for judgement in self.judgements]
        counts = {
            answer: answers.count(answer)
            for answer in (
                *("supported", "not supported", "cannot tell", "in this pair of models"),
                "not judged",
            )
        }
        judged = len(answers) - counts["not judged"]
        return (
            f"Of {len(answers)} claims, figures and tables, {judged} have a rule: "
            f"{counts['supported']} supported, {counts['not supported']} not supported, "
            f"{counts['in this pair of models']} told of this pair of models only, "
            f"{counts['cannot tell']} cannot be told from these results. The other "
            f"{counts['not judged']} can never be judged by a rule and are folded away below."
        )


def collect(options: ReportOptions) -> Contents:
    """The contents of a report.

    Raises:
      InputError: If a folder holds no results, or a run is none.
    """
    folders = [(folder, read_complete(folder)) for folder in options.results]
    folders.sort(key=lambda found: found[1].get("about", {}).get("rank", math.inf))
    everything = [results for _, results in folders]
    models = models_of(everything, options.runs)
    hours = {run.name: known for run in options.runs if (known := training_hours(run))}
    evidence = Evidence(everything, list(models.values()), hours)
    is_embedded = any(results["configuration"].get("data") in EMBEDDED for results in everything)
    judgements, sections = judge_claims(evidence), _sections(folders)
    names = [model["label"] for model in models.values()]
    used = next((r["versions"] for r in everything if "regvit-jax" in r["versions"]), versions())
    return Contents(
        title=options.title,
        answer=sentences(everything, names, judgements),
        opening=_opening(sections),
        models=models_table(models),
        model_facts=model_facts(models),
        assumptions=assumed_sentences(by_name(models, "source")),
        judgements=judgements,
        training=_training_picture(options.runs),
        sections=sections,
        caveats=[EMBEDDED_DATA, CAVEAT] if is_embedded else [CAVEAT],
        citations=bibtex(used["regvit-jax"]),
    )


def _opening(sections: Sequence[Section]) -> Picture | None:
    """The figure to begin with; None where no analysis has drawn it."""
    found: dict[str, Picture] = {}
    for section in sections:
        for picture in [*section.gallery, *section.pictures]:
            if picture.path is not None:
                found.setdefault(picture.path.stem, picture)
    return next((found[name] for name in FIRST_FIGURES if name in found), None)


def plain_value(value: Any) -> str:
    """A value of a configuration, as a person reads it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain_value(part)}" for key, part in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(plain_value, value)) or "none"
    return "none" if value is None else str(value)


def _sections(folders: Sequence[tuple[Path, Json]]) -> list[Section]:
    """A section a folder; those of one analysis are told apart by the ends of their folders."""
    alike: dict[str, list[Path]] = {}
    for folder, results in folders:
        alike.setdefault(results["analysis"], []).append(folder)
    ends = {name: enumerate(short_labels(paths), start=1) for name, paths in alike.items()}
    sections = []
    for folder, results in folders:
        name = results["analysis"]
        number, end = next(ends[name])
        anchor = name if number == 1 else f"{name}-{number}"
        addition = f" ({end})" if len(alike[name]) > 1 else ""
        sections.append(_section(folder, results, anchor, addition))
    return sections


def _section(folder: Path, results: Json, anchor: str, addition: str) -> Section:
    about = results.get("about") or dict(zip(("heading", "text"), TOGETHER, strict=True))
    per_image = tuple(about.get("per_image", ()))
    pictures = [(figure["file"], _picture(folder, figure)) for figure in results["figures"]]
    return Section(
        anchor=anchor,
        heading=about["heading"] + addition,
        text=about["text"],
        note=_note(results["data"]),
        asks=about.get("verdict", "").capitalize(),
        verdicts=[
            Verdict(model["title"], model["verdict"]["answer"], model["verdict"]["reason"])
            for model in results["models"]
            if "verdict" in model
        ],
        tables=tables_of(results),
        remarks=[
            *results.get("remarks", ()),
            *(f"{m['title']}: {r}" for m in results["models"] for r in m.get("remarks", ())),
        ],
        pictures=[picture for file, picture in pictures if not file.startswith(per_image)],
        gallery=[picture for file, picture in pictures if file.startswith(per_image)],
        results=results,
    )


def _note(data: Json) -> str:
    """Which images a section is about."""
    name = str(data["name"])
    about = f"{data['num_images']} images of {name}." if "num_images" in data else f"{name}."
    skipped = len(data.get("skipped", ()))
    left_out = f" {skipped} unreadable images were left out." if skipped else ""
    return f"{about[:1].upper()}{about[1:]}{left_out} Brackets: 95 % intervals."


def _picture(folder: Path, figure: Json) -> Picture:
    """A figure of a result folder: as SVG, which follows the page's colours, or else as PNG.

    Raises:
      InputError: If the PNG file is missing, is none, or lies elsewhere.
    """
    path = folder / figure["file"]
    content = _figure_file(folder, path)
    if not content.startswith(PNG):
        raise InputError(f"{path} is no PNG image, though {folder} says so. Run it again.")
    vector = folder / figure.get("vector", figure["file"])
    if vector.is_file():
        drawing = _figure_file(folder, vector)
        if drawing.startswith(SVG_HEAD) and SVG_TAG in drawing[:1000] and len(drawing) < MAX_SVG:
            return Picture(figure["title"], figure["caption"], drawing, "image/svg+xml", path)
    return Picture(figure["title"], figure["caption"], content, "image/png", path)


def _figure_file(folder: Path, path: Path) -> bytes:
    if not path.is_file():
        raise InputError(f"{path} is missing, though {folder} says it is there. Run it again.")
    if path.resolve().parent != folder.resolve():
        raise InputError(f"{path} is a link that leads out of its folder; expected a figure in it.")
    if (size := path.stat().st_size) > MAX_FIGURE_BYTES:
        raise InputError(f"{path} has {size} bytes, more than {MAX_FIGURE_BYTES}: it is no figure.")
    return path.read_bytes()


def _training_picture(runs: Sequence[Path]) -> Picture | None:
    content = training_svg(runs)
    if content is None:
        return None
    caption = "Training loss, smoothed over neighbouring lines of the log, and validation accuracy."
    return Picture("Loss and accuracy", caption, content, "image/svg+xml")
