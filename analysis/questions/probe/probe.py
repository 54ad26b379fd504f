"""What does each kind of token know of the image's class?

A frozen token of every training image is classified by logistic regression, and by its nearest
neighbours; accuracy is measured on the validation images. Random patches are drawn several times,
and everything is fitted anew for every draw.  Reference: arXiv:2309.16588, tables 1 and 6, with the
logistic regression of DINOv2: strengths 10^linspace(-6, 5, 45), chosen on a tenth of the training
images, then fitted to all.

Letters: n validation images, m training images, d channels, s strengths.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from regvit_jax.analysis.options import VERDICT
from regvit_jax.analysis.outliers.labels import Labels, find_labels
from regvit_jax.analysis.outliers.streams import NormColumns
from regvit_jax.analysis.questions.probe.options import ProbeOptions
from regvit_jax.analysis.questions.probe.tokens import (
    DRAWN,
    WITH_OUTLIER,
    TokenStore,
    WithoutOutlier,
)
from regvit_jax.analysis.statistics import logistic
from regvit_jax.analysis.statistics.bootstrap import Bootstrap, Estimate
from regvit_jax.analysis.statistics.neighbours import vote
from regvit_jax.analysis.stopping import check

HELD_OUT = 0.1
"""Share of the training images that the strength and the number of neighbours are chosen on."""
_EXACT = 1e-8


@dataclasses.dataclass(frozen=True)
class ProbePlan:
    """How classifiers are fitted."""

    strengths: tuple[float, ...]
    neighbours: tuple[int, ...]
    """Empty: no nearest neighbours."""
    draws: int
    without_outlier: WithoutOutlier
    seed: int


class Examples(NamedTuple):
    """One vector of every image, and which images count."""

    features: Float[np.ndarray, "n d"]
    labels: Int[np.ndarray, " n"]
    used: Bool[np.ndarray, " n"]


class Classified(NamedTuple):
    """One classifier: chosen on training images, tried on validation images."""

    is_right: Bool[np.ndarray, " n"]
    choice: float
    """Strength C, or number of neighbours."""
    tried: Float[np.ndarray, " s"]
    """Accuracy on the held-out training images, by strength or number of neighbours."""
    by_choice: Bool[np.ndarray, "n s"] | None
    """For each number of neighbours, whether each image is classified correctly."""


@dataclasses.dataclass(frozen=True)
class KindResult:
    """What one kind of token knows."""

    kind: str
    num_train: int
    used: Bool[np.ndarray, " n"]
    """Validation images that have such a token."""
    logistic: list[Classified]
    """One a draw; one only where nothing is drawn."""
    neighbours: list[Classified]
    reason: str | None = None
    """Why nothing could be fitted."""

    def scores(self, neighbours: bool = False) -> Float[np.ndarray, " n"]:
        """Share of the draws in which each image is classified correctly."""
        fits = self.neighbours if neighbours else self.logistic
        return np.stack([fit.is_right for fit in fits]).mean(axis=0, dtype=np.float64)


class Marks(NamedTuple):
    """The outliers among the patches of a part of the data."""

    norms: Float[np.ndarray, "n p"]
    """In the layer that tells them."""
    is_outlier: Bool[np.ndarray, "n p"]


@dataclasses.dataclass(frozen=True)
class Outliers:
    """What counted as an outlier, by the training images."""

    labels: Labels
    definition: str
    cut: float
    """Norm above which a patch is one; infinite where the group was asked for and not found."""
    share_of_patches: Estimate
    train: Marks
    val: Marks

    def share_of_images(self, part: Marks, replicates: int, seed: int) -> Estimate:
        """Images that have at least one."""
        has_any = np.any(part.is_outlier, axis=1).astype(np.float64)
        return Bootstrap(len(has_any), replicates, seed).share(has_any)


def find_outliers(train: NormColumns, val: NormColumns, options: ProbeOptions) -> Outliers:
    """The outliers of the training images by the definition asked for, and its cut on the others.

    Args:
      train: Norms of the training images.
      val: Norms of the validation images.
      options: Which layer and definition.
    """
    bootstrap = Bootstrap(train.num_images, options.bootstrap, options.seed)
    labels = find_labels(train, bootstrap, options)
    definition = labels.led.definition if options.outlier == VERDICT else options.outlier
    norms, others = train.patches(labels.layer), val.patches(labels.layer)
    by = labels.by.get(definition)
    if by is None:
        nobody = [Marks(x, np.zeros(x.shape, bool)) for x in (norms, others)]
        return Outliers(labels, definition, np.inf, Estimate(0.0, len(norms)), *nobody)
    marks = (Marks(norms, by.is_outlier), Marks(others, labels.marked(val, definition)))
    return Outliers(labels, definition, by.cut, by.share, *marks)


def probe_kind(
    train: TokenStore, val: TokenStore, kind: str, num_classes: int, plan: ProbePlan
) -> KindResult:
    """What one kind of token knows; a reason in its place where too few images have one."""
    used = [_has_token(store, kind, plan.without_outlier) for store in (train, val)]
    num_train = int(used[0].sum())
    if reason := _too_few(kind, train.labels[used[0]], int(used[1].sum())):
        return KindResult(kind, num_train, used[1], [], [], reason)
    fits, votes = [], []
    for draw in range(plan.draws if kind in DRAWN else 1):
        check()
        known, asked = (
            Examples(store.features(kind, draw), store.labels, mask)
            for store, mask in zip((train, val), used, strict=True)
        )
        fits.append(fit_logistic(known, asked, plan.strengths, plan.seed))
        if plan.neighbours:
            votes.append(fit_neighbours(known, asked, num_classes, plan.neighbours, plan.seed))
    return KindResult(kind, num_train, used[1], fits, votes)


def fit_logistic(
    train: Examples, val: Examples, strengths: Sequence[float], seed: int
) -> Classified:
    """Logistic regression: the strength chosen on a tenth of the training images, fitted to all.

    Classes of which no image is used cannot be predicted. Of equal accuracies the smallest C wins.
    """
    present, labels = np.unique(train.labels[train.used], return_inverse=True)
    features = train.features[train.used]
    problem = logistic.prepare(features, labels, len(present))
    held_out = _held_out(labels, seed)
    rising = np.sort(np.array(strengths))
    tried = np.zeros(len(rising))
    start = None
    for place, weights in logistic.solve_path(problem, ~held_out, rising):
        right = np.asarray(logistic.classify(problem.features, weights)) == labels[:, None]
        tried[place] = right[held_out].mean(axis=0)
        if start is None or tried[place].max() > tried[: place.start].max():
            start = weights[:, int(tried[place].argmax())]
    best = int(tried.argmax())
    everything = np.ones(len(labels), bool)
    solution = logistic.solve(problem, everything, rising[best : best + 1], start, _EXACT)
    predicted = np.asarray(
        logistic.classify(logistic.turn(problem, val.features), solution.weights)
    )[:, 0]
    return Classified(present[predicted] == val.labels, float(rising[best]), tried, None)


def fit_neighbours(
    train: Examples, val: Examples, num_classes: int, neighbours: Sequence[int], seed: int
) -> Classified:
    """The vote of the nearest training images; their number chosen on a tenth of them."""
    features, labels = train.features[train.used], train.labels[train.used]
    held_out = _held_out(labels, seed)
    known = features[~held_out], labels[~held_out]
    guesses = vote(features[held_out], *known, num_classes, neighbours)
    tried = (guesses == labels[held_out][:, None]).mean(axis=0)
    right = vote(val.features, features, labels, num_classes, neighbours) == val.labels[:, None]
    best = int(tried.argmax())
    return Classified(right[:, best], float(neighbours[best]), tried, right)


def accuracy(result: KindResult, replicates: int, seed: int, neighbours: bool = False) -> Estimate:
    """Accuracy on the validation images, averaged over the draws.

    The interval comes from resampling the validation images; the classifiers stay as they are.
    """
    scores = result.scores(neighbours)[result.used]
    return Bootstrap(len(scores), replicates, seed).mean(scores)


def difference(
    first: KindResult, second: KindResult, replicates: int, seed: int, neighbours: bool = False
) -> Estimate | None:
    """Accuracy of the second minus the first, on the images that both have a token of."""
    if first.reason or second.reason:
        return None
    both = first.used & second.used
    if not both.any():
        return None
    scores = second.scores(neighbours)[both] - first.scores(neighbours)[both]
    return Bootstrap(len(scores), replicates, seed).mean(scores)


def _has_token(store: TokenStore, kind: str, without: WithoutOutlier):
    if kind in WITH_OUTLIER and without == "largest":
        return np.ones(store.num_images, bool)
    return store.has(kind)


def _too_few(kind: str, labels: Int[np.ndarray, " m"], num_val: int) -> str | None:
    """Why a classifier cannot be fitted or tried, if it cannot."""
    counts = np.unique(labels, return_counts=True)[1]
    if len(counts) < 2 or counts.max() < 2:
        return (
            f"{len(labels)} training images of {len(counts)} classes have such a token; two "
            "classes and two images of one of them are needed."
        )
    return None if num_val else "No validation image has such a token."


def _held_out(labels: Int[np.ndarray, " m"], seed: int) -> Bool[np.ndarray, " m"]:
    """A random tenth of the images of every class; one image a class at least stays."""
    generator = np.random.default_rng((seed, 1))
    order = generator.permutation(len(labels))
    place_in_class = np.zeros(len(labels), int)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        place_in_class[members] = np.arange(len(members))
    count = np.bincount(labels, minlength=labels.max() + 1)[labels]
    held_out = place_in_class < np.round(HELD_OUT * count)
    if not held_out.any():  # classes of a few images each
        held_out[np.argmax(count)] = True
    return held_out
