"""How good are the network's tokens under every condition? Scores of each image.

Letters: n images, c conditions (the untouched network first), m training images, d channels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from regvit_jax.analysis.engine.columns import Columns
from regvit_jax.analysis.engine.subjects import Subject, head_fits
from regvit_jax.analysis.statistics.classifier import fit_linear
from regvit_jax.analysis.statistics.neighbours import vote
from regvit_jax.analysis.stopping import check
from regvit_jax.source import Source

Scores = dict[str, Float[np.ndarray, "n c"]]


class Learned(NamedTuple):
    """What classifiers learn from."""

    features: Float[np.ndarray, "m d"]
    labels: Int[np.ndarray, " m"]


def scores_of_heads(
    judged: Columns,
    subject: Subject,
    source: Source,
    learned: Learned | None,
    neighbours: int,
    seed: int,
) -> Scores:
    """Whether each classifier gets each image right, in every condition; all (n, conditions).

    "top1" is the head, "neighbours" a vote of the nearest training images, "linear" a linear probe;
    "same_answer" is whether the head predicts what it does in the untouched network.
    """
    found: Scores = {}
    predicted, labels = judged.read("predicted"), judged.labels
    if subject.config.num_classes:
        found["same_answer"] = (predicted == predicted[:, :1]).astype(float)
    if head_fits(subject, source):
        found["top1"] = (predicted == labels[:, None]).astype(float)
    if learned is None or len(np.unique(learned.labels)) < 2:
        return found
    classifier = fit_linear(learned.features, learned.labels, seed)
    by_vote, by_plane = [], []
    for condition in range(predicted.shape[1]):
        check()
        features = np.array(judged.mapped("features")[:, condition])
        votes = vote(features, *learned, len(source.class_names), (neighbours,))
        by_vote.append(votes[:, 0] == labels)
        by_plane.append(classifier.predict(features) == labels)
    found["neighbours"] = np.stack(by_vote, axis=1).astype(float)
    found["linear"] = np.stack(by_plane, axis=1).astype(float)
    return found


def named_rows(names: Sequence[str], scores: Scores) -> dict[tuple[str, str], np.ndarray]:
    """Each score of each condition, and, under "SCORE_change", its change from untouched."""
    found = {}
    for score, rows in scores.items():
        for place, name in enumerate(names):
            found[name, score] = rows[:, place]
            if place and score != "same_answer":
                found[name, f"{score}_change"] = rows[:, place] - rows[:, 0]
    return found
