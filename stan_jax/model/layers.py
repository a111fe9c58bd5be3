"""Which convolution and which norm: the two layers every part of the model is made of."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

XAVIER = nnx.initializers.xavier_uniform()
KAIMING = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


class Frozen(nnx.Variable):
    """A stored array that no optimizer sees, such as the statistics of a frozen norm."""


def conv(
    channels_in: int,
    channels_out: int,
    size: int,
    *,
    stride: int = 1,
    groups: int = 1,
    bias: bool = True,
    init: Callable = KAIMING,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """A convolution padded by (size - 1) / 2 on each side.

    Explicit because "SAME" pads a strided convolution on one side only, so weights of
    other frameworks would not carry over.
    """
    pad = (size - 1) // 2
    return nnx.Conv(
        channels_in,
        channels_out,
        (size, size),
        strides=stride,
        padding=((pad, pad), (pad, pad)),
        feature_group_count=groups,
        use_bias=bias,
        kernel_init=init,
        rngs=rngs,
    )


class FrozenBatchNorm(nnx.Module):
    """Batch norm with running statistics that never move; scale and bias do learn.

    Source: masktrack_rcnn norm_eval=True; eps 1e-5 as torchvision.
    """

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        del rngs  # nothing here is random; the argument makes norms exchangeable
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.mean = Frozen(jnp.zeros(channels))
        self.var = Frozen(jnp.ones(channels))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Return x times one number and plus another per channel."""
        scale = self.scale[...] * jax.lax.rsqrt(self.var[...] + 1e-5)
        bias = self.bias[...] - self.mean[...] * scale
        return x * _per_channel(scale, x) + _per_channel(bias, x)


class GroupNorm(nnx.Module):
    """Group norm, for training from scratch with few frames per device.

    Source: Wu and He, "Group Normalization", eq. 7; groups of `group_size` channels.
    """

    def __init__(self, channels: int, *, group_size: int = 8, rngs: nnx.Rngs):
        del rngs
        if channels % group_size:
            raise ValueError(f"{channels} channels do not divide by {group_size}")
        self.group_size = group_size
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Return x with mean 0 and variance 1 in each group of each frame."""
        groups = x.shape[-1] // self.group_size
        # Channel sums first: reducing over the last axis of five is slow on CPU.
        x32 = x.astype(jnp.float32)
        mean = _group_mean(x32.mean((1, 2)), groups)  # [b c]
        square = _group_mean((x32**2).mean((1, 2)), groups)
        inverse = jax.lax.rsqrt(jnp.maximum(square - mean**2, 0.0) + 1e-5)
        scale = inverse * self.scale[...][None]
        bias = self.bias[...][None] - mean * scale
        return (x32 * scale[:, None, None] + bias[:, None, None]).astype(x.dtype)


def _per_channel(a: Float[Array, " c"], x: Array) -> Array:
    return a.astype(x.dtype)[None, None, None]


def _group_mean(x: Float[Array, "b c"], groups: int) -> Float[Array, "b c"]:
    b, c = x.shape
    mean = x.reshape(b, groups, -1).mean(-1)
    return jnp.repeat(mean, c // groups, axis=-1)


NORMS = {"frozen_batch": FrozenBatchNorm, "group": GroupNorm}
