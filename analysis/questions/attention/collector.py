"""How does the attention of all images come together? One model's, up to what is written of it."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from regvit_jax.analysis.engine.subjects import Subject
from regvit_jax.analysis.options import AttentionOptions
from regvit_jax.analysis.questions.attention.attention import (
    COMPARED_DEFINITION,
    Accumulator,
    AttentionSummary,
    Rows,
    attention_rows,
    compared_features,
    embedding_similarity,
    query_names,
    summarise_attention,
)
from regvit_jax.analysis.questions.attention.figures import ShownAttention
from regvit_jax.analysis.questions.attention.rollout import rollout_maps
from regvit_jax.analysis.statistics.bootstrap import Bootstrap
from regvit_jax.batches import Batch
from regvit_jax.checkpoint import Params
from regvit_jax.model import DeiT3
from regvit_jax.tokens import resolve_layers


@dataclasses.dataclass(frozen=True)
class Attended:
    """One model's attention, reduced to what is written."""

    subject: Subject
    layer: int
    """Block of the maps, from 0."""
    summary: AttentionSummary
    shown: list[ShownAttention]
    rolled: list[ShownAttention]
    """Attention rollout on the shown images, as maps of one head."""
    features: dict[str, Float[np.ndarray, " n"]]
    """Of every image: what models are compared by."""
    masses: Float[np.ndarray, "n 2"]
    """CLS's attention on outliers and on all patches, per image."""
    skipped: list[str]

    @property
    def block(self) -> str:
        """The block of the maps in words."""
        last = self.subject.config.depth - 1
        return (
            f"the last block ({last})" if self.layer == last else f"block {self.layer} of 0-{last}"
        )


class AttentionCollector:
    """The attention of one model, up to its summary.

    Args:
      subject: Which model.
      model: Its network.
      params: Its parameters.
      options: The command's.
      names: What the shown images are called, by index.
    """

    def __init__(
        self,
        subject: Subject,
        model: DeiT3,
        params: Params,
        options: AttentionOptions,
        names: dict[int, str],
    ) -> None:
        (self._layer,) = resolve_layers((options.layer,), subject.config.depth)
        self.reduce = attention_rows(self._layer)
        self.shown = set(names)
        self._subject, self._model, self._params = subject, model, params
        self._options, self._names = options, names
        self._layout = model.layout((1, *subject.preprocess.shape))
        self._accumulator = Accumulator()
        self._images: list[ShownAttention] = []

    def __enter__(self) -> "AttentionCollector":
        self._accumulator.__enter__()
        return self

    def __exit__(self, kind, error, traceback) -> None:
        self._accumulator.__exit__(kind, error, traceback)

    def add(self, batch: Batch, rows: Rows) -> None:
        """Takes in one batch."""
        self._accumulator.add(rows)
        for i, index in enumerate(batch.indices.tolist()):
            if index in self.shown:
                maps = rows.maps[i].reshape(*rows.maps.shape[1:3], *self._layout.grid)
                image = ShownAttention(self._names[index], batch.pixels[i].copy(), np.array(maps))
                self._images.append(image)

    def finish(self, skipped: list[str]) -> Attended:
        """What is written of the model."""
        subject, options, accumulator = self._subject, self._options, self._accumulator
        summary = summarise_attention(
            accumulator,
            self._layout,
            query_names(subject.config),
            embedding_similarity(self._params),
            Bootstrap(accumulator.num_images, options.bootstrap, options.seed),
        )
        masses = accumulator.outliers.masses(COMPARED_DEFINITION)
        features = compared_features(accumulator, masses, subject.config.num_registers)
        rolled = []
        if options.rollout:
            rolled = _roll_out(self._model, self._params, subject, self._images)
        return Attended(
            subject, self._layer, summary, self._images, rolled, features, masses, skipped
        )


def _roll_out(model, params, subject: Subject, images: Sequence[ShownAttention]):
    """The rollout of the shown images, as maps of one head."""
    pixels = np.stack([image.pixels for image in images])
    maps = rollout_maps(model, params, subject.preprocess, pixels)
    return [image._replace(maps=values[None]) for image, values in zip(images, maps, strict=True)]
