"""Feature pyramid: maps of rising stride become levels of equal channels, P2..P6."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from stan_jax.model.layers import XAVIER, conv


class FeaturePyramid(nnx.Module):
    """P2..P6 with `channels` each; P6 is every second cell of P5.

    Args:
      channels_in: of each map of the backbone.
      channels: of each level.
      strides: of each map of the backbone, in pixels.
    Source: Lin et al. 2017; biases, no norm, no activation as masktrack_rcnn.
    """

    def __init__(
        self,
        channels_in: Sequence[int],
        channels: int,
        *,
        strides: Sequence[int],
        rngs: nnx.Rngs,
    ):
        self.channels = channels
        self.strides = (*strides, 2 * strides[-1])  # of the levels
        self.laterals = nnx.List(
            [conv(c, channels, 1, init=XAVIER, rngs=rngs) for c in channels_in]
        )
        self.outputs = nnx.List(
            [conv(channels, channels, 3, init=XAVIER, rngs=rngs) for _ in channels_in]
        )

    def __call__(
        self, maps: Sequence[Float[Array, "b _ _ _"]]
    ) -> tuple[Float[Array, "b _ _ c"], ...]:
        """Return P2..P6 of the backbone's C2..C5."""
        sums = [lateral(x) for lateral, x in zip(self.laterals, maps, strict=True)]
        for i in range(len(sums) - 1, 0, -1):
            sums[i - 1] = sums[i - 1] + _upsample(sums[i], sums[i - 1])
        levels = [output(x) for output, x in zip(self.outputs, sums, strict=True)]
        return (*levels, levels[-1][:, ::2, ::2])


def _upsample(x: Array, like: Array) -> Array:
    """Nearest neighbour by two, cut to the size of `like` where that is odd."""
    x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
    return x[:, : like.shape[1], : like.shape[2]]
