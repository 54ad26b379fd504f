"""One folder for each analysis. A new folder is a new command; nothing else has to be told of it.

A folder holds `options.py`, whose class derived from `ImageOptions` has the help and the checks and
imports nothing heavy, and `question.py`, whose `ANALYSIS` says what is kept, measured and drawn.
"""

import functools
import importlib
import pkgutil
from typing import TYPE_CHECKING

from regvit_jax.analysis.options import ImageOptions

if TYPE_CHECKING:
    from regvit_jax.analysis.engine.analysis import Analysis


@functools.cache
def known() -> dict[str, type[ImageOptions]]:
    """The options of every analysis, by its name, in the order of their `rank`."""
    found = {name: options_of(name) for _, name, _ in pkgutil.iter_modules(__path__)}
    return dict(sorted(found.items(), key=lambda item: (item[1].rank, item[0])))


def options_of(name: str) -> type[ImageOptions]:
    """The class of an analysis's options."""
    module = importlib.import_module(f"{__name__}.{name}.options")
    (found,) = (
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, ImageOptions)
        and value.__module__ == module.__name__
    )
    return found


def analysis_of(name: str) -> "Analysis":
    """An analysis; loads the network's libraries."""
    return importlib.import_module(f"{__name__}.{name}.question").ANALYSIS
