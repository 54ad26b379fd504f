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

from regvit_jax.analysis.outliers.definitions import is_above, thresholds
from regvit_jax.analysis.outliers.verdict import Verdict, judge
from regvit_jax.analysis.questions.probe.tokens import NORMAL, OUTLIER, TokenStore, WithoutOutlier
from regvit_jax.analysis.statistics import logistic
from regvit_jax.analysis.statistics.bootstrap import Bootstrap, Estimate
from regvit_jax.analysis.statistics.neighbours import vote
from regvit_jax.analysis.stopping import check

HELD_OUT = 0.1
"""Share of the training images that the strength and the number of neighbours are chosen on."""
GROUP = "group"
"""Definition of an outlier: belongs to the separate group that `outliers.judge` found."""
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
    """For each number of neighbours, whether each image is classified rightly."""


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
        """Share of the draws in which each image is classified rightly."""
        fits = self.neighbours if neighbours else self.logistic
        return np.stack([fit.is_right for fit in fits]).mean(axis=0, dtype=np.float64)


@dataclasses.dataclass(frozen=True)
class Outliers:
    """What counted as an outlier, and how many images had one."""

    definition: str
    cut: float
    """Norm above which a patch is one, pooled over the training images."""
    share_of_patches: Estimate
    share_of_images: dict[str, Estimate]
    """By split: images that have at least one."""
    share_beyond_kept: float
    verdict: Verdict


def find_outliers(
    train: TokenStore,
    val: TokenStore,
    grid: tuple[int, int],
    definition: str,
    replicates: int,
    seed: int,
) -> Outliers:
    """The cut of a definition on the training images, and what it cuts off."""
    norms = train.norms
    bootstrap = Bootstrap(len(norms), replicates, seed)
    verdict = judge(norms, grid, train.convolved, bootstrap=bootstrap)
    if definition == GROUP:
        cut = verdict.group.cut if verdict.answer == "found" and verdict.group else np.inf
    else:
        cut = thresholds(norms)[definition]
    above = is_above(norms, cut).mean(axis=1)
    of_images = {
        "train": bootstrap.mean(train.has_outlier(cut).astype(np.float64)),
        "val": Bootstrap(val.num_images, replicates, seed).mean(
            val.has_outlier(cut).astype(np.float64)
        ),
    }
    beyond = val.share_beyond_kept(cut)
    return Outliers(definition, cut, bootstrap.mean(above), of_images, beyond, verdict)


def probe_kind(
    train: TokenStore, val: TokenStore, kind: str, cut: float, num_classes: int, plan: ProbePlan
) -> KindResult:
    """What one kind of token knows; a reason in its place where too few images have one."""
    used = [_has_token(store, kind, cut, plan.without_outlier) for store in (train, val)]
    num_train = int(used[0].sum())
    if reason := _too_few(kind, train.labels[used[0]], int(used[1].sum())):
        return KindResult(kind, num_train, used[1], [], [], reason)
    fits, votes = [], []
    for draw in range(plan.draws if kind in (NORMAL, OUTLIER) else 1):
        check()
        known, asked = (
            Examples(store.features(kind, draw, cut), store.labels, mask)
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


def _has_token(store: TokenStore, kind: str, cut: float, without: WithoutOutlier):
    if kind == OUTLIER and without == "skip":
        return store.has_outlier(cut)
    if kind == NORMAL:
        return store.has_normal(cut)
    return np.ones(store.num_images, bool)


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
