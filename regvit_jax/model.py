"""DeiT-III with registers: one forward pass, which hands over everything it computed.

Letters: b images, h w pixels, p patch size, n patches, r registers, t = 1 + r + n tokens, k heads,
e width of a head, d = k e width of a token, m width of the MLP, c classes.

Reference: arXiv:2204.07118 (DeiT III), arXiv:2309.16588 (registers); `models_v2.py` of
facebookresearch/deit and of the study, whose parameters convert without a change.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key, Shaped

from regvit_jax.activations import NON_LINEARITIES
from regvit_jax.attention import KEPT, attend, attention_weights
from regvit_jax.chunks import chunk_size, map_chunks
from regvit_jax.config import ViTConfig
from regvit_jax.errors import InputError
from regvit_jax.positions import resample_pos_embed
from regvit_jax.product import product
from regvit_jax.tokens import TokenLayout, resolve_layers

AnyArray = TypeVar("AnyArray", Array, np.ndarray)

STACKED = "blocks"
"""Where `stack_blocks` puts the parameters of all blocks."""

Edit = Callable[[int, Float[Array, "b t d"]], Float[Array, "b t d"]]
"""Changes the stream after block i: `edit(i, tokens) -> tokens`."""


class BlockTrace(NamedTuple):
    """What one block computed."""

    query: Float[Array, "b k t e"]
    """With bias, before scaling by 1 / sqrt(e)."""
    key: Float[Array, "b k t e"]
    value: Float[Array, "b k t e"]
    attn: Float[Array, "b k t t"]
    """Softmax attention: every row adds up to 1."""
    after_attn: Float[Array, "b t d"]
    """Residual stream between attention and MLP."""
    hidden: Float[Array, "b t m"]
    """Units of the MLP after the non-linearity."""
    tokens: Float[Array, "b t d"]
    """Residual stream leaving the block."""


class ViTTrace(NamedTuple):
    """What one forward pass computed."""

    patch_embed: Float[Array, "b n d"]
    """The patch convolution's output, before positions."""
    embedded: Float[Array, "b t d"]
    """Tokens entering block 0: CLS, registers, patches with positions."""
    blocks: tuple[BlockTrace | None, ...]
    """By block index from 0; None where `layers` left the block out."""
    normed: Float[Array, "b t d"]
    """After the last LayerNorm."""
    logits: Float[Array, "b c"]
    """Without a head, the CLS token of `normed`."""


class Dense(nn.Module):
    """A dense layer whose result is float32, whatever the type of the product's inputs."""

    features: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b *t i"]) -> Float[Array, "b *t o"]:
        kernel = self.param("kernel", nn.initializers.normal(0.02), (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return product(x, kernel, self.dtype) + _per_channel(bias, x.ndim)


class Attention(nn.Module):
    """Multi-head self-attention with one fused query-key-value product."""

    config: ViTConfig
    dtype: DTypeLike

    def setup(self) -> None:
        self.qkv = Dense(3 * self.config.embed_dim, self.dtype)
        self.proj = Dense(self.config.embed_dim, self.dtype)

    def __call__(self, x: Float[Array, "b t d"]):
        query, key, value = einops.rearrange(
            self.qkv(x).astype(self.dtype),
            "b t (three k e) -> three b k t e",
            three=3,
            k=self.config.num_heads,
        )
        out = einops.rearrange(attend(query, key, value), "b k t e -> b t (k e)")
        return self.proj(out), (query, key, value, attention_weights(query, key))


class Mlp(nn.Module):
    """Two dense layers with a non-linearity between them."""

    config: ViTConfig
    dtype: DTypeLike

    def setup(self) -> None:
        gates = self.config.mlp_dim if self.config.mlp == "swiglu" else 0
        self.fc1 = Dense(gates + self.config.mlp_dim, self.dtype)
        self.fc2 = Dense(self.config.embed_dim, self.dtype)

    def __call__(self, x: Float[Array, "b t d"]):
        hidden = NON_LINEARITIES[self.config.mlp](self.fc1(x))
        return self.fc2(hidden), hidden


class Block(nn.Module):
    """Pre-norm attention and MLP, each scaled per channel and added to the residual stream."""

    config: ViTConfig
    dtype: DTypeLike

    def setup(self) -> None:
        self.norm1 = _layer_norm(self.config)
        self.attn = Attention(self.config, self.dtype)
        self.ls1 = self._layer_scale("ls1")
        self.norm2 = _layer_norm(self.config)
        self.mlp = Mlp(self.config, self.dtype)
        self.ls2 = self._layer_scale("ls2")

    def __call__(
        self, x: Float[Array, "b t d"], drop_path: Float[Array, "b 2"] | None = None
    ) -> BlockTrace:
        attn_out, (query, key, value, attn) = self.attn(self.norm1(x))
        x = after_attn = x + _keep(_scale(attn_out, self.ls1), drop_path, branch=0)
        mlp_out, hidden = self.mlp(self.norm2(x))
        x = x + _keep(_scale(mlp_out, self.ls2), drop_path, branch=1)
        return BlockTrace(query, key, value, attn, after_attn, hidden, tokens=x)

    def _layer_scale(self, name: str):
        if not self.config.layer_scale:
            return None
        init = nn.initializers.constant(self.config.layer_scale_init)
        return self.param(name, init, (self.config.embed_dim,))


class PatchEmbed(nn.Module):
    """A convolution whose kernel and stride are one patch, as a matrix product."""

    config: ViTConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b n d"]:
        size, dim = self.config.patch_size, self.config.embed_dim
        # torch's default for a convolution, which DeiT leaves as it is.
        bound = (size * size * 3) ** -0.5
        uniform = _symmetric_uniform(bound)
        kernel = self.param("kernel", uniform, (size, size, 3, dim))
        bias = self.param("bias", uniform, (dim,))
        patches = patchify(images, size)
        kernel = kernel.reshape(size * size * 3, dim)
        return product(patches, kernel, self.dtype) + _per_channel(bias, patches.ndim)


class DeiT3(nn.Module):
    """A vision transformer with registers; images are channels last and normalised.

    `dtype` is the type of the matrix products' inputs. Parameters, the residual stream, LayerNorm
    and softmax are float32 whatever it is. The module draws no random numbers: drop-path is an
    argument (`regvit_jax.drop_path`).
    """

    config: ViTConfig
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        config, normal = self.config, nn.initializers.normal(0.02)
        dim = config.embed_dim
        self.patch_embed = PatchEmbed(config, self.dtype)
        self.cls_token = self.param("cls_token", normal, (1, 1, dim))
        if config.num_registers:
            register_init = nn.initializers.normal(config.register_init_std)
            self.reg_tokens = self.param(
                "reg_tokens", register_init, (1, config.num_registers, dim)
            )
        rows, cols = config.grid
        self.pos_embed = self.param("pos_embed", normal, (1, rows * cols, dim))
        self.blocks = [Block(config, self.dtype) for _ in range(config.depth)]
        self.norm = _layer_norm(config)
        if config.num_classes:
            self.head = Dense(config.num_classes, self.dtype)

    def __call__(
        self, images: Float[Array, "b h w 3"], drop_path: Float[Array, "b l 2"] | None = None
    ) -> Float[Array, "b c"]:
        """Logits of a batch of images; without a head, their CLS tokens.

        Args:
          images: Normalised; any height and width that the patch size divides.
          drop_path: Factors of every image's residual branches, two for each of the l blocks.

        Raises:
          InputError: If these are no normalised images (b, h, w, 3), or the patch size does not
            divide them.
        """
        return self.trace(images, layers=(), drop_path=drop_path).logits

    def trace(
        self,
        images: Float[Array, "b h w 3"],
        layers: int | Sequence[int] | None = None,
        edit: Edit | None = None,
        drop_path: Float[Array, "b l 2"] | None = None,
    ) -> ViTTrace:
        """Everything that the forward pass computes; what the caller drops costs nothing under jit.

        Args:
          images: As for `__call__`.
          layers: Blocks to keep: None is all, n the last n, indices may be negative.
          edit: Changes the stream after each block, before the next one reads it.
          drop_path: As for `__call__`.

        Raises:
          InputError: If these are no normalised images (b, h, w, 3), the patch size does not divide
            them, or a block does not exist.
        """
        _check_images(images)
        kept = resolve_layers(layers, self.config.depth)
        size = chunk_size(images.shape[0], self.layout(images.shape).num_tokens)
        at_once = edit is not None or drop_path is not None or self.is_initializing()
        if at_once or size == images.shape[0]:
            return self._forward(images, kept, edit, drop_path)
        model, variables = self.unbind()

        def run(chunk) -> Any:
            return model.apply(variables, chunk, kept, method="_forward")

        return map_chunks(run, images, size)

    @nn.nowrap
    def layout(self, image_shape: Sequence[int]) -> TokenLayout:
        """Where each kind of token sits for images of shape (..., h, w, channels).

        Raises:
          InputError: If the patch size does not divide the image.
        """
        height, width = image_shape[-3:-1]
        size = self.config.patch_size
        if height % size or width % size:
            raise InputError(
                f"Images of {height} x {width} px do not divide into patches of {size} px. Crop or "
                f"pad them to a multiple of {size}."
            )
        return TokenLayout(self.config.num_registers, (height // size, width // size))

    def _forward(self, images, kept=(), edit=None, drop_path=None) -> ViTTrace:
        layout = self.layout(images.shape)
        patches = self.patch_embed(images)
        x = embedded = self._embed(patches, layout)
        blocks: list[BlockTrace | None] = []
        if STACKED in self.variables["params"] and not kept and edit is None:
            x = self._scan_blocks(x, drop_path)
        else:
            for layer, block in enumerate(self.blocks):
                trace = block(x, None if drop_path is None else drop_path[:, layer])
                blocks.append(trace if layer in kept else None)
                x = trace.tokens if edit is None else edit(layer, trace.tokens)
        normed = self.norm(x)
        logits = self.head(normed[:, 0]) if self.config.num_classes else normed[:, 0]
        return ViTTrace(patches, embedded, tuple(blocks), normed, logits)

    def _scan_blocks(self, x, drop_path):
        """All blocks in a loop; its gradient keeps products and attention, and repeats the rest."""
        block = Block(self.config, self.dtype, parent=None)

        def run(x, layer):
            params, factors = layer
            return block.apply({"params": params}, x, factors).tokens, None

        policies = jax.checkpoint_policies
        kept = policies.save_from_both_policies(
            policies.dots_with_no_batch_dims_saveable, policies.save_only_these_names(*KEPT)
        )
        run = jax.checkpoint(run, policy=kept, prevent_cse=False)
        factors = None if drop_path is None else drop_path.swapaxes(0, 1)
        return jax.lax.scan(run, x, (self.variables["params"][STACKED], factors))[0]

    def _embed(self, patches, layout: TokenLayout) -> Float[Array, "b t d"]:
        """CLS, registers and patches in one sequence; only patches have a position."""
        config = self.config
        pos_embed = resample_pos_embed(
            self.pos_embed, config.grid, layout.grid, config.pos_resampling
        )
        prefix = [self.cls_token, self.reg_tokens] if config.num_registers else [self.cls_token]
        batch, _, dim = patches.shape
        prefix = [jnp.broadcast_to(token, (batch, token.shape[1], dim)) for token in prefix]
        return jnp.concatenate([*prefix, patches + pos_embed], axis=1)


def init_params(model: DeiT3, rng: Key[Array, ""]) -> dict[str, Any]:
    """Start values of all parameters.

    The same distributions as `model.init`, from other draws: one block is compiled and mapped over
    all of them, which takes a tenth of the time.
    """
    config = model.config
    one_block = DeiT3(dataclasses.replace(config, depth=1))
    images = jnp.zeros((1, config.image_size, config.image_size, 3))
    tokens = jnp.zeros((1, 1, config.embed_dim))

    @jax.jit
    def start(rngs):
        params = one_block.init(rngs[0], images)["params"]
        init_block = Block(config, jnp.float32).init
        blocks = jax.vmap(lambda rng: init_block(rng, tokens)["params"])(rngs[1:])
        for i in range(config.depth):
            params[f"blocks_{i}"] = jax.tree.map(lambda leaf, i=i: leaf[i], blocks)
        return params

    return start(jax.random.split(rng, 1 + config.depth))


def stack_blocks(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters with those of all blocks stacked: a model that has them so loops over them.

    One block is compiled instead of all, and the gradient takes half the memory: what training on
    a CPU needs. `unstack_blocks` undoes it.
    """
    names = [name for name in params if name.startswith("blocks_")]
    in_order = [params[name] for name in sorted(names, key=_block_index)]
    rest = {name: leaf for name, leaf in params.items() if name not in names}
    return rest | {STACKED: jax.tree.map(lambda *leaves: jnp.stack(leaves), *in_order)}


def unstack_blocks(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters with those of each block by themselves, as checkpoints hold them."""
    stacked = params[STACKED]
    depth = len(jax.tree.leaves(stacked)[0])
    blocks = {f"blocks_{i}": jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(depth)}
    return {name: leaf for name, leaf in params.items() if name != STACKED} | blocks


def _block_index(name: str) -> int:
    return int(name.removeprefix("blocks_"))


def _check_images(images: Shaped[Any, "..."]) -> None:
    """Raises unless type and shape are those of normalised images; nothing is left under jit."""
    shape = tuple(np.shape(images))
    expected = "expected (batch, height, width, 3)"
    if len(shape) == 3 and 3 in (shape[0], shape[2]):
        hint = "images[None]" if shape[2] == 3 else "images.transpose(1, 2, 0)[None]"
        raise InputError(
            f"One image of shape {shape} lacks the batch axis; {expected}: use {hint}."
        )
    if len(shape) != 4:
        raise InputError(f"Images of shape {shape} have {len(shape)} axes; {expected}.")
    if shape[1] == 3 != shape[3]:
        raise InputError(
            f"Images of shape {shape} look channels first; {expected}: use "
            "images.transpose(0, 2, 3, 1)."
        )
    if shape[3] != 3:
        raise InputError(
            f"Images of shape {shape} have {shape[3]} channels; {expected}: let "
            "`regvit_jax.load_images` prepare pictures of any mode."
        )
    dtype = images.dtype if hasattr(images, "dtype") else np.asarray(images).dtype
    if not jnp.issubdtype(dtype, jnp.floating):
        raise InputError(
            f"Images are {dtype}, expected normalised float32: use `regvit_jax.load_images`, or "
            "`Preprocess.normalise` on what `Preprocess.pixels` returns."
        )


def patchify(images: Shaped[AnyArray, "b h w c"], patch_size: int) -> Shaped[AnyArray, "b n v"]:
    """The v = p p c pixel values of each patch, in the order of the patch tokens (row by row).

    On the host for NumPy arrays, of whatever type.
    """
    return einops.rearrange(
        images, "b (gh p) (gw q) c -> b (gh gw) (p q c)", p=patch_size, q=patch_size
    )


def unpatchify(
    patches: Float[Array, "b n v"], patch_size: int, grid: tuple[int, int]
) -> Float[Array, "b h w c"]:
    """The images that `patchify` cut up."""
    return einops.rearrange(
        patches,
        "b (gh gw) (p q c) -> b (gh p) (gw q) c",
        gh=grid[0],
        gw=grid[1],
        p=patch_size,
        q=patch_size,
    )


def _per_channel(vector, ndim: int):
    """A vector of one number per channel, ready to meet tokens of `ndim` axes."""
    return vector.reshape((1,) * (ndim - 1) + vector.shape)


def _keep(branch_out, drop_path, branch: int):
    return branch_out if drop_path is None else branch_out * drop_path[:, branch, None, None]


def _scale(branch_out, layer_scale):
    return branch_out if layer_scale is None else _per_channel(layer_scale, 3) * branch_out


def _layer_norm(config: ViTConfig) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=config.layer_norm_epsilon)


def _symmetric_uniform(bound: float):
    def init(rng, shape, dtype=jnp.float32):
        return jax.random.uniform(rng, shape, dtype, -bound, bound)

    return init
