"""How does a folder of images become a data set of TensorFlow Datasets, without TensorFlow?"""

import contextlib
import dataclasses
import functools
import io
import itertools
import re
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from regvit_jax.batches import SKIP_ADVICE
from regvit_jax.console import progress
from regvit_jax.data import open_source
from regvit_jax.errors import InputError
from regvit_jax.image_folder import FolderSource
from regvit_jax.prepared import prepared_in
from regvit_jax.records import library
from regvit_jax.source import EncodedSource, Sample, check_same_classes
from regvit_jax.splits import UNDIVIDED, split_folders
from regvit_jax.threads import run_ahead
from regvit_jax.voc import LISTS, voc_year
from regvit_jax.whole import appearing, remove_leftovers

IMAGES_PER_SHARD = 4096
IMAGES_AHEAD = 64
VOC_SPLITS = ("train", "val", "test")
BOX_FLAGS = ("is_truncated", "is_difficult")

# One record a group is read alone; pictures are compressed already.
_WRITER_OPTIONS = "group_size:1,uncompressed"
_KEPT_FORMATS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")  # how a JPEG and a PNG begin
_DESCRIPTION = "Images of {folder}, packed by regvit-train pack; their order is drawn at random."


@dataclasses.dataclass(frozen=True)
class PackOptions:
    """What to pack, and how."""

    folder: Path
    """Folders train and val with one folder a class in each, one such folder, a folder of images,
    or the root of a Pascal VOC data set."""
    out: Path
    """Folder of the data set; DATA_DIR/NAME/1.0.0 is found by its name, any other by its path."""
    name: str | None = None
    """What the data set is called; the folder's name unless given."""
    shards: int | None = None
    """Files of each split; one for 4,096 images unless given."""
    skip_unreadable: bool = False
    """Leave out images that cannot be read, instead of stopping."""
    seed: int = 0
    """Seed of the order of the images, so that every part of a split is a fair sample."""

    def __post_init__(self) -> None:
        if self.name is not None and not re.fullmatch(r"[a-z]\w*", self.name):
            raise InputError(
                f"A data set's name is made of small letters, digits and _, got {self.name!r}."
            )
        if not 0 <= self.seed < 2**31:
            raise InputError(f"seed must be in [0, 2^31), got {self.seed}.")
        if self.shards is not None and self.shards < 1:
            raise InputError(f"shards must be at least 1, got {self.shards}.")


class Packed(NamedTuple):
    """What was written."""

    name: str
    num_images: dict[str, int]
    """By split."""
    skipped: list[str]
    """Messages of the images that were left out."""


def pack(options: PackOptions) -> Packed:
    """Writes a data set that `tfds.builder_from_directory` opens, whole or not at all.

    JPEG and PNG files are stored as they are, others as PNG.

    Raises:
      InputError: If there is nothing to pack, an image cannot be read, classes differ between
        splits, or something is in the way.
    """
    library()
    sources = _open_splits(options.folder)
    name = options.name or _name_of(options.folder)
    skipped: list[str] = []
    remove_leftovers(options.out.parent)
    with _new_folder(options.out) as folder:
        features = _features(next(iter(sources.values())))
        template = library().core.ShardedFileTemplate(
            data_dir=folder, dataset_name=name, filetype_suffix="array_record"
        )
        infos = [
            _write_split(source, template.replace(split=split), features, options, skipped)
            for split, source in sources.items()
        ]
        description = _DESCRIPTION.format(folder=options.folder.resolve().name)
        library().folder_dataset.write_metadata(
            data_dir=folder,
            features=features,
            split_infos=infos,
            version="1.0.0",
            description=description,
            check_data=False,  # would import TensorFlow
        )
    return Packed(name, {info.name: info.num_examples for info in infos}, skipped)


def _open_splits(folder: Path) -> dict[str, EncodedSource]:
    """The sources of a folder, by the name of their split.

    Raises:
      InputError: If there are none, they are no files, or their classes differ.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}. Expected images, or one folder a class.")
    if prepared_in(folder):
        raise InputError(f"{folder} holds a data set that is packed already.")
    splits = _voc_splits(folder) or split_folders(folder)
    opened = {split: open_source(str(folder), split) for split in splits or ("val",)}
    sources = {}
    for split, source in opened.items():
        if not isinstance(source, EncodedSource):
            raise InputError(f"The images of {source.name} are no files; they cannot be packed.")
        sources[split if splits else UNDIVIDED] = source
    first, *others = sources.values()
    for other in others:
        check_same_classes(first, other)
    return sources


def _voc_splits(folder: Path) -> tuple[str, ...]:
    """The lists that divide a VOC root; none where it has trainval alone, or is no such root."""
    year = voc_year(folder)
    lists = [name for name in VOC_SPLITS if year and (year / LISTS / f"{name}.txt").is_file()]
    return tuple(lists) if "train" in lists else ()


def _name_of(folder: Path) -> str:
    name = re.sub(r"\W+", "_", folder.resolve().name.lower(), flags=re.ASCII).strip("_")
    return name if name[:1].isalpha() else f"images_{name}".strip("_")


def _features(source: EncodedSource) -> Any:
    """What a record holds, as TFDS describes it; class folders have no boxes, VOC has."""
    kinds = library().features
    features = {"image": kinds.Image(), "file_name": kinds.Text()}
    if source.class_names:
        features["label"] = kinds.ClassLabel(names=list(source.class_names))
    if not isinstance(source, FolderSource):
        flags = {flag: np.bool_ for flag in BOX_FLAGS}
        features["objects"] = kinds.Sequence({"bbox": kinds.BBoxFeature(), **flags})
    return kinds.FeaturesDict(features)


def _write_split(
    source: EncodedSource, template: Any, features: Any, options: PackOptions, skipped: list[str]
) -> Any:
    """Writes one split's files; returns what TFDS has to know of them."""
    order = np.random.default_rng(options.seed).permutation(len(source))
    num_shards = min(options.shards or -(-len(source) // IMAGES_PER_SHARD), len(source))
    read = functools.partial(_record, source, features)
    calls = run_ahead(read, map(int, order), IMAGES_AHEAD)
    records = progress(
        _readable(calls, options.skip_unreadable, skipped), len(source), f"Packing {template.split}"
    )
    lengths, num_bytes = [], 0
    for shard, part in enumerate(np.array_split(order, num_shards)):
        path = Path(template.sharded_filepath(shard_index=shard, num_shards=num_shards))
        written = _write_shard(path, itertools.islice(records, len(part)))
        lengths.append(len(written))
        num_bytes += sum(written)
    next(records, None)  # ends the progress line
    if not sum(lengths):
        raise InputError(f"None of the {len(source)} images in {source.name} can be read.")
    return library().core.SplitInfo(
        name=template.split,
        shard_lengths=lengths,
        num_bytes=num_bytes,
        filename_template=template,
    )


def _record(source: EncodedSource, features: Any, index: int) -> bytes:
    """One image, known to be readable, with all that belongs to it."""
    sample, data = source[index], source.encoded(index).data
    if not data.startswith(_KEPT_FORMATS):
        data = _as_png(sample.image)
    example: dict[str, Any] = {"image": data, "file_name": source.file_names[index]}
    if "label" in features:
        example["label"] = sample.label
    if "objects" in features:
        example["objects"] = _objects(sample)
    return features.serialize_example(features.encode_example(example))


def _as_png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _objects(sample: Sample) -> list[dict[str, Any]]:
    """The boxes of an image, relative to its size, with their flags."""
    width, height = sample.image.size
    relative = (sample.boxes / np.array([[width, height, width, height]])).clip(0, 1)
    unknown = np.zeros(len(relative), bool)
    truncated = unknown if sample.is_truncated is None else sample.is_truncated
    difficult = unknown if sample.is_difficult is None else sample.is_difficult
    return [
        {
            "bbox": library().features.BBox(ymin=y0, xmin=x0, ymax=y1, xmax=x1),
            "is_truncated": truncated[i],
            "is_difficult": difficult[i],
        }
        for i, (x0, y0, x1, y1) in enumerate(relative.tolist())
    ]


def _readable(
    calls: Iterator[Future[bytes]], skip_unreadable: bool, skipped: list[str]
) -> Iterator[bytes | None]:
    """The records in order; None for an image that is left out.

    Raises:
      InputError: If an image cannot be read and none may be left out.
    """
    for call in calls:
        try:
            yield call.result()
        except InputError as error:
            if not skip_unreadable:
                raise InputError(f"{error} {SKIP_ADVICE}") from None
            skipped.append(str(error))
            yield None


def _write_shard(path: Path, records: Iterator[bytes | None]) -> list[int]:
    """Writes one file; returns the sizes of its records.

    Raises:
      InputError: If there is no space, say.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    writer, sizes = ArrayRecordWriter(str(path), _WRITER_OPTIONS), []
    try:
        for record in filter(None, records):
            writer.write(record)
            sizes.append(len(record))
        writer.close()
    except RuntimeError as error:  # array_record's complaint, of a full disk for one
        raise InputError(f"The data set cannot be written: {error}.") from error
    return sizes


@contextlib.contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A folder that takes its name when all is written, and vanishes if anything fails.

    Raises:
      InputError: If something is in its place.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists already. Remove it, or choose another folder.")
    with appearing(out, replace=True) as partial:
        partial.mkdir()
        yield partial
