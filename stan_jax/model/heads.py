"""Heads on the pyramid: objectness per anchor; class, box, mask, embedding per RoI."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from stan_jax.model.layers import KAIMING, XAVIER, conv, linear, normal, zeros


class RpnHead(nnx.Module):
    """Objectness and box deltas of every anchor; one head serves all levels.

    Source: masktrack_rcnn rpn_head.py; all layers start from N(0, 0.01).
    """

    def __init__(self, channels: int, num_anchors: int, *, rngs: nnx.Rngs):
        init = normal(0.01)
        self.conv = conv(channels, channels, 3, init=init, rngs=rngs)
        self.logits = conv(channels, num_anchors, 1, init=init, rngs=rngs)
        self.deltas = conv(channels, 4 * num_anchors, 1, init=init, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b h w c"]
    ) -> tuple[Float[Array, "b a"], Float[Array, "b a 4"]]:
        """Return logits and deltas in anchor order (y, x, anchor), float32."""
        x = jax.nn.relu(self.conv(x))
        logits = self.logits(x).astype(jnp.float32)
        deltas = self.deltas(x).astype(jnp.float32)
        return logits.reshape(x.shape[0], -1), deltas.reshape(x.shape[0], -1, 4)

    def at(
        self, levels: Sequence[Float[Array, "b _ _ c"]], rows: Int[Array, "b n"]
    ) -> tuple[Float[Array, "b n"], Float[Array, "b n 4"]]:
        """Return what the head says of some anchors alone, for training.

        Of tens of thousands of anchors a few dozen learn: their gradient needs no
        convolution of whole maps.

        Args:
          levels: all, finest first.
          rows: of the anchors of all levels, one level after the other.
        """
        num_anchors = self.logits.kernel.shape[-1]
        cell, anchor = rows // num_anchors, rows % num_anchors
        assert self.conv.bias is not None  # `conv` gives one
        x = _windows(levels, cell)
        x = jnp.einsum("bnyxi,yxio->bno", x, self.conv.kernel[...])
        x = jax.nn.relu(x + self.conv.bias[...][None, None])[:, :, None]
        logits = self.logits(x)[:, :, 0]
        deltas = self.deltas(x).reshape(*rows.shape, num_anchors, 4)
        logits = jnp.take_along_axis(logits, anchor[..., None], 2)[..., 0]
        deltas = jnp.take_along_axis(deltas, anchor[..., None, None], 2)[:, :, 0]
        return logits.astype(jnp.float32), deltas.astype(jnp.float32)


def _windows(
    levels: Sequence[Float[Array, "b _ _ c"]], cells: Int[Array, "b n"]
) -> Float[Array, "b n 3 3 c"]:
    """The 3x3 cells around some of the cells of all levels, 0 beyond their level."""
    shapes = np.array([x.shape[1:3] for x in levels])
    ends = shapes.prod(1).cumsum()
    level = jnp.searchsorted(ends, cells, side="right")
    first = jnp.asarray(ends - shapes.prod(1))[level][..., None, None]
    height, width = (jnp.asarray(n)[level][..., None, None] for n in shapes.T)
    cell = cells[..., None, None] - first
    y = cell // width + np.arange(-1, 2)[None, None, :, None]
    x = cell % width + np.arange(-1, 2)[None, None, None]
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)  # [b n 3 3]
    row = jnp.where(inside, first + y * width + x, 0)
    table = jnp.concatenate([x.reshape(len(x), -1, x.shape[-1]) for x in levels], 1)
    found = jax.vmap(lambda table, row: table[row])(table, row)
    return jnp.where(inside[..., None], found, 0)


class BoxHead(nnx.Module):
    """Class logits (background last) and class-wise box deltas of each RoI.

    regressed: columns of box deltas; one per class, and one more for the background
    in weights of the original code, where no one reads it.
    """

    def __init__(
        self,
        features: int,
        num_classes: int,
        *,
        channels: int,
        regressed: int,
        rngs: nnx.Rngs,
    ):
        self.num_classes = num_classes
        self.fc1 = linear(features, channels, init=XAVIER, rngs=rngs)
        self.fc2 = linear(channels, channels, init=XAVIER, rngs=rngs)
        self.logits = linear(channels, num_classes + 1, init=normal(0.01), rngs=rngs)
        self.deltas = linear(channels, 4 * regressed, init=normal(0.001), rngs=rngs)

    def __call__(
        self, x: Float[Array, "b n p p c"]
    ) -> tuple[Float[Array, "b n _"], Float[Array, "b n _ 4"]]:
        """Return logits and deltas of RoI features, float32."""
        x = x.reshape(*x.shape[:2], -1)
        x = jax.nn.relu(self.fc2(jax.nn.relu(self.fc1(x))))
        deltas = self.deltas(x).astype(jnp.float32)
        return self.logits(x).astype(jnp.float32), deltas.reshape(*x.shape[:2], -1, 4)


class MaskHead(nnx.Module):
    """Mask logits of each RoI, one map per class, twice as fine as its features."""

    def __init__(
        self,
        channels_in: int,
        num_maps: int,
        *,
        channels: int,
        depth: int,
        rngs: nnx.Rngs,
    ):
        sizes = [channels_in] + [channels] * depth
        self.convs = nnx.List(
            [conv(a, b, 3, rngs=rngs) for a, b in zip(sizes, sizes[1:], strict=False)]
        )
        # A 2x2 deconvolution of stride 2 never overlaps: it is one matrix product.
        self.upsample = linear(
            sizes[-1], 4 * channels, bias=False, init=KAIMING, rngs=rngs
        )
        self.upsample_bias = nnx.Param(zeros(None, (channels,)))
        self.logits = linear(channels, num_maps, init=KAIMING, rngs=rngs)

    def __call__(self, x: Float[Array, "n p p c"]) -> Float[Array, "n q q k"]:
        """Return logits of RoI features, q = 2 p."""
        for layer in self.convs:
            x = jax.nn.relu(layer(x))
        n, p, _, _ = x.shape
        x = self.upsample(x).reshape(n, p, p, 2, 2, -1).swapaxes(2, 3)
        x = x.reshape(n, 2 * p, 2 * p, -1) + self.upsample_bias[...][None, None, None]
        return self.logits(jax.nn.relu(x))


class TrackHead(nnx.Module):
    """Appearance of each RoI; two of the same object have a large dot product.

    last_relu: the embedding is not negative, as in mmdet's roi_embed_head.py.
    Source: masktrack_rcnn track_head.py; no activation after the last layer.
    """

    def __init__(
        self,
        features: int,
        *,
        channels: int,
        last_relu: bool = False,
        rngs: nnx.Rngs,
    ):
        init = normal(0.01)
        self.last_relu = last_relu
        self.fc1 = linear(features, channels, init=init, rngs=rngs)
        self.fc2 = linear(channels, channels, init=init, rngs=rngs)

    def __call__(self, x: Float[Array, "b n p p c"]) -> Float[Array, "b n e"]:
        """Return the embedding of RoI features, float32."""
        x = x.reshape(*x.shape[:2], -1)
        x = self.fc2(jax.nn.relu(self.fc1(x))).astype(jnp.float32)
        return jax.nn.relu(x) if self.last_relu else x
