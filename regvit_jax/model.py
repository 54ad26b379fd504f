"""Vision transformers with registers: one forward pass, which hands over everything it computed.

The default is DeiT-III; what other families do otherwise is a field of the configuration. Images
become tokens (`regvit_jax.patches`), tokens pass blocks (`regvit_jax.blocks`), and the head reads
what they were pooled to.

Letters: b images, h w pixels, c channels in, n patches, r registers, t = 1 + r + n tokens, d width
of a token, l blocks, o outputs.

Reference: arXiv:2204.07118 (DeiT III), arXiv:2309.16588 (registers); `models_v2.py` of
facebookresearch/deit and of the study, whose parameters convert without a change.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from regvit_jax.blocks import Block, BlockTrace, Dense, norm_layer
from regvit_jax.chunks import chunk_size, map_chunks
from regvit_jax.config import ViTConfig
from regvit_jax.edits import UNCHANGED, Change, Edit, with_own
from regvit_jax.errors import InputError
from regvit_jax.patches import PatchEmbed, check_images
from regvit_jax.positions import resample_pos_embed
from regvit_jax.rotary import turn_of
from regvit_jax.shapes import shapes
from regvit_jax.tokens import TokenLayout, resolve_layers


class ViTTrace(NamedTuple):
    """What one forward pass computed."""

    patch_embed: Float[Array, "b n d"]
    """The patch convolution's output, before positions."""
    embedded: Float[Array, "b t d"]
    """Tokens entering block 0: CLS, registers, patches with positions, and their norm if any."""
    blocks: tuple[BlockTrace | None, ...]
    """By block index from 0; None where `layers` left the block out."""
    normed: Float[Array, "b t d"]
    """After the last norm; where that follows the pooling (`pooled_norm`), the stream itself."""
    logits: Float[Array, "b o"]
    """Without a head, what it would read: the CLS token of `normed`, say."""

    def __repr__(self) -> str:
        return shapes(self)


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
        if config.class_token:
            self.cls_token = self.param("cls_token", normal, (1, 1, dim))
        if config.num_registers:
            register_init = nn.initializers.normal(config.register_init_std)
            self.reg_tokens = self.param(
                "reg_tokens", register_init, (1, config.num_registers, dim)
            )
        if config.pos_embed:
            rows, cols = config.grid
            self.pos_embed = self.param("pos_embed", normal, (1, rows * cols, dim))
        if config.norm_pre:
            self.norm_pre = norm_layer(config)
        self.blocks = [Block(config, self.dtype) for _ in range(config.depth)]
        if config.pooled_norm:
            self.fc_norm = norm_layer(config)
        else:
            self.norm = norm_layer(config)
        if config.num_classes:
            has_bias = config.head == "classifier"
            self.head = Dense(config.num_classes, self.dtype, has_bias, written=jnp.float32)

    def __call__(
        self, images: Float[Array, "b h w c"], drop_path: Float[Array, "b l 2"] | None = None
    ) -> Float[Array, "b o"]:
        """Logits of a batch of images; without a head, what it would read.

        Args:
          images: Normalised; any height and width that the patch size divides.
          drop_path: Factors of every image's residual branches, two for each of the l blocks.

        Raises:
          InputError: If these are no normalised images (b, h, w, c), or the patch size does not
            divide them.
        """
        return self.trace(images, layers=(), drop_path=drop_path).logits

    def trace(
        self,
        images: Float[Array, "b h w c"],
        layers: int | Sequence[int] | None = None,
        edit: Edit | Change | None = None,
        drop_path: Float[Array, "b l 2"] | None = None,
    ) -> ViTTrace:
        """Everything that the forward pass computes; what the caller drops costs nothing under jit.

        Args:
          images: As for `__call__`.
          layers: Blocks to keep: None is all, n the last n, indices may be negative.
          edit: Changes what is computed (`regvit_jax.edits`); a plain function `edit(i, tokens)`
            changes the stream after block i, before the next one reads it.
          drop_path: As for `__call__`.

        Raises:
          InputError: If these are no normalised images (b, h, w, c), the patch size does not divide
            them, or a block or register does not exist.
        """
        check_images(images, self.config.num_channels)
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
    def layout(self, image_shape: Sequence[int], edit: Edit | Change | None = None) -> TokenLayout:
        """Where each kind of token sits.

        Args:
          image_shape: Of images (..., h, w, channels).
          edit: May add tokens and drop registers.

        Raises:
          InputError: If the patch size does not divide the image, or a register does not exist.
        """
        learned = self._learned_layout(image_shape)
        edit = self._whole(edit, learned)
        return learned if edit is None else edit.layout(learned)

    @nn.nowrap
    def _whole(self, edit: Edit | Change | None, learned: TokenLayout) -> Edit | None:
        """The edit, after the one that the configuration asks for."""
        config = self.config
        return with_own(config.added, learned, (config.depth, config.mlp_dim), edit)

    @nn.nowrap
    def _learned_layout(self, image_shape: Sequence[int]) -> TokenLayout:
        height, width = image_shape[-3:-1]
        size = self.config.patch_size
        if height % size or width % size:
            raise InputError(
                f"Images of {height} x {width} px do not divide into patches of {size} px. Crop or "
                f"pad them to a multiple of {size}."
            )
        return TokenLayout(
            self.config.num_registers,
            (height // size, width // size),
            self.config.class_token,
            self.config.registers_last,
        )

    def _forward(self, images, kept=(), edit=None, drop_path=None) -> ViTTrace:
        layout = self._learned_layout(images.shape)
        edit = self._whole(edit, layout)
        turn = turn_of(self.config, layout)
        patches = self.patch_embed(images)
        x = self._embed(patches, layout)
        if edit is not None:
            (x, turn), layout = edit.enter(x, turn, layout), edit.layout(layout)
        embedded = x
        blocks: list[BlockTrace | None] = []
        for layer, block in enumerate(self.blocks):
            change = UNCHANGED if edit is None else edit.inside(layer)
            trace = block(x, None if drop_path is None else drop_path[:, layer], turn, change)
            blocks.append(trace if layer in kept else None)
            x = trace.tokens if edit is None else edit.after(layer, trace.tokens)
        normed = x if self.config.pooled_norm else self.norm(x)
        pooled = self._pool(normed, layout)
        logits = self.head(pooled) if self.config.num_classes else pooled
        return ViTTrace(patches, embedded, tuple(blocks), normed, logits)

    def _embed(self, patches, layout: TokenLayout) -> Float[Array, "b t d"]:
        """CLS, registers and patches in one sequence; only patches have a position."""
        config, (batch, _, dim) = self.config, patches.shape
        positions = None
        if config.pos_embed:
            positions = resample_pos_embed(
                self.pos_embed, config.grid, layout.grid, config.pos_resampling
            )

        def of_each_image(token):
            return [jnp.broadcast_to(token, (batch, token.shape[1], dim))]

        cls = of_each_image(self.cls_token) if config.class_token else []
        registers = of_each_image(self.reg_tokens) if config.num_registers else []
        before, after = ([], registers) if config.registers_last else (registers, [])
        placed = patches if positions is None else patches + positions
        x = jnp.concatenate([*cls, *before, placed, *after], axis=1)
        return self.norm_pre(x) if config.norm_pre else x

    def _pool(self, normed, layout: TokenLayout) -> Float[Array, "b v"]:
        """What the head reads."""
        pooling = self.config.pooling
        if pooling == "cls":
            pooled = normed[:, 0]
        else:
            pooled = normed[:, layout.patches].mean(axis=1)
        if pooling == "cls_and_patches":
            pooled = jnp.concatenate([normed[:, 0], pooled], axis=-1)
        return self.fc_norm(pooled) if self.config.pooled_norm else pooled


def init_params(model: DeiT3, rng: Key[Array, ""]) -> dict[str, Any]:
    """Start values of all parameters.

    The same distributions as `model.init`, from other draws: one block is compiled and mapped over
    all of them, which takes a tenth of the time.
    """
    config = model.config
    one_block = DeiT3(dataclasses.replace(config, depth=1, added=None))
    images = jnp.zeros((1, *config.image_shape))
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
