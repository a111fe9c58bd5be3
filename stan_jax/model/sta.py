"""Spatio-temporal attention between the backbone and the RPN (paper Sec. 3.1)."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from stan_jax.errors import InputError
from stan_jax.model.layers import conv
from stan_jax.ops import attention


class SpatioTemporalAttention(nnx.Module):
    """STA(x0, x1) = A(x0, x1) * gamma + x1: the identity on x1 while gamma is 0.

    One Conv1 and one Conv2 serve every level, each level has its own gamma (A3, A10).

    Args:
      key_channels: c_1 of Eq. 1 (A5).
      value_source: "current" takes the values of Eq. 2 from x1, as printed, "previous"
        from x0; "both" takes keys and values from the cells of both frames (A2).
      normalise: the softmax runs over the "source" cells i, which Eq. 2 sums away, or
        over the "target" cells j (A1).
      share_embed: one Conv1 for both frames, as printed (A8).
      scale: factor on the logits, 1 as printed (A9).
      prior: width in cells of a prior on place, which each level then learns: logits
        fall with the squared distance of the cells; None, as printed, has none (A22).
      reach: a cell looks at cells so many rows and columns away at most, which with a
        prior of that size is far cheaper and the same; None, as printed: at all (A22).
      gamma: where gamma starts (A10).
      value_start: "he" starts Conv2 as any convolution, "identity" lets the values be
        the features themselves, at first (A7).
      heads: parts of the channels that look for themselves (A6).
      frames: q, the previous frames that are looked at; of several each age has a bias
        on its logits, which every level learns (A14).
      stored: what the queue keeps of a frame, its "raw" map x1 or the "attended" one,
        which carries on what it was given (A13).
    """

    def __init__(
        self,
        channels: int,
        *,
        key_channels: int,
        strides: Sequence[int],
        value_source: Literal["current", "previous", "both"] = "current",
        normalise: Literal["source", "target"] = "source",
        share_embed: bool = True,
        scale: float = 1.0,
        prior: float | None = None,
        reach: int | None = None,
        gamma: float = 0.0,
        value_start: Literal["he", "identity"] = "he",
        heads: int = 1,
        frames: int = 1,
        stored: Literal["raw", "attended"] = "raw",
        rngs: nnx.Rngs,
    ):
        for name, value, known in (
            ("value_source", value_source, ("current", "previous", "both")),
            ("normalise", normalise, ("source", "target")),
            ("value_start", value_start, ("he", "identity")),
            ("stored", stored, ("raw", "attended")),
        ):
            if value not in known:
                rule = f"must be one of {', '.join(known)}, is '{value}'"
                raise InputError(name, "", rule)
        if heads < 1 or key_channels % heads or channels % heads:
            rule = f"must divide {key_channels} and {channels} channels, is {heads}"
            raise InputError("heads", "", rule)
        if prior is not None and not prior > 0:
            raise InputError("prior", "", f"must be above 0 cells, is {prior}")
        if reach is not None and (reach < 1 or normalise != "source"):
            rule = "must be at least 1 cell, of a softmax over the source cells"
            raise InputError("reach", "", f"{rule}, is {reach} of the {normalise}")
        if frames < 1:
            raise InputError("frames", "", f"must be at least 1, is {frames}")
        self.strides, self.heads = tuple(strides), heads
        self.frames, self.stored, self.reach = frames, stored, reach
        self.value_source, self.normalise = value_source, normalise
        self.share_embed, self.scale = share_embed, scale
        self.embed = conv(channels, key_channels, 1, rngs=rngs)  # Conv1
        if not share_embed:
            self.embed_previous = conv(channels, key_channels, 1, rngs=rngs)
        self.value = conv(channels, channels, 1, rngs=rngs)  # Conv2
        if value_start == "identity":
            self.value.kernel[...] = jnp.eye(channels)[None, None]
        # With a type of their own: weak ones would be traced for once more.
        levels = jnp.ones(len(self.strides), jnp.float32)
        self.gamma = nnx.Param(gamma * levels)
        # Log of what a squared cell costs, so that it stays above 0.
        start = None if prior is None else nnx.Param(-math.log(2 * prior**2) * levels)
        self.slope = start
        ages = frames + (value_source == "both")
        start = jnp.zeros((len(self.strides), ages), jnp.float32)
        self.age = nnx.Param(start) if frames > 1 else None

    def __call__(
        self,
        x0: Sequence[Float[Array, "b q _ _ c"]],
        x1: Sequence[Float[Array, "b _ _ c"]],
        size_hw: Int[Array, "b 2"],
        known: Bool[Array, "b q"] | None = None,
    ) -> tuple[Float[Array, "b _ _ c"], ...]:
        """Return one attended map per level.

        Args:
          x0: what the queue holds of the q previous frames, the newest first.
          x1: backbone features of the current frame.
          size_hw: true frame size in pixels; cells beyond it take no part (A21).
          known: false for frames before the video began, which take no part; None: all.
        """
        levels = zip(x0, x1, self.strides, self.gamma[...], strict=True)
        return tuple(
            curr
            + gamma.astype(curr.dtype)
            * self.attention(prev, curr, size_hw, stride, known)
            for prev, curr, stride, gamma in levels  # Eq. 3
        )

    def attention(
        self,
        x0: Float[Array, "b q h w c"],
        x1: Float[Array, "b h w c"],
        size_hw: Int[Array, "b 2"],
        stride: int,
        known: Bool[Array, "b q"] | None = None,
    ) -> Float[Array, "b h w c"]:
        """Return A = Conv2(x1) (x) softmax(Conv1(x0) (x) Conv1(x1)), Eq. 1-2."""
        values = []
        if self.value_source != "current":
            values.append(_cells(self.value(x0)))
        if self.value_source != "previous":
            values.append(_cells(self.value(x1)))
        if self.value_source == "current":  # at the cells of each previous frame
            values *= self.frames
        with jax.named_scope("sta"):
            given = x0, x1, size_hw, stride, known
            attended = self._gather(*given, jnp.concatenate(values, 1))
        return attended.reshape(x1.shape)

    def weights(
        self,
        x0: Float[Array, "b q h w c"],
        x1: Float[Array, "b h w c"],
        size_hw: Int[Array, "b 2"],
        stride: int,
        cell_yx: Int[Array, "2"],
        known: Bool[Array, "b q"] | None = None,
    ) -> Float[Array, "b q h w"]:
        """Return the weight in Cor (Eq. 1) of each cell of x0 for one cell of x1.

        Args:
          x0, x1, size_hw, stride, known: as of `attention`.
          cell_yx: the cell of x1 that looks; of several heads the mean.
        """
        b, q, h, w, _ = x0.shape
        number = h * w * (q + (self.value_source == "both"))
        # A is linear in its values, so its derivative is the map: one row of it here.
        values = jnp.ones((b, number, self.heads), jnp.float32)
        gather = partial(self._gather, x0, x1, size_hw, stride, known)
        shown, transpose = jax.vjp(gather, values)
        chosen = jnp.zeros_like(shown).at[:, cell_yx[0] * w + cell_yx[1]]
        (weights,) = transpose(chosen.set(1 / self.heads))
        return weights.sum(-1)[:, : q * h * w].reshape(b, q, h, w)

    def _gather(self, x0, x1, size_hw, stride: int, known, values):
        """Values [b i n] of the cells that are looked at, mixed for each cell of x1."""
        level, level_hw = self.strides.index(stride), x1.shape[1:3]
        inside = cells_inside(size_hw, level_hw, stride)
        if known is None:
            known = jnp.ones(x0.shape[:2], bool)
        embed_previous = self.embed if self.share_embed else self.embed_previous
        query, keys = _cells(self.embed(x1)), [_cells(embed_previous(x0))]
        masks = [(known[:, :, None] & inside[:, None]).reshape(len(known), -1)]
        if self.value_source == "both":
            keys.append(query)
            masks.append(inside)
        key, mask = jnp.concatenate(keys, 1), jnp.concatenate(masks, 1)
        query, key, values = (_split(x, self.heads) for x in (query, key, values))
        mask, query_mask = (jnp.repeat(x, self.heads, axis=0) for x in (mask, inside))
        if self.reach is not None:
            maps = (-1, key.shape[1] // query.shape[1], *level_hw)
            attended = attention.attend_near(
                query.reshape(-1, *level_hw, query.shape[-1]),
                key.reshape(*maps, key.shape[-1]),
                values.reshape(*maps, values.shape[-1]),
                self._near_bias(level, maps[1], self.reach),
                mask.reshape(maps),
                query_mask.reshape(-1, *level_hw),
                scale=self.scale,
            )
            return _joined(attended.reshape(*query.shape[:2], -1), self.heads)
        scale, precision = self.scale, None
        terms = []
        if self.slope is not None:
            terms.append(_place(level_hw, jnp.exp(self.slope[...][level])))
        if self.age is not None:
            terms.append(_bias(self.age[...][level], query.shape[1]))
        if terms:
            query, key = _extended(scale * query, key, terms)
            scale, precision = 1.0, jax.lax.Precision.HIGHEST
        # The map of Eq. 1 is never stored whole: `attend` computes Eq. 1 and Eq. 2
        # together, a block of current cells at a time.
        attended = attention.attend(
            query=query,
            key=key,
            value=values,
            mask=mask,
            query_mask=query_mask,
            normalise=self.normalise,
            scale=scale,
            precision=precision,
        )
        return _joined(attended, self.heads)

    def _near_bias(
        self, level: int, maps: int, reach: int
    ) -> Float[Array, "q side side"]:
        """What prior and ages add to the logits of near cells."""
        side = 2 * reach + 1
        bias = jnp.zeros((maps, side, side), jnp.float32)
        if self.slope is not None:
            away = np.indices((side, side), np.float32) - reach
            bias -= jnp.exp(self.slope[...][level]) * (away**2).sum(0)[None]
        if self.age is not None:
            bias += self.age[...][level][:, None, None]
        return bias


def _place(level_hw: tuple[int, int], cost):
    """Four channels [cells 4] of query and key, whose product is -cost * distance^2.

    |p - q|^2 = |p|^2 + |q|^2 - 2 p q for places p and q in cells, counted from the
    middle of the map.
    """
    h, w = level_hw
    place = np.indices(level_hw).reshape(2, h * w).T - [(h - 1) / 2, (w - 1) / 2]
    square = (place**2).sum(-1, keepdims=True)
    ones = np.ones_like(square)
    of_query = np.concatenate([place, ones, square], 1)
    of_key = np.concatenate([-2 * place, square, ones], 1, dtype=np.float32)
    return of_query, -cost * of_key


def _bias(of_frame: Float[Array, " q"], cells: int):
    """One channel of query [cells 1] and key [q*cells 1], a number for each frame."""
    return np.ones((cells, 1)), jnp.repeat(of_frame, cells)[:, None]


def _extended(query, key, terms):
    """Query and key with the channels of all terms, which add to their product.

    In float32: the squares of a large map have no room in bfloat16.
    """

    def joined(x, more):
        all_cells = [jnp.tile(m, (x.shape[1] // len(m), 1)) for m in more]
        channels = jnp.concatenate(all_cells, 1).astype(jnp.float32)
        channels = jnp.broadcast_to(channels, (len(x), *channels.shape))
        return jnp.concatenate([x.astype(jnp.float32), channels], -1)

    of_query, of_key = zip(*terms, strict=True)
    return joined(query, of_query), joined(key, of_key)


def _split(x: Float[Array, "b n _"], heads: int) -> Float[Array, "_ n _"]:
    """The channels of each head as a batch of their own."""
    b, n, c = x.shape
    x = x.reshape(b, n, heads, c // heads).swapaxes(1, 2)
    return x.reshape(b * heads, n, c // heads)


def _joined(x: Float[Array, "_ n _"], heads: int) -> Float[Array, "b n _"]:
    """The inverse of `_split`."""
    _, n, c = x.shape
    return x.reshape(-1, heads, n, c).swapaxes(1, 2).reshape(-1, n, heads * c)


def cells_inside(
    size_hw: Int[Array, "b 2"], level_hw: tuple[int, int], stride: int
) -> Array:
    """Return whether the first pixel of each cell lies in the frame, not the padding.

    Result: bool [b h*w].
    """
    rows = jnp.arange(level_hw[0])[None] * stride < size_hw[:, :1]  # [b h]
    columns = jnp.arange(level_hw[1])[None] * stride < size_hw[:, 1:]  # [b w]
    return (rows[:, :, None] & columns[:, None, :]).reshape(size_hw.shape[0], -1)


def _cells(x: Float[Array, "b *h_w c"]) -> Float[Array, "b _ c"]:
    """The cells of a map, or of several frames one after the other, in a row."""
    return x.reshape(x.shape[0], -1, x.shape[-1])
