"""Is the study's arithmetic that of a plain torch program with the same faults?

The program below is written from the description in the module, not from its code: a plain
transformer, images as torch stores them (b, 3, h, w), batches in order.
"""

import dataclasses

import jax
import numpy as np
import pytest

from regvit_jax.analysis.engine.columns import Columns
from regvit_jax.analysis.questions.reconstruction.learning import Budget
from regvit_jax.analysis.questions.reconstruction.probes import start_mlp
from regvit_jax.analysis.questions.reconstruction.study import (
    PatchesOnly,
    StudyImages,
    evaluation_targets,
    fit_as_study,
    notebook_errors,
    stopping_score,
    study_errors,
    training_targets,
)
from regvit_jax.analysis.questions.reconstruction.tokens import layer_patches, normed_patches
from regvit_jax.checkpoint import flatten, unflatten
from regvit_jax.config import ViTConfig
from regvit_jax.model import DeiT3, init_params
from regvit_jax.patches import patchify
from regvit_jax.preprocess import Preprocess

torch = pytest.importorskip("torch", reason="the extra torch is not installed")
functional = torch.nn.functional

CONFIG = ViTConfig(
    embed_dim=24, depth=2, num_heads=3, patch_size=4, image_size=16, num_classes=0, mlp_ratio=2.0
)
PREPROCESS = Preprocess.square(16)
BATCH, NUM_TRAIN, NUM_VAL = 8, 27, 20
# Tokens of 2 blocks in float32, up to 4.7: measured 1.7e-6.
TOKEN_ATOL = 1e-5
# Errors up to 5.3, after 3 epochs of AdamW in float32: measured 1.9e-6.
ERROR_ATOL = 1e-5
# 100 times a quotient of two of them, about 100: measured 1.1e-5.
PERCENT_ATOL = 5e-5
# Normalised colours up to 2.6, in two orders of operations: measured 7.2e-7.
COLOUR_ATOL = 3e-6
# A mean of norms up to 7.3: measured 4.8e-7, one unit in the last place.
SCORE_ATOL = 3e-6


def random_params(config: ViTConfig, seed: int = 0):
    """Parameters far from their start values: every block matters."""
    params = flatten(init_params(DeiT3(config), jax.random.key(seed)))
    generator = np.random.default_rng(seed)
    for name, value in params.items():
        start = 0.3 if name.endswith(("ls1", "ls2")) else np.asarray(value)
        params[name] = (start + generator.normal(0, 0.1, value.shape)).astype(np.float32)
    return unflatten(params)


class TorchViT:
    """The network on images (b, 3, h, w), with or without CLS."""

    def __init__(self, params) -> None:
        self.p = {k: torch.from_numpy(np.array(v)) for k, v in flatten(params).items()}

    def dense(self, x, name):
        return x @ self.p[f"{name}/kernel"] + self.p[f"{name}/bias"]

    def norm(self, x, name):
        weight, bias = self.p[f"{name}/scale"], self.p[f"{name}/bias"]
        return functional.layer_norm(x, x.shape[-1:], weight, bias, eps=1e-6)

    def __call__(self, images, with_cls: bool):
        p = self.p
        weight = p["patch_embed/kernel"].permute(3, 2, 0, 1)
        x = functional.conv2d(images, weight, p["patch_embed/bias"], stride=4)
        x = x.flatten(2).transpose(1, 2) + p["pos_embed"]
        if with_cls:
            x = torch.cat([p["cls_token"].expand(len(x), -1, -1), x], dim=1)
        for i in range(CONFIG.depth):
            x = x + p[f"blocks_{i}/ls1"] * self.attention(x, f"blocks_{i}")
            hidden = self.dense(self.norm(x, f"blocks_{i}/norm2"), f"blocks_{i}/mlp/fc1")
            out = self.dense(functional.gelu(hidden), f"blocks_{i}/mlp/fc2")
            x = x + p[f"blocks_{i}/ls2"] * out
        return x[:, 1:] if with_cls else self.norm(x, "norm")

    def attention(self, x, name):
        b, t, d = x.shape
        qkv = self.dense(self.norm(x, f"{name}/norm1"), f"{name}/attn/qkv")
        q, k, v = qkv.reshape(b, t, 3, 3, d // 3).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        return self.dense(mixed.transpose(1, 2).reshape(b, t, d), f"{name}/attn/proj")


def torch_images(pixels):
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (PREPROCESS.mean, PREPROCESS.std))
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - mean) / std


@pytest.fixture(scope="module")
def study():
    """Weights, pixels, and the tokens that our network makes of them."""
    config = dataclasses.replace(CONFIG)
    params = random_params(config)
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (NUM_TRAIN + NUM_VAL, 16, 16, 3)).astype(np.uint8)
    model, alone = DeiT3(config), PatchesOnly(config)
    layout = model.layout(pixels.shape)
    images = PREPROCESS.normalise(pixels)

    @jax.jit
    def tokens(params, images):
        trace = model.apply({"params": params}, images, method="trace")
        bare = alone.apply({"params": params}, images, method="trace")
        return layer_patches(config.depth - 1)(trace, layout), normed_patches(bare, layout)

    right, broken = (np.asarray(x) for x in tokens(params, images))
    return params, pixels, right, broken


def test_tokens_are_torchs_with_and_without_cls(study):
    params, pixels, right, broken = study
    network = TorchViT(params)
    images = torch_images(pixels)
    np.testing.assert_allclose(right, network(images, True), rtol=0, atol=TOKEN_ATOL)
    np.testing.assert_allclose(broken, network(images, False), rtol=0, atol=TOKEN_ATOL)
    assert np.abs(network(images, True).numpy() - broken).max() > 0.1


def test_registers_are_cut_off_with_cls():
    config = dataclasses.replace(CONFIG, num_registers=4)
    params = random_params(config, seed=1)
    images = np.random.default_rng(1).normal(size=(2, 16, 16, 3)).astype(np.float32)
    model = PatchesOnly(config)
    trace = jax.jit(lambda p, x: model.apply({"params": p}, x, method="trace"))(params, images)
    expected = TorchViT(params)(torch.from_numpy(images).permute(0, 3, 1, 2), False)
    np.testing.assert_allclose(trace.normed, expected, rtol=0, atol=TOKEN_ATOL)


def test_targets_are_torchs_two_wrong_reshapes(study):
    _, pixels, _, _ = study
    images = torch_images(pixels[:5])
    ours = PREPROCESS.normalise(pixels[:5])
    wrong = images.reshape(5, 16, 48)
    np.testing.assert_allclose(training_targets(ours, 16), wrong, rtol=0, atol=COLOUR_ATOL)
    other = images.permute(0, 2, 3, 1).reshape(5, 16, 48)
    np.testing.assert_allclose(evaluation_targets(ours, 16), other, rtol=0, atol=COLOUR_ATOL)
    score = torch.linalg.vector_norm(wrong - other, dim=1).mean().item()
    found = stopping_score(training_targets(ours, 16), evaluation_targets(ours, 16))
    assert float(found) == pytest.approx(score, abs=SCORE_ATOL)


def images_of(tokens, pixels):
    """What is kept of the images, to be read in batches."""
    columns = Columns({"tokens": tokens, "pixels": patchify(pixels, 4)})
    return StudyImages(columns, 4, (4, 4))


def torch_study(params, pixels, start, epochs):
    """The notebook: training, threshold, sums of batch means."""
    network, images = TorchViT(params), torch_images(pixels)
    training, validation = images[:NUM_TRAIN], images[NUM_TRAIN:]
    probe = torch.nn.Sequential(torch.nn.Linear(24, 96), torch.nn.GELU(), torch.nn.Linear(96, 48))
    with torch.no_grad():
        for layer, name in ((probe[0], "fc1"), (probe[2], "fc2")):
            layer.weight.copy_(torch.from_numpy(start[name]["kernel"].T.copy()))
            layer.bias.copy_(torch.from_numpy(start[name]["bias"]))
    optimiser = torch.optim.AdamW(probe.parameters(), lr=1e-3, weight_decay=0.01)
    full = [training[i : i + BATCH] for i in range(0, NUM_TRAIN - BATCH + 1, BATCH)]
    full_val = [validation[i : i + BATCH] for i in range(0, NUM_VAL - BATCH + 1, BATCH)]
    scores = []
    for _ in range(epochs):
        for batch in full:
            optimiser.zero_grad()
            target = batch.reshape(len(batch), 16, 48)
            functional.mse_loss(probe(network(batch, True)), target).backward()
            optimiser.step()
        with torch.no_grad():
            errors = [
                torch.linalg.vector_norm(probe(network(b, True)) - b.reshape(BATCH, 16, 48), dim=1)
                for b in full_val
            ]
            scores.append(float(np.mean([e.mean().item() for e in errors])))
    with torch.no_grad():
        tokens = [network(batch, False) for batch in full_val]
        norms = torch.cat([x.norm(dim=2).flatten() for x in tokens])
        threshold = torch.quantile(norms, 0.98)
        sums = torch.zeros(4)  # errors of high and low tokens, and of a probe that says 0
        for batch, x in zip(full_val, tokens, strict=True):
            target = batch.permute(0, 2, 3, 1).reshape(BATCH, 16, 4, 4, 3)
            is_high = x.norm(dim=2) >= threshold
            for i, error in enumerate((probe(x).reshape(target.shape) - target, target)):
                squares = error.square().mean((2, 3, 4))
                sums[2 * i] += squares[is_high].mean()
                sums[2 * i + 1] += squares[~is_high].mean()
    return scores, threshold.item(), *sums.tolist()


def test_every_number_is_that_of_the_torch_program(study):
    params, pixels, right, broken = study
    start = start_mlp(24, 96, 48, seed=5)
    parts = (slice(0, NUM_TRAIN), slice(NUM_TRAIN, None))
    caches = (images_of(right[part], pixels[part]) for part in parts)
    probe, fitted = fit_as_study(*caches, start, PREPROCESS, Budget(3, 5), BATCH)
    found = study_errors(probe, PREPROCESS)(broken[NUM_TRAIN:], pixels[NUM_TRAIN:])
    result = notebook_errors(*(np.asarray(x) for x in found), BATCH)
    scores, threshold, high, low, zero_high, zero_low = torch_study(params, pixels, start, 3)
    np.testing.assert_allclose(fitted.scores, scores, rtol=0, atol=ERROR_ATOL)
    assert result.threshold == pytest.approx(threshold, abs=ERROR_ATOL)
    assert result.high == pytest.approx(high, abs=ERROR_ATOL)
    assert result.low == pytest.approx(low, abs=ERROR_ATOL)
    assert result.ratio_percent == pytest.approx(100 * high / low, abs=PERCENT_ATOL)
    assert (result.num_images, result.num_batches) == (16, 2)
    assert f"{100 * high / low:.2f} %" in result.printed
    assert result.zero_high == pytest.approx(zero_high, abs=ERROR_ATOL)
    assert result.zero_low == pytest.approx(zero_low, abs=ERROR_ATOL)


def test_the_last_parameters_are_kept_not_the_best(study):
    _, pixels, right, _ = study
    start = start_mlp(24, 96, 48, seed=5)
    # The score on the same images rises while training goes on, or falls: the last is kept.
    cache = images_of(right[:8], pixels[:8])
    one, _ = fit_as_study(cache, cache, start, PREPROCESS, Budget(1, 5), BATCH)
    three, fitted = fit_as_study(cache, cache, start, PREPROCESS, Budget(3, 5), BATCH)
    assert len(fitted.scores) == 3
    assert np.abs(one["fc2"]["kernel"] - three["fc2"]["kernel"]).max() > 1e-4


def test_a_batch_without_a_high_token_is_reported_not_printed_as_a_number():
    norms = np.ones((4, 50))
    norms[0, :6] = 9
    errors = np.ones((4, 50))
    result = notebook_errors(norms, errors, errors, batch_images=2)
    assert result.num_empty_batches == 1
    assert result.high is None
    assert result.ratio_percent is None
    assert result.low == 2.0
    assert "nan" in result.printed
