"""Do fast decoders give the pixels of the slow one, or nearly so?

Measured on 100 Pascal VOC photographs, in grey levels: OpenCV decodes as Pillow does, its resizing
differs by 1.0 in the mean; halved decoding of photographs of 1000 x 750 px by 0.3 with Pillow (at
most 21), by 2.1 with OpenCV, which rounds the box to whole pixels of the smaller image.
"""

import io
import sys

import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageFilter

from regvit_jax.errors import InputError
from regvit_jax.source import Encoded
from regvit_jax.train import decoding
from regvit_jax.train.crops import Crop, cut
from regvit_jax.train.decoding import check_decoder, decode_crop
from regvit_jax.train.jpeg import is_sound

# Measured on this file's picture: 0, 0.6 and 2.1 with Pillow, 0.8, 1.9 and 3.4 with OpenCV.
MEAN_LEVELS = {"pillow": 3.0, "opencv": 4.5}
# Measured on damaged files of it that both read: 3.4 in the mean at most.
DAMAGED_LEVELS = 6.0


def encode(image, suffix="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, suffix, **options)
    return Encoded(buffer.getvalue(), 0, "a picture")


@pytest.fixture(scope="module")
def photograph():
    return Image.fromarray(skimage.data.coffee())  # 600 x 400 px


def always(*box, size):
    return lambda width, height: Crop(box, size, size)


@pytest.mark.parametrize("decoder", ["pillow", "opencv"])
@pytest.mark.parametrize(("size", "shrink"), [(224, 1), (100, 2), (40, 8)])
def test_crops_are_nearly_those_of_the_whole_file(photograph, decoder, size, shrink, monkeypatch):
    encoded = encode(photograph, quality=95)
    crop = Crop((64, 32, 464, 432 - 64), size, size)
    asked = []
    read = decoding.read_image
    monkeypatch.setattr(decoding, "read_image", lambda *args: asked.append(args[2]) or read(*args))
    pixels = decode_crop(encoded, always(*crop.box, size=size), size, decoder)
    expected = cut(Image.open(io.BytesIO(encoded.data)), crop, size)
    assert asked == ([shrink] if decoder == "pillow" else [])
    levels = np.abs(pixels.astype(int) - expected)
    if decoder == "pillow" and shrink == 1:
        assert levels.max() == 0
    assert levels.mean() < MEAN_LEVELS[decoder]


def test_boxes_follow_the_upright_image(photograph):
    """EXIF orientation 6: the file lies on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    encoded = encode(photograph.rotate(90, expand=True), quality=95, exif=exif)
    shapes = []

    def choose(width, height):
        shapes.append((width, height))
        return Crop((100, 50, 400, 350), 64, 64)

    upright = np.asarray(photograph.filter(ImageFilter.BoxBlur(0)).crop((100, 50, 400, 350)))
    for decoder in ("pillow", "opencv"):
        pixels = decode_crop(encoded, choose, 64, decoder)
        small = np.asarray(Image.fromarray(upright).resize((64, 64), Image.Resampling.BICUBIC))
        assert np.abs(pixels.astype(int) - small).mean() < 4
    assert shapes == [(600, 400)] * 2


@pytest.mark.parametrize(
    ("mode", "suffix"), [("L", "JPEG"), ("CMYK", "JPEG"), ("P", "PNG"), ("RGBA", "PNG")]
)
@pytest.mark.parametrize("decoder", ["pillow", "opencv"])
def test_files_of_all_kinds_have_three_channels(photograph, mode, suffix, decoder):
    encoded = encode(photograph.convert(mode), suffix)
    pixels = decode_crop(encoded, always(0, 0, 300, 300, size=32), 32, decoder)
    expected = np.asarray(photograph.crop((0, 0, 300, 300)).resize((32, 32)))
    if mode == "L":
        expected = np.asarray(Image.fromarray(expected).convert("L").convert("RGB"))
    assert pixels.shape == (32, 32, 3)
    assert np.abs(pixels.astype(int) - expected).mean() < 15


@pytest.mark.parametrize("decoder", ["pillow", "opencv"])
@pytest.mark.parametrize("keep", [0.6, 0.01])
def test_a_file_cut_short_is_named(photograph, decoder, keep):
    data = encode(photograph).data
    damaged = Encoded(data[: int(keep * len(data))], 0, "folder/picture.jpg")
    with pytest.raises(InputError, match=r"folder/picture\.jpg"):
        decode_crop(damaged, always(0, 0, 300, 300, size=32), 32, decoder)


XMP = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF
xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""
xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="{}"/></rdf:RDF></x:xmpmeta>"""


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("place", ["exif", "xmp"])
def test_both_decoders_turn_a_photograph_alike(photograph, orientation, place):
    pytest.importorskip("cv2")
    exif = Image.Exif()
    exif[0x0112] = orientation
    saved = {"exif": exif, "xmp": XMP.format(orientation).encode()}
    encoded = encode(photograph, quality=95, **{place: saved[place]})
    for size in (100, 40):
        crop = always(20, 10, 320, 310, size=size)
        theirs, ours = (
            decode_crop(encoded, crop, size, decoder).astype(int)
            for decoder in ("pillow", "opencv")
        )
        assert np.abs(theirs - ours).mean() < MEAN_LEVELS["opencv"]


def damaged(data, generator):
    """A file after one of the things that happen to files, half of them in its first kilobyte."""
    place = int(generator.integers(len(data) if generator.random() < 0.5 else 1000))
    size = int(generator.integers(1, 60))
    return (
        data[:place],
        data[:place] + b"\xff\xd9",
        data[:place] + data[place + size :],
        data[:place] + generator.bytes(size) + data[place:],
        data[:place] + bytes(min(size, len(data) - place)) + data[place + size :],
        data[:place] + bytes([data[place] ^ 1 << int(generator.integers(8))]) + data[place + 1 :],
        data[:place] + b"\xff" + bytes([generator.integers(0xC0, 256)]) + data[place + 2 :],
    )[generator.integers(7)]


KINDS = {
    "baseline": {},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 4},
    "whole colours": {"subsampling": 0},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [64, 30])
def test_a_damaged_jpeg_is_judged_alike_by_both_decoders(photograph, kind, size):
    pytest.importorskip("cv2")
    data = encode(photograph.resize((120, 80)), **KINDS[kind]).data
    generator, num_refused = np.random.default_rng(size), 0

    def read(content, decoder):
        crop = always(0, 0, 64, 64, size=size)
        try:
            return decode_crop(Encoded(content, 0, "a picture"), crop, size, decoder).astype(int)
        except InputError:
            return None

    for _ in range(150):
        content = damaged(data, generator)
        theirs, ours = read(content, "pillow"), read(content, "opencv")
        assert (theirs is None) == (ours is None), content[:40]
        num_refused += ours is None
        assert ours is None or np.abs(theirs - ours).mean() < DAMAGED_LEVELS
    assert 30 < num_refused < 120


def test_only_whole_jpeg_files_are_left_to_opencv(photograph):
    for options in KINDS.values():
        data = encode(photograph, **options).data
        assert is_sound(data)
        assert not is_sound(data[:-2])
        assert not is_sound(data[: len(data) // 2] + b"\xff\xd9" + data[len(data) // 2 :])
    for content in (b"", b"\xff\xd8\xff\xd9", b"\xff\xd8\xff\xe0\x00\x00\xff\xd9"):
        assert not is_sound(content)


def test_a_missing_decoder_is_refused_with_the_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    decoding._opencv.cache_clear()
    with pytest.raises(InputError, match=r"pip install 'regvit-jax\[fast\]'"):
        check_decoder("opencv")
    check_decoder("pillow")
