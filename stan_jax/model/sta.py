"""Spatio-temporal attention between the backbone and the RPN (paper Sec. 3.1)."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from stan_jax.errors import InputError
from stan_jax.model.layers import conv
from stan_jax.ops import attention


class SpatioTemporalAttention(nnx.Module):
    """STA(x0, x1) = A(x0, x1) * gamma + x1: the identity on x1 while gamma is 0.

    One Conv1 and one Conv2 serve every level, each level has its own gamma (A3, A10).

    Args:
      key_channels: c_1 of Eq. 1 (A5).
      value_source: "current" takes the values of Eq. 2 from x1, as printed, "previous"
        from x0 (A2).
      normalise: the softmax runs over the "source" cells i, which Eq. 2 sums away, or
        over the "target" cells j (A1).
      share_embed: one Conv1 for both frames, as printed (A8).
      scale: factor on the logits, 1 as printed (A9).
    """

    def __init__(
        self,
        channels: int,
        *,
        key_channels: int,
        strides: Sequence[int],
        value_source: Literal["current", "previous"] = "current",
        normalise: Literal["source", "target"] = "source",
        share_embed: bool = True,
        scale: float = 1.0,
        rngs: nnx.Rngs,
    ):
        for name, value, known in (
            ("value_source", value_source, ("current", "previous")),
            ("normalise", normalise, ("source", "target")),
        ):
            if value not in known:
                rule = f"must be one of {', '.join(known)}, is '{value}'"
                raise InputError(name, "", rule)
        self.strides = tuple(strides)
        self.value_source, self.normalise = value_source, normalise
        self.share_embed, self.scale = share_embed, scale
        self.embed = conv(channels, key_channels, 1, rngs=rngs)  # Conv1
        if not share_embed:
            self.embed_previous = conv(channels, key_channels, 1, rngs=rngs)
        self.value = conv(channels, channels, 1, rngs=rngs)  # Conv2
        self.gamma = nnx.Param(jnp.zeros(len(self.strides)))

    def __call__(
        self,
        x0: Sequence[Float[Array, "b _ _ c"]],
        x1: Sequence[Float[Array, "b _ _ c"]],
        size_hw: Int[Array, "b 2"],
    ) -> tuple[Float[Array, "b _ _ c"], ...]:
        """Return one attended map per level.

        Args:
          x0: backbone features of the previous frame.
          x1: backbone features of the current frame.
          size_hw: true frame size in pixels; cells beyond it take no part (A21).
        """
        levels = zip(x0, x1, self.strides, self.gamma[...], strict=True)
        return tuple(
            curr
            + gamma.astype(curr.dtype) * self.attention(prev, curr, size_hw, stride)
            for prev, curr, stride, gamma in levels  # Eq. 3
        )

    def attention(
        self,
        x0: Float[Array, "b h w c"],
        x1: Float[Array, "b h w c"],
        size_hw: Int[Array, "b 2"],
        stride: int,
    ) -> Float[Array, "b h w c"]:
        """Return A = Conv2(x1) (x) softmax(Conv1(x0) (x) Conv1(x1)), Eq. 1-2."""
        source = x1 if self.value_source == "current" else x0
        with jax.named_scope("sta"):
            attended = self._gather(x0, x1, size_hw, stride, _cells(self.value(source)))
        return attended.reshape(x1.shape)

    def weights(
        self,
        x0: Float[Array, "b h w c"],
        x1: Float[Array, "b h w c"],
        size_hw: Int[Array, "b 2"],
        stride: int,
        cell_yx: tuple[int, int],
    ) -> Float[Array, "b h w"]:
        """Return the weight in Cor (Eq. 1) of each cell of x0 for one cell of x1.

        Args:
          x0, x1, size_hw, stride: as of `attention`.
          cell_yx: the cell of x1 that looks.
        """
        b, h, w, _ = x1.shape
        # A is linear in its values, so its derivative is the map: one row of it here.
        values = jnp.ones((b, h * w, 1), jnp.float32)
        gather = partial(self._gather, x0, x1, size_hw, stride)
        _, transpose = jax.vjp(gather, values)
        chosen = jnp.zeros_like(values).at[:, cell_yx[0] * w + cell_yx[1]].set(1.0)
        return transpose(chosen)[0].reshape(b, h, w)

    def _gather(self, x0, x1, size_hw, stride: int, values):
        """Values [b h*w n] of the cells of x0, mixed for each cell of x1."""
        embed_previous = self.embed if self.share_embed else self.embed_previous
        inside = cells_inside(size_hw, (x1.shape[1], x1.shape[2]), stride)
        # The map of Eq. 1 is never stored whole: `attend` computes Eq. 1 and Eq. 2
        # together, a block of current cells at a time.
        return attention.attend(
            query=_cells(self.embed(x1)),
            key=_cells(embed_previous(x0)),
            value=values,
            mask=inside,
            query_mask=inside,
            normalise=self.normalise,
            scale=self.scale,
        )


def cells_inside(
    size_hw: Int[Array, "b 2"], level_hw: tuple[int, int], stride: int
) -> Array:
    """Return whether the first pixel of each cell lies in the frame, not the padding.

    Result: bool [b h*w].
    """
    rows = jnp.arange(level_hw[0])[None] * stride < size_hw[:, :1]  # [b h]
    columns = jnp.arange(level_hw[1])[None] * stride < size_hw[:, 1:]  # [b w]
    return (rows[:, :, None] & columns[:, None, :]).reshape(size_hw.shape[0], -1)


def _cells(x: Float[Array, "b h w c"]) -> Float[Array, "b h*w c"]:
    return x.reshape(x.shape[0], -1, x.shape[-1])
