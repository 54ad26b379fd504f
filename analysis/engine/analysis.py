"""What is an analysis? What it keeps of an image, what it measures, which quantities these are.

Everything else follows from that: intervals, paired differences between models, results.json, CSV
tables, the lines that the command prints, the numbers that the page and `compare` lead with.

A number has a key: the table it is in, its place on the table's axes, and the quantity, such as
("outliers", "last", "quantile_98", "auc"). In files the key's parts are joined by "/".
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from regvit_jax.analysis.engine.question import Keep, Kept
from regvit_jax.analysis.engine.subjects import Images, Subject, open_images
from regvit_jax.analysis.options import ImageOptions
from regvit_jax.analysis.plotting import Figure
from regvit_jax.analysis.statistics.bootstrap import Bootstrap, Estimate, Resampled
from regvit_jax.errors import InputError


class DoesNotApply(InputError):
    """The models or the data do not allow the analysis; `all` leaves it out."""


Key = tuple[str, ...]


class Told(NamedTuple):
    """A number whose own interval is another than that of resampling, and its resamples."""

    estimate: Estimate
    resampled: Resampled


Number = Resampled | Estimate | Told
"""With its value in every resample where models can be compared by it."""


class Quantity(NamedTuple):
    """One number of each row of a table."""

    title: str
    """What it is, for a reader: "largest attention weight on a patch"."""
    is_share: bool = False
    """Shown in per cent, differences in points."""
    is_compared: bool = False
    """Whether models are compared by it, on the same images."""
    on_page: bool = True
    """Whether the page shows it where it shows the table."""


class Table(NamedTuple):
    """Numbers of one shape: a row for each model and place on the axes."""

    name: str
    """Names the CSV file, and stands first in the keys of the table's numbers."""
    title: str
    axes: tuple[str, ...]
    """What tells the rows of a model apart, such as "block" and "query"."""
    quantities: Mapping[str, Quantity]
    on_page: bool = False
    """Whether the page shows it whole; the numbers to lead with stand there in any case."""
    words: Mapping[str, str] = {}
    """What the page calls a place on an axis, where its name is not plain."""


class Lead(NamedTuple):
    """A number that the command, the page and `compare` lead with."""

    key: Key
    title: str


class Drawn(NamedTuple):
    """A figure, and what is said of it."""

    name: str
    """Names the PNG and SVG files."""
    title: str
    caption: str
    figure: Figure


@dataclasses.dataclass(frozen=True)
class Asked:
    """What an analysis is asked about: options, and the images that they name."""

    options: Any
    """An instance of the analysis's `options` class."""
    images: Images
    """Those that the numbers are about."""
    training: Images | None = None
    """Those that probes learn from."""
    about: Any = None
    """What else was read of the images beforehand."""
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What else results.json says of the data."""
    skipped: Sequence[str] = ()
    """Messages of images that were left out before any network ran."""

    def bootstrap(self, num_images: int) -> Bootstrap:
        """The resamples of so many images."""
        return Bootstrap(num_images, self.options.bootstrap, self.options.seed)


class Listing(NamedTuple):
    """A table of other rows than models and places, such as one for each image."""

    name: str
    title: str
    rows: Sequence[Mapping[str, Any]]
    """All with the same columns."""


class Measured(NamedTuple):
    """What an analysis found out about one model."""

    num_images: int
    """That its numbers rest on."""
    numbers: Mapping[Key, Number]
    """By their keys, without those that are undefined."""
    facts: Mapping[str, Any] = {}
    """What else results.json says of the model; whatever JSON can hold."""
    arrays: Mapping[str, Mapping[str, np.ndarray]] = {}
    """Arrays to be written as `.npz` files, by the file's name and their own."""
    documents: Mapping[str, Any] = {}
    """What users read with their own programs, by the file's name: whatever JSON can hold."""
    verdict: tuple[str, str] | None = None
    """The answer in a word or two, and the reason in a sentence."""
    remarks: Sequence[str] = ()
    """Sentences that the command prints and the page shows under the numbers."""
    drawn: Any = None
    """What figures and differences need besides."""


@dataclasses.dataclass(frozen=True)
class Model:
    """One model's results, as figures are made of them."""

    subject: Subject
    measured: Measured
    estimates: Mapping[Key, Estimate]
    """The numbers with their intervals."""

    @property
    def num_images(self) -> int:
        """That its numbers rest on."""
        return self.measured.num_images


def open_asked(options: ImageOptions, checkpoints: Sequence[Subject]) -> Asked:
    """The images that are named by the options that all analyses share."""
    del checkpoints
    return Asked(options, open_images(options))


def all_models(subjects: Sequence[Subject], asked: Asked) -> Sequence[Subject]:
    """The models that are measured: the checkpoints."""
    del asked
    return subjects


def no_figures(models: Sequence[Model], asked: Asked) -> Sequence[Drawn]:
    """No figures: the default."""
    del models, asked
    return ()


def no_listings(models: Sequence[Model], asked: Asked) -> Sequence[Listing]:
    """No listings: the default."""
    del models, asked
    return ()


def no_facts(models: Sequence[Model], asked: Asked) -> Mapping[str, Any]:
    """No further facts: the default."""
    del models, asked
    return {}


def paired(analysis: "Analysis", first: Model, other: Model, asked: Asked) -> dict[Key, Estimate]:
    """Second minus first of every number that both have and are compared by."""
    bootstrap, found = asked.bootstrap(other.num_images), {}
    for key, number in first.measured.numbers.items():
        pair = [_resampled(each) for each in (number, other.measured.numbers.get(key))]
        if analysis.quantity(key).is_compared and pair[0] and pair[1]:
            found[key] = bootstrap.difference(pair[0], pair[1])
    return found


def _resampled(number: Number | None) -> Resampled | None:
    if isinstance(number, Told):
        return number.resampled
    return number if isinstance(number, Resampled) else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Analysis:
    """An analysis that `regvit-analyze` can run, and the page can show."""

    name: str
    """One word, of the command and the results."""
    heading: str
    """Heads the analysis's section on the page."""
    text: str
    """What it asks, in a sentence or two under the heading."""
    verdict: str = ""
    """What its verdicts are about, such as "outlier tokens"; empty where it gives none."""
    per_image: tuple[str, ...] = ()
    """How the names of figures begin that show single images: the page's gallery."""
    tables: Sequence[Table]
    keeps: Callable[[Subject, Asked], Mapping[str, Keep]]
    """What is kept of a model's images, under the analysis's own names."""
    measure: Callable[[Subject, Kept, Asked], Measured]
    """From the columns of one model's images."""
    lead: Callable[[Any], Sequence[Lead]] = lambda options: ()
    """The numbers to lead with, by the options."""
    figures: Callable[[Sequence[Model], Asked], Sequence[Drawn]] = no_figures
    facts: Callable[[Sequence[Model], Asked], Mapping[str, Any]] = no_facts
    """What else results.json says; what stands under "data" joins what it says of the images, what
    stands under "remarks" are sentences as those of a model."""
    listings: Callable[[Sequence[Model], Asked], Sequence[Listing]] = no_listings
    """Tables beside those of numbers."""
    ask: Callable[[Any, Sequence[Subject]], Asked] = open_asked
    """Opens the images that the options name; raises InputError where the checkpoints cannot be
    measured so, before any work."""
    applies: Callable[[Any], object] = lambda options: None
    """Raises InputError where the options or the data do not allow it: `all` leaves it out."""
    subjects: Callable[[Sequence[Subject], Asked], Sequence[Subject]] = all_models
    """Which models are measured, controls included, given the checkpoints."""
    differences: "Callable[[Analysis, Model, Model, Asked], Mapping[Key, Estimate]]" = paired
    """Second minus first, on the same images."""
    options: type[ImageOptions] = ImageOptions
    study_preprocess: str = "attention"
    """Key of `STUDY_PREPROCESS`, for --protocol study."""
    fits: bool = False
    """Whether measuring takes long enough to be a stage of its own."""

    def quantity(self, key: Key) -> Quantity:
        """What the number under a key is."""
        (table,) = (table for table in self.tables if table.name == key[0])
        return table.quantities[key[-1]]
