"""What does one block of the transformer compute? Attention and MLP, each after a norm.

Letters: b images, t tokens, k heads, e width of a head, d width of a token, m width of the MLP.
"""

from typing import NamedTuple

import einops
import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from regvit_jax.activations import NON_LINEARITIES
from regvit_jax.attention import attend, attention_weights
from regvit_jax.config import ViTConfig
from regvit_jax.edits import UNCHANGED, InBlock
from regvit_jax.product import product
from regvit_jax.rotary import Turn, turned
from regvit_jax.shapes import shapes


class BlockTrace(NamedTuple):
    """What one block computed."""

    query: Float[Array, "b k t e"]
    """With bias, norm and rotation, before scaling by 1 / sqrt(e)."""
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

    def __repr__(self) -> str:
        return shapes(self)


class Block(nn.Module):
    """Pre-norm attention and MLP, each scaled per channel and added to the residual stream."""

    config: ViTConfig
    dtype: DTypeLike

    def setup(self) -> None:
        self.norm1 = norm_layer(self.config)
        self.attn = Attention(self.config, self.dtype)
        self.ls1 = self._layer_scale("ls1")
        self.norm2 = norm_layer(self.config)
        self.mlp = Mlp(self.config, self.dtype)
        self.ls2 = self._layer_scale("ls2")

    def __call__(
        self,
        x: Float[Array, "b t d"],
        drop_path: Float[Array, "b 2"] | None = None,
        turn: Turn | None = None,
        change: InBlock = UNCHANGED,
    ) -> BlockTrace:
        attn_out, (query, key, value, attn) = self.attn(self.norm1(x), turn, change)
        x = after_attn = x + _keep(_scale(attn_out, self.ls1), drop_path, branch=0)
        mlp_out, hidden = self.mlp(self.norm2(x), change)
        x = x + _keep(_scale(mlp_out, self.ls2), drop_path, branch=1)
        return BlockTrace(query, key, value, attn, after_attn, hidden, tokens=x)

    def _layer_scale(self, name: str):
        if not self.config.layer_scale:
            return None
        init = nn.initializers.constant(self.config.layer_scale_init)
        return self.param(name, init, (self.config.embed_dim,))


class Attention(nn.Module):
    """Multi-head self-attention with one fused query-key-value product."""

    config: ViTConfig
    dtype: DTypeLike

    def setup(self) -> None:
        config = self.config
        inner = config.num_heads * config.head_dim
        self.qkv = Dense(3 * inner, self.dtype, config.qkv_bias)
        if config.qk_norm:
            self.q_norm, self.k_norm = norm_layer(config), norm_layer(config)
        self.proj = Dense(config.embed_dim, self.dtype)

    def __call__(self, x: Float[Array, "b t d"], turn: Turn | None, change: InBlock):
        changes = self.config.qk_norm or turn is not None
        query, key, value = einops.rearrange(
            self.qkv(x).astype(jnp.float32 if changes else self.dtype),
            "b t (three k e) -> three b k t e",
            three=3,
            k=self.config.num_heads,
        )
        if changes:
            query, key, value = self._changed(query, key, value, turn)
        value = change.value(value)
        out = einops.rearrange(attend(query, key, value), "b k t e -> b t (k e)")
        return change.attn_out(self.proj(out)), (query, key, value, attention_weights(query, key))

    def _changed(self, query, key, value, turn: Turn | None):
        """Query and key after their norms, turned to their places."""
        if self.config.qk_norm:
            query, key = self.q_norm(query), self.k_norm(key)
        if turn is not None:
            query, key = turned(query, turn), turned(key, turn)
        return query.astype(self.dtype), key.astype(self.dtype), value.astype(self.dtype)


class Mlp(nn.Module):
    """Two dense layers with a non-linearity between them."""

    config: ViTConfig
    dtype: DTypeLike

    def setup(self) -> None:
        gates = self.config.mlp_dim if self.config.mlp == "swiglu" else 0
        self.fc1 = Dense(gates + self.config.mlp_dim, self.dtype)
        self.fc2 = Dense(self.config.embed_dim, self.dtype)

    def __call__(self, x: Float[Array, "b t d"], change: InBlock):
        hidden = change.hidden(NON_LINEARITIES[self.config.mlp](self.fc1(x)))
        return self.fc2(hidden), hidden


class Dense(nn.Module):
    """A dense layer."""

    features: int
    dtype: DTypeLike
    """Type of the product's factors."""
    use_bias: bool = True
    written: DTypeLike | None = None
    """Type of the result; by default the one that is best here (`regvit_jax.ways`)."""

    @nn.compact
    def __call__(self, x: Float[Array, "b *t i"]) -> Float[Array, "b *t o"]:
        kernel = self.param("kernel", nn.initializers.normal(0.02), (x.shape[-1], self.features))
        out = product(x, kernel, self.dtype, self.written)
        if not self.use_bias:
            return out
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return (out + _per_channel(bias, x.ndim)).astype(out.dtype)


def norm_layer(config: ViTConfig) -> nn.LayerNorm | nn.RMSNorm:
    """The norm of a model, of whatever width it meets."""
    kind = nn.LayerNorm if config.norm == "layer" else nn.RMSNorm
    return kind(epsilon=config.layer_norm_epsilon)


def _per_channel(vector, ndim: int):
    """A vector of one number per channel, ready to meet tokens of `ndim` axes."""
    return vector.reshape((1,) * (ndim - 1) + vector.shape)


def _keep(branch_out, drop_path, branch: int):
    return branch_out if drop_path is None else branch_out * drop_path[:, branch, None, None]


def _scale(branch_out, layer_scale):
    return branch_out if layer_scale is None else _per_channel(layer_scale, 3) * branch_out
