"""Heads on the pyramid: objectness per anchor; class, box, mask, embedding per RoI."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from stan_jax.model.layers import KAIMING, XAVIER, conv, normal


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
        self.fc1 = nnx.Linear(features, channels, kernel_init=XAVIER, rngs=rngs)
        self.fc2 = nnx.Linear(channels, channels, kernel_init=XAVIER, rngs=rngs)
        self.logits = nnx.Linear(
            channels, num_classes + 1, kernel_init=normal(0.01), rngs=rngs
        )
        self.deltas = nnx.Linear(
            channels, 4 * regressed, kernel_init=normal(0.001), rngs=rngs
        )

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
        self.upsample = nnx.Linear(
            sizes[-1], 4 * channels, use_bias=False, kernel_init=KAIMING, rngs=rngs
        )
        self.upsample_bias = nnx.Param(jnp.zeros(channels))
        self.logits = nnx.Linear(channels, num_maps, kernel_init=KAIMING, rngs=rngs)

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
        self.fc1 = nnx.Linear(features, channels, kernel_init=init, rngs=rngs)
        self.fc2 = nnx.Linear(channels, channels, kernel_init=init, rngs=rngs)

    def __call__(self, x: Float[Array, "b n p p c"]) -> Float[Array, "b n e"]:
        """Return the embedding of RoI features, float32."""
        x = x.reshape(*x.shape[:2], -1)
        x = self.fc2(jax.nn.relu(self.fc1(x))).astype(jnp.float32)
        return jax.nn.relu(x) if self.last_relu else x
