"""What does `regvit-analyze look` do? A picture of each photograph, and one page of all."""

from collections.abc import Sequence
from pathlib import Path

from regvit_jax.analysis.look.figures.picture import picture
from regvit_jax.analysis.look.opened import open_models, open_photographs
from regvit_jax.analysis.look.options import LookOptions
from regvit_jax.analysis.look.page import page
from regvit_jax.analysis.look.view import Views, see_all
from regvit_jax.analysis.plotting import figure_bytes
from regvit_jax.errors import InputError
from regvit_jax.whole import appearing, untaken, write_whole

PAGE_FILE = "look.html"


def run(options: LookOptions) -> list[str]:
    """Writes the pictures and the page; what the command answers, line by line."""
    photographs = open_photographs(options.images)
    folder = _folder(options, Path(photographs[0].name).stem)
    views = see_all(photographs, open_models(options.checkpoint))
    files = _file_names([Path(photograph.name).stem for photograph in photographs])
    if folder.is_dir():
        _write(folder, views, files)
    else:
        with appearing(folder) as partial:
            partial.mkdir()
            _write(partial, views, files)
    lines = [
        f"{name}, {view.title}: {view.sentence}"
        for name, row in zip(views.names, views.views, strict=True)
        for view in row
    ]
    pictures = files[0] if len(files) == 1 else f"{len(files)} pictures"
    return [*lines, f"Page: {folder / PAGE_FILE} (and {pictures} beside it)"]


def _write(folder: Path, views: Views, files: Sequence[str]) -> None:
    for place, name in enumerate(files):
        write_whole(folder / name, figure_bytes(picture(views, place), "png"))
    write_whole(folder / PAGE_FILE, page(views))


def _folder(options: LookOptions, name: str) -> Path:
    """Where the files go.

    Raises:
      InputError: If the user's own choice holds something.
    """
    if options.out is not None:
        taken = options.out.exists() and (options.out.is_file() or any(options.out.iterdir()))
        if options.out.is_file() or (taken and not (options.out / PAGE_FILE).is_file()):
            raise InputError(f"{options.out} holds other things. Name another folder after --out.")
        if taken and not options.overwrite:
            raise InputError(
                f"{options.out} holds an earlier look. Add --overwrite, or name another folder."
            )
        return options.out
    return untaken(f"look-{name}")


def _file_names(stems: Sequence[str]) -> list[str]:
    """A file for each photograph; those of one name are numbered."""
    names: list[str] = []
    for stem in stems:
        name, number = f"{stem}.png", 1
        while name in names:
            number += 1
            name = f"{stem}-{number}.png"
        names.append(name)
    return names
