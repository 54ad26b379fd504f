"""Inference, token norms and norms of JPEG files: this project against timm on PyTorch.

`python -m benchmarks.inference [--rounds N] [--compile]`: DeiT-III Small with 4 registers, batch
32, 224 px, float32.
"""

import argparse
import functools
import importlib.metadata
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.race import SetUp, Step, race, table, write

BATCH, SIZE, REGISTERS = 32, 224, 4
DEFAULT_PHOTOGRAPHS = Path(__file__).parents[2] / "shared/data/imagenette2-224/val"


def pixels(batch: int = BATCH) -> np.ndarray:
    """The images of one step, before normalisation."""
    return np.random.default_rng(0).integers(0, 256, (batch, SIZE, SIZE, 3), np.uint8)


# --- PyTorch -----------------------------------------------------------------------------------


def timm_model(compiled: bool):
    """Torch, and timm's model on all cores."""
    import os

    import torch

    for operator in ("nms", "qnms"):  # a CPU-only torch lacks torchvision's operators
        if not hasattr(torch.ops.torchvision, operator):
            signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{operator}", signature)
    warnings.simplefilter("ignore")
    import timm

    torch.set_num_threads(os.cpu_count() or 1)
    model = timm.create_model("deit3_small_patch16_224", reg_tokens=REGISTERS).eval()
    return torch, (torch.compile(model) if compiled else model)


def torch_images(torch):
    """The same pixels as ours, normalised, channels first."""
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    return (torch.from_numpy(pixels()).permute(0, 3, 1, 2) / 255 - mean) / std


def timm_logits(compiled: bool) -> Step:
    """Plain inference, eager or by `torch.compile`."""
    torch, model = timm_model(compiled)
    images = torch_images(torch).contiguous()

    def step():
        with torch.inference_mode():
            return model(images)

    return step


def norms_by_hooks(model):
    """A list that every forward pass fills with the norms of all tokens after every block."""
    found: list = []
    model.blocks[0].register_forward_pre_hook(lambda _, i: found.append(i[0].norm(dim=-1)))
    for layer in (*model.blocks, model.norm):
        layer.register_forward_hook(lambda _, __, out: found.append(out.norm(dim=-1)))
    return found


def timm_norms() -> Step:
    """Norms of all tokens after every block, by hooks."""
    torch, model = timm_model(compiled=False)
    found, images = norms_by_hooks(model), torch_images(torch).contiguous()

    def step():
        found.clear()
        with torch.inference_mode():
            model(images)
        return torch.stack(found, 1).numpy()

    return step


class TorchPhotographs:
    """A map-style data set of normalised photographs, for torch's DataLoader."""

    def __init__(self, files: list[Path]) -> None:
        from torchvision import transforms

        self.files = files
        self.transform = transforms.Compose(
            [
                transforms.Resize(SIZE, transforms.InterpolationMode.BICUBIC),
                transforms.CenterCrop(SIZE),
                transforms.ToTensor(),
                transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int):
        with Image.open(self.files[index]) as image:
            return self.transform(image.convert("RGB"))


def timm_photograph_norms(files: list[Path]) -> Step:
    """Norms of JPEG files, decoded by a DataLoader with two workers."""
    torch, model = timm_model(compiled=False)
    found = norms_by_hooks(model)
    data = TorchPhotographs(files)
    loader = torch.utils.data.DataLoader(
        data,
        batch_size=BATCH,
        num_workers=2,
        persistent_workers=True,
        multiprocessing_context="fork",  # a spawned worker cannot import torchvision here
    )

    def step():
        norms = []
        with torch.inference_mode():
            for images in loader:
                found.clear()
                model(images)
                norms.append(torch.stack(found, 1))
        return torch.cat(norms).numpy()

    return step


# --- ours --------------------------------------------------------------------------------------


def our_model():
    """DeiT-III Small with registers, and random weights."""
    import jax

    from regvit_jax import DeiT3, ViTConfig
    from regvit_jax.model import init_params

    model = DeiT3(ViTConfig(num_registers=REGISTERS))
    return model, init_params(model, jax.random.key(0))


def our_logits() -> Step:
    """Plain inference: the compiled model, as any user calls it."""
    import jax

    from regvit_jax.preprocess import Preprocess

    model, params = our_model()
    images = Preprocess().normalise(pixels())
    forward = jax.jit(lambda params, images: model.apply({"params": params}, images))
    return lambda: forward(params, images).block_until_ready()


def token_norms(trace, _layout):
    """Norms of all tokens before and after every block, and after the last LayerNorm."""
    import jax.numpy as jnp

    stream = [trace.embedded, *(block.tokens for block in trace.blocks), trace.normed]
    return jnp.stack([jnp.linalg.norm(tokens, axis=-1) for tokens in stream], axis=1)


def our_norms() -> Step:
    """Norms of all tokens after every block, by a trace."""
    import jax

    from regvit_jax.chunks import chunk_size, map_chunks
    from regvit_jax.preprocess import Preprocess

    model, params = our_model()
    images = Preprocess().normalise(pixels())

    @jax.jit
    def norms(params, images):
        return map_chunks(
            lambda chunk: token_norms(model.apply({"params": params}, chunk, method="trace"), None),
            images,
            chunk_size(BATCH, model.layout(images.shape).num_tokens),
        )

    return lambda: np.asarray(norms(params, images))


def our_photograph_norms(files: list[Path]) -> Step:
    """Norms of JPEG files, by the loop that `regvit-analyze norms` runs."""
    from analysis.extract import Extractor
    from regvit_jax.data import Batches, FolderSource
    from regvit_jax.preprocess import Preprocess

    model, params = our_model()
    names = tuple(path.name for path in files)
    source = FolderSource(files[0].parent, names, ())
    batches = Batches(source, Preprocess(), BATCH)
    extractor = Extractor(model, params, batches.preprocess, BATCH, token_norms)
    return lambda: np.concatenate([norms for _, norms in extractor(batches)])


# --- the races ---------------------------------------------------------------------------------


def photographs(folder: Path, count: int) -> list[Path]:
    """The photographs of one class, in order."""
    files = sorted(folder.rglob("*.JPEG"))
    return [path for path in files if path.parent == files[0].parent][:count]


def main() -> None:
    """Runs the races, prints their tables and keeps the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--photographs", type=Path, default=DEFAULT_PHOTOGRAPHS)
    parser.add_argument("--num-photographs", type=int, default=128)
    options = parser.parse_args()
    ours = "ours"
    logits: dict[str, SetUp] = {
        "timm eager": functools.partial(timm_logits, False),
        "timm torch.compile": functools.partial(timm_logits, True),
        ours: our_logits,
    }
    results = [table("Inference", BATCH, race(logits, options.rounds), ours)]
    norms: dict[str, SetUp] = {"timm eager, hooks": timm_norms, ours: our_norms}
    results.append(table("Token norms", BATCH, race(norms, options.rounds), ours))
    if files := photographs(options.photographs, options.num_photographs):
        files_race: dict[str, SetUp] = {
            "timm, DataLoader": functools.partial(timm_photograph_norms, files),
            ours: functools.partial(our_photograph_norms, files),
        }
        timings = race(files_race, max(3, options.rounds // 3))
        results.append(table("Token norms of JPEG files", len(files), timings, ours))
    else:
        print(f"\nNo photographs in {options.photographs}: norms of JPEG files not measured.")
    names = ("jax", "flax", "numpy", "torch", "timm", "pillow")
    path = write("inference", results, {name: importlib.metadata.version(name) for name in names})
    print(f"\nKept in {path.relative_to(Path.cwd())}")


if __name__ == "__main__":
    main()
