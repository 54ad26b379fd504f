"""Which trained models come with the package? Small ones, which their names stand for.

`organisms/` holds the pair that `docs/organism.md` describes: the same recipe and seed without and
with four registers. Wherever a checkpoint is named, its name will do; a file or folder of that name
in the working directory comes first.
"""

import os
import warnings
from pathlib import Path

FOLDER = Path(__file__).parent / "organisms"
MODELS = {
    "organism-reg0": "grew patch tokens of high norm, on --data cues",
    "organism-reg4": "the same with 4 registers, and without such tokens",
}
"""What each is, by name."""


def located(path: str | Path) -> Path:
    """The folder of a model that comes with the package, if a path is its name; else the path.

    A folder of that name in the working directory is what is meant, which is said in a warning.
    """
    path = Path(path)
    if str(path) not in MODELS:
        return path
    if not os.path.lexists(path):
        return FOLDER / path
    warnings.warn(
        f"{path} is taken for the folder of that name here, not for the model that comes with "
        "regvit_jax. Rename the folder to use that one.",
        stacklevel=2,
    )
    return path


def hint(path: str | Path) -> str:
    """For errors: the names that are known, if a path might have been meant as one, or nothing."""
    names = f" Models that come with regvit_jax: {', '.join(MODELS)}."
    return "" if Path(path).parent != Path() else names
