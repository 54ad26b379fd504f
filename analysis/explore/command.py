"""What does `regvit-analyze explore` do? One HTML file."""

from pathlib import Path
from typing import Any

from regvit_jax.analysis.explore.options import ExploreOptions
from regvit_jax.analysis.explore.packed import MAX_WEIGHTS, kept_blocks, packed
from regvit_jax.analysis.explore.page import Model, page
from regvit_jax.analysis.explore.record import Record, Recorder
from regvit_jax.analysis.look.opened import Opened, Photograph, open_models, open_photographs
from regvit_jax.errors import InputError
from regvit_jax.whole import untaken, write_whole

MAX_PHOTOGRAPHS, MAX_MODELS = 8, 4


def explorer(images: Any, models: Any) -> str:
    """The page, as HTML.

    Args:
      images: A path, a Pillow image or an array of uint8; or several.
      models: A checkpoint's directory or what `from_torch` returned; or several.

    Raises:
      InputError: If one cannot be opened, or there are too many.
    """
    text, _ = _made(open_photographs(images), open_models(models))
    return text


def run(options: ExploreOptions) -> list[str]:
    """Writes the page; what the command answers, line by line."""
    photographs = open_photographs(options.images)
    out = _place(options, Path(photographs[0].name).stem)
    text, lines = _made(photographs, open_models(options.checkpoint))
    write_whole(out, text)
    return [*lines, f"Page: {out} ({len(text) / 1e6:.1f} MB)"]


def _made(photographs: list[Photograph], models: list[Opened]) -> tuple[str, list[str]]:
    """The page, and what is to be said of it."""
    for found, most, kind in (
        (len(photographs), MAX_PHOTOGRAPHS, "photographs"),
        (len(models), MAX_MODELS, "models"),
    ):
        if found > most:
            raise InputError(f"A page holds at most {most} {kind}, got {found}. Name fewer.")
    share = 1 / (len(photographs) * len(models))
    described: list[Model] = []
    records: list[Record] = []
    for opened in models:
        config, preprocess = opened.model.config, opened.preprocess
        layout = opened.model.layout((preprocess.height, preprocess.width, 3))
        blocks = kept_blocks(config, layout.num_tokens, share)
        recorder = Recorder(opened, blocks)
        described.append(Model(opened.title, layout, config, blocks))
        records += [recorder.record(photograph) for photograph in photographs]
    levels, texts = packed(records)
    names = [photograph.name for photograph in photographs]
    lines = [line for model in described if (line := _left_out(model))]
    return page(names, described, records, levels, texts), lines


def _left_out(model: Model) -> str:
    """What a page of bounded size does not hold of a model."""
    if len(model.blocks) == model.config.depth:
        return ""
    kept, most = len(model.blocks), f"{MAX_WEIGHTS / 1e6:.0f} million"
    return (
        f"{model.title}: attention of {kept} of {model.config.depth} blocks. A page holds {most} "
        "weights; fewer photographs or models leave room for more blocks."
    )


def _place(options: ExploreOptions, name: str) -> Path:
    """Where the page goes.

    Raises:
      InputError: If the user's own choice is taken.
    """
    if options.out is not None:
        if options.out.is_dir():
            raise InputError(f"{options.out} is a folder; --out names the HTML file.")
        if options.out.exists() and not options.overwrite:
            raise InputError(f"{options.out} exists. Add --overwrite, or name another file.")
        return options.out
    return untaken(f"explore-{name}", ".html")
