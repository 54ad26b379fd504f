"""Inference, token norms and norms of JPEG files: this project against timm on PyTorch.

DeiT-III Small with 4 registers, 224 px; a batch of 32 and float32 on a CPU, of 256 and TF32 or
bfloat16 on a GPU.
"""

import functools
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.machine import device
from benchmarks.pytorch import MEAN, STD, finish, normalised, products_in, timm_model, torch_device
from benchmarks.race import OURS, SetUp, Step, race, table

SIZE, REGISTERS = 224, 4


def batch_size() -> int:
    """Enough images to fill the device."""
    return 256 if device() == "gpu" else 32


def pixels() -> np.ndarray:
    """The images of one step, before normalisation."""
    shape = (batch_size(), SIZE, SIZE, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


# --- PyTorch -----------------------------------------------------------------------------------


def timm_logits(compiled: bool, dtype: str = "float32") -> Step:
    """Plain inference, eager or by `torch.compile`."""
    torch, model = timm_model(REGISTERS, compiled)
    images = normalised(torch, pixels()).contiguous()

    def step():
        with torch.inference_mode(), products_in(torch, dtype):
            model(images)
        finish(torch)

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
    torch, model = timm_model(REGISTERS)
    found, images = norms_by_hooks(model), normalised(torch, pixels()).contiguous()

    def step():
        found.clear()
        with torch.inference_mode():
            model(images)
        return torch.stack(found, 1).cpu().numpy()

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
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int):
        with Image.open(self.files[index]) as image:
            return self.transform(image.convert("RGB"))


def timm_photograph_norms(files: list[Path]) -> Step:
    """Norms of JPEG files, decoded by a DataLoader with a worker for each core."""
    torch, model = timm_model(REGISTERS)
    found = norms_by_hooks(model)
    loader = torch.utils.data.DataLoader(
        TorchPhotographs(files),
        batch_size=batch_size(),
        num_workers=os.cpu_count() or 1,
        persistent_workers=True,
        multiprocessing_context="fork",  # a spawned worker cannot import torchvision here
    )

    def step():
        norms = []
        with torch.inference_mode():
            for images in loader:
                found.clear()
                model(images.to(torch_device()))
                norms.append(torch.stack(found, 1))
        return torch.cat(norms).cpu().numpy()

    return step


# --- ours --------------------------------------------------------------------------------------


def our_model(dtype: str = "float32"):
    """DeiT-III Small with registers, and random weights."""
    import jax

    from regvit_jax import DeiT3, ViTConfig
    from regvit_jax.model import init_params

    model = DeiT3(ViTConfig(num_registers=REGISTERS), dtype=dtype)
    return model, init_params(model, jax.random.key(0))


def our_logits(dtype: str = "float32") -> Step:
    """Plain inference: the compiled model, as any user calls it."""
    import jax

    from regvit_jax.preprocess import Preprocess

    model, params = our_model(dtype)
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
            chunk_size(batch_size(), model.layout(images.shape).num_tokens),
        )

    return lambda: np.asarray(norms(params, images))


def our_photograph_norms(files: list[Path]) -> Step:
    """Norms of JPEG files, by the loop that `regvit-analyze norms` runs."""
    from regvit_jax.analysis.engine.extract import Extractor
    from regvit_jax.batches import Batches
    from regvit_jax.image_folder import FolderSource
    from regvit_jax.preprocess import Preprocess

    model, params = our_model()
    names = tuple(path.name for path in files)
    source = FolderSource(files[0].parent, names, ())
    batches = Batches(source, Preprocess(), batch_size())
    extractor = Extractor(model, params, batches.preprocess, batch_size(), token_norms)
    return lambda: np.concatenate([norms for _, norms in extractor(batches)])


# --- the races ---------------------------------------------------------------------------------


def measure(rounds: int, files: list[Path]) -> list[dict[str, Any]]:
    """Runs the races, prints their tables and returns their figures."""
    results = []
    for dtype in ("float32", "bfloat16") if device() == "gpu" else ("float32",):
        logits: dict[str, SetUp] = {
            "timm eager": functools.partial(timm_logits, False, dtype),
            "timm torch.compile": functools.partial(timm_logits, True, dtype),
            OURS: functools.partial(our_logits, dtype),
        }
        job = "Inference" if dtype == "float32" else f"Inference, {dtype}"
        results.append(table(job, batch_size(), race(logits, rounds), OURS))
    norms: dict[str, SetUp] = {"timm eager, hooks": timm_norms, OURS: our_norms}
    results.append(table("Token norms", batch_size(), race(norms, rounds), OURS))
    loops: dict[str, SetUp] = {
        "timm, DataLoader": functools.partial(timm_photograph_norms, files),
        OURS: functools.partial(our_photograph_norms, files),
    }
    return [
        *results,
        table("Token norms of JPEG files", len(files), race(loops, rounds), OURS),
    ]
