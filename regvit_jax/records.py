"""How are prepared data sets of TensorFlow Datasets (TFDS) read at random, without TensorFlow?

The library TFDS reads the metadata and finds the records; what a record holds is parsed here, which
is five times as fast as its own decoding and keeps the images encoded until they are needed.
"""

import dataclasses
import functools
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from regvit_jax.errors import InputError
from regvit_jax.images import read_image
from regvit_jax.prepared import METADATA
from regvit_jax.source import NO_BOXES, Encoded, Sample, composed
from regvit_jax.splits import resolve_split
from regvit_jax.strict_json import read_json

FEATURES = "features.json"
_CLASS_KEYS = frozenset({"pythonClassName", "python_class_name"})
_CLASS = r"tensorflow_datasets\.core\.features(\.[A-Za-z_]\w*)+"

_FILE_NAME_KEYS = ("file_name", "filename", "image/filename", "id", "image_id")
_BOX_DECIMALS = 3  # of a pixel; boxes are stored in float32, relative to the image
_ONE_BASED = frozenset({"voc"})  # TFDS kept Pascal VOC's coordinates, which count from 1


# What TFDS raises over a description that is not its own.
_UNREADABLE = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    FileNotFoundError,
    AssertionError,
)


class RecordLayout(NamedTuple):
    """What the features of a data set are called; None where it has no such thing."""

    image: str
    label: str | None
    file_name: str | None
    boxes: str | None


@dataclasses.dataclass(frozen=True)
class RecordSource:
    """One split of a data set that TFDS prepared in the format ArrayRecord."""

    name: str
    split: str
    class_names: tuple[str, ...]
    layout: RecordLayout
    records: Any
    """TFDS' data source, whose elements are bytes; a checked type would read some of them."""
    has_one_based_boxes: bool = False

    @classmethod
    def open(cls, directory: Path, split: str, name: str | None = None) -> "RecordSource":
        """A split of a prepared data set.

        Args:
          directory: Holds `dataset_info.json` and the records.
          split: "train", "val" (which stands for "validation" or "test" where there is none), any
            other that the data set has, or a part as TFDS writes it: `train[:90%]`.
          name: What results call the data set; the directory unless given.

        Raises:
          InputError: If it cannot be opened, has no such split, or holds no images.
        """
        builder = _builder(directory)
        split = resolve_split(split, list(builder.info.splits), str(directory))
        layout = _layout(builder.info.features, directory)
        label = builder.info.features[layout.label] if layout.label else None
        source = cls(
            name=f"{name or directory} {split}",
            split=split,
            class_names=tuple(map(composed, label.names)) if label else (),
            layout=layout,
            records=_records(builder, split, directory),
            has_one_based_boxes=builder.name in _ONE_BASED,
        )
        if source.class_names and source.hides_labels():
            return dataclasses.replace(source, class_names=())
        return source

    def hides_labels(self) -> bool:
        """Whether the split's labels are not published: TFDS writes -1 for all of them."""
        if not (self.layout.label and len(self)):
            return False
        try:
            return self.encoded(0).label < 0
        except InputError:  # damaged; it is reported where it is read
            return False

    @functools.cached_property
    def file_names(self) -> "FileNames":
        return FileNames(self)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        features = self._features(index)
        record = self._encoded(features, index)
        image = read_image(record.data, record.name)
        if not self.layout.boxes:
            return Sample(image, record.label, NO_BOXES)
        return Sample(
            image,
            record.label,
            self._boxes(features, *image.size),
            self._flags(features, "is_truncated"),
            self._flags(features, "is_difficult"),
        )

    def encoded(self, index: int) -> Encoded:
        """One image as it is stored: a JPEG or PNG file.

        Raises:
          IndexError: If there is no such record.
          InputError: If it is damaged.
        """
        return self._encoded(self._features(index), index)

    def _encoded(self, features: Any, index: int) -> Encoded:
        label = features[self.layout.label].int64_list.value[0] if self.layout.label else -1
        data = features[self.layout.image].bytes_list.value[0]
        return Encoded(data, label, f"image {index} of {self.name}")

    def _features(self, index: int) -> Any:
        """Values by name, as `tf.train.Example` keeps them."""
        from google.protobuf.message import DecodeError
        from tensorflow_datasets.proto import tf_example_pb2

        if not 0 <= index < len(self):
            raise IndexError(f"{self.name} has {len(self)} images, there is no {index}.")
        try:
            features = tf_example_pb2.Example.FromString(self.records[index]).features.feature
        except (RuntimeError, IndexError, DecodeError) as error:  # array_record's and protobuf's
            raise InputError(f"Image {index} of {self.name} is damaged ({error}).") from error
        if missing := [key for key in self._needed if not self._values(features, key)]:
            raise InputError(f"Image {index} of {self.name} is damaged (lacks {sorted(missing)}).")
        if self.layout.file_name:
            self.file_names.keep(index, features[self.layout.file_name].bytes_list.value[0])
        return features

    @property
    def _needed(self) -> list[str]:
        layout = self.layout
        return [key for key in (layout.image, layout.label, layout.file_name) if key]

    def _values(self, features: Any, key: str) -> Any:
        """What a record holds under a name: labels are whole numbers, all else is bytes."""
        if key not in features:
            return ()
        is_label = key == self.layout.label
        return features[key].int64_list.value if is_label else features[key].bytes_list.value

    def _boxes(self, features: Any, width: int, height: int) -> Float[np.ndarray, "m 4"]:
        flat = np.array(features[self.layout.boxes].float_list.value, np.float64)
        relative = flat.reshape(-1, 4)[:, [1, 0, 3, 2]]  # stored as y0, x0, y1, x1
        boxes = (relative * np.array([[width, height, width, height]])).round(_BOX_DECIMALS)
        if self.has_one_based_boxes:
            boxes[:, :2] -= 1
        return boxes

    def _flags(self, features: Any, name: str) -> Bool[np.ndarray, " m"] | None:
        assert self.layout.boxes
        key = f"{self.layout.boxes.rpartition('/')[0]}/{name}"
        return np.array(features[key].int64_list.value, bool) if key in features else None


class FileNames(Sequence[str]):
    """What the records of a source call their images, or their split and number.

    A record is read whole, image included: for its name, at most once, and not at all where the
    image has been read before.
    """

    def __init__(self, source: RecordSource) -> None:
        self._source = source
        self._known: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(len(self))[index])
        index = range(len(self))[index]
        if not self._source.layout.file_name:
            return f"{self._source.split}/{index:06d}"
        if index not in self._known:
            self._source.encoded(index)
        return self._known[index]

    def keep(self, index: int, name: bytes) -> None:
        """Remembers the name of a record that has been read."""
        self._known[int(index)] = name.decode(errors="surrogateescape")

    def __eq__(self, other: object) -> bool:
        """Whether these are the names of the same images; no record is read for that."""
        return isinstance(other, FileNames) and self._source.name == other._source.name

    def __hash__(self) -> int:
        return hash(self._source.name)


def library() -> Any:
    """The library TFDS.

    Raises:
      InputError: If it is not installed.
    """
    for module in ("tensorflow_datasets", "array_record"):
        if importlib.util.find_spec(module) is None:
            raise InputError(
                f"Data sets of TensorFlow Datasets need {module}. Install it: "
                "pip install 'regvit-jax[tfds]'."
            )
    import tensorflow_datasets

    return tensorflow_datasets


def _builder(directory: Path) -> Any:
    for name in (METADATA, FEATURES):
        if (directory / name).is_file():
            _check_classes(read_json(directory / name), directory / name)
    tfds = library()
    from google.protobuf.json_format import ParseError

    try:
        return tfds.builder_from_directory(str(directory))
    except (*_UNREADABLE, ParseError) as error:
        raise InputError(
            f"The description of the data set in {directory} ({METADATA}, features.json) cannot be "
            f"read: {error}. Prepare the data set again."
        ) from error


def _check_classes(value: Any, path: Path) -> None:
    """Raises if a description names Python classes that are not TFDS' own; it would import them.

    Raises:
      InputError: Names the class.
    """
    for inner in value if isinstance(value, list) else value.values():
        if isinstance(inner, dict | list):
            _check_classes(inner, path)
    for key in _CLASS_KEYS & value.keys() if isinstance(value, dict) else ():
        named = value[key]
        if not (isinstance(named, str) and re.fullmatch(_CLASS, named)):
            raise InputError(
                f"{path} names the Python class {str(named)[:80]!r}, which would be imported. Only "
                "the features of TensorFlow Datasets are read; the file was not read further."
            )


def _records(builder: Any, split: str, directory: Path) -> Any:
    """The records of a split, in bytes.

    Raises:
      InputError: If files are missing, the format is another, or the part makes no sense.
    """
    from tensorflow_datasets.core.decode import DeserializeMethod

    if "array_record" not in {form.value for form in builder.info.available_file_formats()}:
        raise InputError(
            f"{directory} is prepared as {builder.info.file_format.value}, which cannot be read at "
            "random. Prepare the data set as ArrayRecord, in another --data_dir: tfds build "
            f"{builder.name} --file_format=array_record"
        )
    try:
        records = builder.as_data_source(
            split, file_format="array_record", deserialize_method=DeserializeMethod.RAW_BYTES
        )
        parts = builder.info.splits[split].file_instructions
    except (ValueError, AssertionError, KeyError) as error:
        raise InputError(
            f"There is no part {split!r} of {directory}. Expected one such as "
            "train[:90%] or train[1000:2000]."
        ) from error
    if missing := [part.filename for part in parts if not Path(part.filename).is_file()]:
        raise InputError(
            f"Of {directory}, {len(missing)} files are missing, first {missing[0]}. Copy them "
            "there, or prepare the data set again."
        )
    return records


def _layout(features: Any, directory: Path) -> RecordLayout:
    """Which features hold the image, its label, its name and its boxes."""
    kinds = library().features
    images = [key for key in features if type(features[key]) is kinds.Image]
    labels = [key for key in features if isinstance(features[key], kinds.ClassLabel)]
    names = [key for key in _FILE_NAME_KEYS if key in features]
    if (image := _the_one("image", images)) is None:
        raise InputError(
            f"Expected a data set of images in {directory}, with a feature `image`; it has "
            f"{', '.join(features)}."
        )
    texts = [key for key in names if isinstance(features[key], kinds.Text)]
    return RecordLayout(
        image, _the_one("label", labels), texts[0] if texts else None, _box_key(features)
    )


def _the_one(usual: str, keys: list[str]) -> str | None:
    """The feature with the usual name, else the only one of its kind."""
    return usual if usual in keys else keys[0] if len(keys) == 1 else None


def _box_key(features: Any) -> str | None:
    """The feature with boxes relative to the image, y first: `bbox`, alone or in a sequence."""
    kinds = library().features
    found = {"bbox": features["bbox"]} if "bbox" in features else {}
    for key in features:
        if isinstance(features[key], kinds.Sequence) and "bbox" in _inner(features[key]):
            found[f"{key}/bbox"] = features[key].feature["bbox"]
    boxes = [
        key
        for key, feature in found.items()
        if isinstance(feature, kinds.BBoxFeature)
        and getattr(feature.bbox_format, "value", None) in (None, "REL_YXYX")
    ]
    return boxes[0] if boxes else None


def _inner(sequence: Any) -> Sequence[str]:
    kinds = library().features
    return list(sequence.feature) if isinstance(sequence.feature, kinds.FeaturesDict) else []
