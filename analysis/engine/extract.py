"""What does a model compute on a data set? The one loop over images that every analysis shares."""

import collections
import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, UInt8

from regvit_jax.analysis.stopping import check
from regvit_jax.batches import Batch, Batches
from regvit_jax.checkpoint import Params
from regvit_jax.chunks import chunk_size, map_chunks
from regvit_jax.console import progress
from regvit_jax.edits import Change, Edit
from regvit_jax.model import DeiT3, ViTTrace
from regvit_jax.preprocess import Preprocess
from regvit_jax.tokens import TokenLayout

Tree = Any
Reduce = Callable[[ViTTrace, TokenLayout], Tree]
"""What a question needs of a trace: arrays whose leading axis is the images'."""


@dataclasses.dataclass(frozen=True)
class Forward:
    """The network and some images, inside a compiled program."""

    params: Params
    layout: TokenLayout
    """Layout of the network's tokens, without an edit."""
    images: Float[Array, "b h w 3"]
    """Normalised."""
    run: Callable[..., ViTTrace]
    """A pass: `run(edit=None, layers=None)`, as for `DeiT3.trace`."""
    blocks: int | Sequence[int] | None

    @functools.cached_property
    def trace(self) -> ViTTrace:
        """The trace of the pass that all questions share, without an edit."""
        return self.run(None, self.blocks)


Compute = Callable[[Forward, Any], Tree]
"""What a question needs of any number of passes, given further arrays: as `Reduce`'s."""
IMAGES = "images"
BATCHES_IN_FLIGHT = 2


def extract(
    model: DeiT3,
    params: Params,
    batches: Batches,
    reduce: Reduce,
    layers: int | Sequence[int] | None = None,
    label: str = "Extracting",
) -> Iterator[tuple[Batch, Tree]]:
    """The reduced traces of all images, batch by batch and in order, as NumPy arrays.

    Every image runs through the network once. The reduction happens on the device, so that only
    what the question needs is ever kept. All local devices take part.

    Args:
      model: The network.
      params: Its parameters.
      batches: The images; their preprocessing normalises them, on the device.
      reduce: A pure JAX function of a trace and its token layout.
      layers: Blocks that `reduce` reads, as for `DeiT3.trace`.
      label: What the progress display says.

    Yields:
      A batch without its padding, and `reduce`'s tree for its images.
    """
    extractor = Extractor(model, params, batches.preprocess, batches.batch_size, reduce, layers)
    yield from extractor(progress(batches, len(batches), label))


class Extractor:
    """A compiled extraction, for any number of batches of one size; see `extract`.

    Args:
      compute: Takes the place of `reduce`.
      given: Arrays that `compute` reads, the same for all images.
    """

    def __init__(
        self,
        model: DeiT3,
        params: Params,
        preprocess: Preprocess,
        batch_size: int,
        reduce: Reduce | None = None,
        layers: int | Sequence[int] | None = None,
        compute: Compute | None = None,
        given: Any = None,
    ) -> None:
        devices = jax.local_devices()
        mesh = jax.make_mesh((len(devices),), (IMAGES,), devices=devices)
        self._split = NamedSharding(mesh, PartitionSpec(IMAGES))
        self._read = jax.device_put((params, given), NamedSharding(mesh, PartitionSpec()))
        self._num_streams = _num_streams(len(devices))
        # A stream's part of a batch must divide by the devices.
        self._part_size = -(-batch_size // (self._num_streams * len(devices))) * len(devices)
        shape = (self._part_size, *preprocess.shape)
        layout = model.layout(shape)

        def reduce_chunk(read, pixels):
            params, given = read
            images = preprocess.normalise(pixels)

            def run(edit: Edit | Change | None = None, layers=None) -> ViTTrace:
                trace: Any = model.apply({"params": params}, images, layers, edit, method="trace")
                return trace

            forward = Forward(params, layout, images, run, layers)
            if compute is not None:
                return compute(forward, given)
            assert reduce is not None
            return reduce(forward.trace, layout)

        def reduce_part(read, pixels):
            size = chunk_size(pixels.shape[0], layout.num_tokens)
            return map_chunks(functools.partial(reduce_chunk, read), pixels, size)

        sharded = jax.shard_map(
            reduce_part,
            mesh=mesh,
            in_specs=(PartitionSpec(), PartitionSpec(IMAGES)),
            out_specs=PartitionSpec(IMAGES),
            check_vma=False,
        )
        part = jax.ShapeDtypeStruct(shape, np.uint8, sharding=self._split)
        self._compiled = jax.jit(sharded).lower(self._read, part).compile(_compiler_options())

    def __call__(self, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Tree]]:
        """The reduced traces of some batches, in order."""
        with ThreadPoolExecutor(self._num_streams, thread_name_prefix="stream") as pool:
            pending: collections.deque[tuple[Batch, list[Future]]] = collections.deque()
            try:
                for batch in batches:
                    check()
                    parts = _parts(batch.pixels, self._num_streams, self._part_size)
                    pending.append((batch, [pool.submit(self._run, part) for part in parts]))
                    if len(pending) >= BATCHES_IN_FLIGHT:
                        yield _collect(*pending.popleft())
                while pending:
                    check()
                    yield _collect(*pending.popleft())
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _run(self, pixels: UInt8[np.ndarray, "b h w v"]) -> Tree:
        """One part of a batch, computed; the stream's thread waits for it."""
        reduced = self._compiled(self._read, jax.device_put(pixels, self._split))
        return jax.tree.map(np.asarray, reduced)


def _num_streams(num_devices: int) -> int:
    """Host threads that feed the devices.

    A CPU computes one stream per core, each on a single thread: 1.15 x the speed of one stream on
    all cores, which wait for one another after every product. An accelerator is kept busy by two.
    """
    if jax.default_backend() == "cpu":
        return max(1, (os.cpu_count() or 1) // num_devices)
    return 2


def _compiler_options() -> dict[str, Any]:
    return {"xla_cpu_multi_thread_eigen": False} if jax.default_backend() == "cpu" else {}


def _parts(pixels: np.ndarray, num_parts: int, part_size: int) -> list[np.ndarray]:
    """The images of a batch in equal parts, the last one padded with black images."""
    missing = num_parts * part_size - pixels.shape[0]
    padded = np.pad(pixels, ((0, missing), (0, 0), (0, 0), (0, 0))) if missing else pixels
    return np.split(padded, num_parts)


def _collect(batch: Batch, parts: list[Future]) -> tuple[Batch, Tree]:
    """Joins the parts of a batch and drops what was padding."""
    is_real = batch.is_real
    num_images = is_real.shape[0]
    trees = [part.result() for part in parts]
    joined = jax.tree.map(lambda *leaves: np.concatenate(leaves)[:num_images][is_real], *trees)
    return Batch(batch.pixels[is_real], batch.labels[is_real], batch.indices[is_real]), joined
