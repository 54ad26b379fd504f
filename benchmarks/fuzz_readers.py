"""The readers of files that people bring, each with a small valid example."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from regvit_jax import checkpoint
from regvit_jax.arrays import flatten
from regvit_jax.config import ViTConfig
from regvit_jax.model import DeiT3, init_params
from regvit_jax.preprocess import Preprocess

CONFIG = ViTConfig(
    embed_dim=24, depth=2, num_heads=3, patch_size=8, image_size=16, num_registers=2, num_classes=3
)
CLASSES = ("a", "b", "c")


class Reader(NamedTuple):
    """One kind of file."""

    make: Callable[[Path], list[str]]
    """Writes a valid example into a folder; the files that are to be damaged, relative to it."""
    read: Callable[[Path], Any]
    """Reads it; what comes out can be compared."""
    notices_shifts: bool = False
    """Whether inserted and removed bytes must never load."""


def _params() -> dict[str, Any]:
    return init_params(DeiT3(CONFIG), jax.random.key(0))


def _digest(arrays: Any) -> str:
    leaves = sorted(flatten(arrays).items())
    parts = [name.encode() + np.asarray(x).tobytes() for name, x in leaves]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _picture(seed: int = 0, size: tuple[int, int] = (40, 30)) -> Image.Image:
    generator = np.random.default_rng(seed)
    small = Image.fromarray(generator.integers(0, 255, (6, 8, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def _tensors() -> dict[str, np.ndarray]:
    from regvit_jax.convert.dialects import DIALECTS
    from regvit_jax.convert.exporting import to_theirs

    params = {name: np.asarray(x) for name, x in flatten(_params()).items()}
    return to_theirs(params, DIALECTS["deit"], CONFIG)


def _make_zip(folder: Path) -> list[str]:
    from regvit_jax.convert import pth_writing

    folder.mkdir(parents=True)
    with (folder / "w.pth").open("wb") as file:
        pth_writing.write(file, _tensors(), "model")
    return ["w.pth"]


def _make_torch(folder: Path, is_new: bool) -> list[str]:
    import torch

    folder.mkdir(parents=True)
    state = {name: torch.from_numpy(x.copy()) for name, x in _tensors().items()}
    content = {"model": state, "epoch": 3, "args": {"lr": 0.1}}
    torch.save(content, folder / "w.pth", _use_new_zipfile_serialization=is_new)
    return ["w.pth"]


def _make_safetensors(folder: Path) -> list[str]:
    from regvit_jax.convert import safetensors

    folder.mkdir(parents=True)
    with (folder / "w.safetensors").open("wb") as file:
        safetensors.write(file, _tensors(), {"format": "pt"})
    return ["w.safetensors"]


def _make_msgpack(folder: Path) -> list[str]:
    from flax import serialization

    folder.mkdir(parents=True)
    tree = {"model": {name: np.ascontiguousarray(x) for name, x in _tensors().items()}}
    (folder / "w.msgpack").write_bytes(serialization.msgpack_serialize(tree))
    return ["w.msgpack"]


def _make_npz(folder: Path) -> list[str]:
    folder.mkdir(parents=True)
    np.savez(folder / "w.npz", allow_pickle=False, **_tensors())
    return ["w.npz"]


def _read_weights(folder: Path) -> str:
    from regvit_jax.convert.weights import read_weights

    weights = read_weights(next(path for path in folder.iterdir()))
    return _digest({name: tensor.read() for name, tensor in weights.tensors.items()})


def _make_timm(folder: Path) -> list[str]:
    from regvit_jax.convert import safetensors

    folder.mkdir(parents=True)
    with (folder / "model.safetensors").open("wb") as file:
        safetensors.write(file, _tensors(), {"format": "pt"})
    about = {
        "architecture": "deit3_small_patch16_224",
        "num_classes": 3,
        "pretrained_cfg": {
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "input_size": [3, 16, 16],
            "crop_pct": 0.9,
            "interpolation": "bicubic",
            "label_names": list(CLASSES),
        },
        "model_args": {"num_heads": 3},
    }
    (folder / "config.json").write_text(json.dumps(about))
    return ["config.json"]


def _make_hugging_face(folder: Path) -> list[str]:
    from regvit_jax.convert.exporting import export_checkpoint

    config = dataclasses.replace(CONFIG, num_classes=0, layer_norm_epsilon=1e-6)
    params = init_params(DeiT3(config), jax.random.key(0))
    ours = folder.with_name("hf-source")
    checkpoint.save(ours, params, checkpoint.CheckpointInfo(config), overwrite=True)
    export_checkpoint(ours, folder, "hf", "safetensors")
    processor = {
        "do_resize": True,
        "size": {"shortest_edge": 18},
        "do_center_crop": True,
        "crop_size": {"height": 16, "width": 16},
        "resample": 3,
        "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return ["config.json", "preprocessor_config.json"]


def _import(folder: Path) -> str:
    from regvit_jax.convert.importing import import_checkpoint

    out = folder.with_name("imported")
    shutil.rmtree(out, ignore_errors=True)
    import_checkpoint(folder, out, num_heads=None)
    info = checkpoint.read_info(out)
    return json.dumps([dataclasses.asdict(info.model), dataclasses.asdict(info.preprocess)])


def _make_checkpoint(folder: Path) -> list[str]:
    info = checkpoint.CheckpointInfo(
        CONFIG, {"kind": "made"}, CLASSES, Preprocess.square(16), {"top1": {"share": 0.5}}
    )
    checkpoint.save(folder, _params(), info)
    arrays = sorted(p for p in (folder / "params").rglob("*") if p.is_file())
    some = [str(path.relative_to(folder)) for path in arrays[:6]]
    return ["config.json", "checksums.json", "config.json", *some]


def _read_checkpoint(folder: Path) -> str:
    model, params = checkpoint.load(folder)
    return _digest(params) + json.dumps(dataclasses.asdict(model.config))


def _make_run(folder: Path) -> list[str]:
    from regvit_jax.train.presets import preset

    folder.mkdir(parents=True)
    (folder / "recipe.json").write_text(json.dumps(preset("demo").to_json()))
    accuracy = {"share": 0.5, "low": 0.4, "high": 0.6, "n": 100}
    lines: list[dict[str, Any]] = [
        {"step": step, "loss": 2.0 / step, "images_per_second": 30.0} for step in range(1, 9)
    ]
    lines += [{"step": 8, "data": "d", "top1": accuracy, "top5": accuracy}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    (folder / "result.json").write_text(json.dumps(lines[-1]))
    return ["recipe.json", "metrics.jsonl", "result.json"]


def _read_run(folder: Path) -> str:
    from regvit_jax.analysis.report.training import training_hours, training_svg
    from regvit_jax.train.rundir import RunDirectory

    run = RunDirectory(folder)
    training_svg([folder])
    found = [run.recipe().to_json(), run.result(), run.metrics.lines(), training_hours(folder)]
    return json.dumps(found)


def _make_results(folder: Path) -> list[str]:
    from regvit_jax.analysis.engine.answer import answer
    from regvit_jax.analysis.engine.written import question
    from regvit_jax.analysis.questions.norms.options import NormsOptions
    from regvit_jax.analysis.questions.norms.question import ANALYSIS

    source = folder.with_name("results-source")
    _make_checkpoint(source / "model")
    for i in range(12):
        (source / "pictures").mkdir(exist_ok=True)
        _picture(i).save(source / "pictures" / f"{i}.png")
    options = NormsOptions(
        checkpoint=(source / "model",), data=str(source / "pictures"), out=folder, bootstrap=100
    )
    answer(question(ANALYSIS, options))
    figures = [p.name for p in folder.glob("*.png")]
    return ["results.json", "results.json", "results.json", figures[0]]


def _read_results(folder: Path) -> int:
    from regvit_jax.analysis.comparing.compare import open_folders
    from regvit_jax.analysis.options import ReportOptions
    from regvit_jax.analysis.report.contents import collect
    from regvit_jax.analysis.report.page import page

    open_folders([folder])
    return len(page(collect(ReportOptions(results=(folder,), out=folder / "page.html"))))


def _make_images(suffix: str) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        folder.mkdir(parents=True)
        _picture().save(folder / f"p{suffix}")
        return [f"p{suffix}"]

    return make


def _read_image(folder: Path) -> tuple[int, ...]:
    from regvit_jax.images import read_image, read_size

    (path,) = folder.iterdir()
    image = read_image(path)
    assert image.size == read_size(path)
    return Preprocess.square(16).pixels(image).shape


_XML = """<annotation><folder>VOC2012</folder><filename>p.jpg</filename>
<size><width>40</width><height>30</height><depth>3</depth></size><segmented>0</segmented>
<object><name>cat</name><pose>Left</pose><truncated>0</truncated><difficult>0</difficult>
<bndbox><xmin>3</xmin><ymin>4</ymin><xmax>20</xmax><ymax>25</ymax></bndbox></object>
<object><name>dog</name><truncated>1</truncated><difficult>1</difficult>
<bndbox><xmin>10</xmin><ymin>2</ymin><xmax>39</xmax><ymax>29</ymax></bndbox></object></annotation>
"""


def _make_voc(folder: Path) -> list[str]:
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for i in range(3):
        (folder / "Annotations" / f"{i}.xml").write_text(_XML)
        _picture(i).save(folder / "JPEGImages" / f"{i}.jpg")
    for split in ("train", "val", "trainval"):
        (folder / "ImageSets/Main" / f"{split}.txt").write_text("0\n1\n2\n")
    return ["Annotations/1.xml", "Annotations/1.xml", "ImageSets/Main/val.txt"]


def _read_voc(folder: Path) -> str:
    from regvit_jax.data import open_source

    source = open_source(str(folder), "val")
    return json.dumps([source[i].boxes.tolist() for i in range(len(source))])


def _make_records(folder: Path) -> list[str]:
    from regvit_jax.train.pack import PackOptions, pack

    pictures = folder.with_name("records-source")
    for split in ("train", "val"):
        for name in CLASSES:
            (pictures / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(3):
                _picture(i).save(pictures / split / name / f"{i}.jpg")
    pack(PackOptions(pictures, folder))
    files = [str(p.relative_to(folder)) for p in sorted(folder.rglob("*")) if p.is_file()]
    return files


def _read_records(folder: Path) -> str:
    from regvit_jax.data import open_source

    source = open_source(str(folder), "val")
    samples = [source[i] for i in range(len(source))]
    return json.dumps([list(map(int, (s.label, *s.image.size))) for s in samples])


def _make_probe(folder: Path) -> list[str]:
    from regvit_jax.analysis.questions.reconstruction.probe_files import save_probe
    from regvit_jax.analysis.questions.reconstruction.probes import start_mlp

    folder.mkdir(parents=True)
    save_probe(folder / "probe.npz", start_mlp(8, 16, 12, 0), {"kind": "made"})
    return ["probe.npz"]


def _read_probe(folder: Path) -> str:
    from regvit_jax.analysis.questions.reconstruction.probe_files import load_probe

    probe, info = load_probe(folder / "probe.npz")
    return _digest(probe) + json.dumps(info)


READERS: dict[str, Reader] = {
    "pth, ours": Reader(_make_zip, _read_weights, notices_shifts=True),
    "pth, zip": Reader(lambda f: _make_torch(f, True), _read_weights, notices_shifts=True),
    "pth, legacy": Reader(lambda f: _make_torch(f, False), _read_weights, notices_shifts=True),
    "safetensors": Reader(_make_safetensors, _read_weights, notices_shifts=True),
    "msgpack": Reader(_make_msgpack, _read_weights, notices_shifts=True),
    "npz": Reader(_make_npz, _read_weights, notices_shifts=True),
    "timm folder": Reader(_make_timm, _import),
    "Hugging Face folder": Reader(_make_hugging_face, _import),
    "checkpoint": Reader(_make_checkpoint, _read_checkpoint),
    "training run": Reader(_make_run, _read_run),
    "results": Reader(_make_results, _read_results),
    **{
        f"image {suffix}": Reader(_make_images(suffix), _read_image)
        for suffix in (".jpg", ".png", ".tif", ".gif", ".webp", ".bmp", ".ppm")
    },
    "VOC": Reader(_make_voc, _read_voc),
    "ArrayRecord": Reader(_make_records, _read_records),
    "probe": Reader(_make_probe, _read_probe),
}
