"""Convolution, norms and initializers that every part of the model is made of."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from stan_jax.errors import InputError
from stan_jax.ops import convolution


def _initializer(on_host: Callable, traced: Callable) -> Callable:
    """Return an initializer that draws with NumPy, from the seed in its key.

    jax.random compiles once per shape, which makes 14 s of building a ResNet-50; this
    takes one. Under a trace, such as `jit` or `nnx.eval_shape`, there is no seed to
    read: the same law is then drawn by JAX, with other values.

    Args:
      on_host: (generator, shape, fan_in, fan_out) -> array.
      traced: initializer of `jax.nn.initializers` with the same law.
    """

    def init(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
        if isinstance(key, jax.core.Tracer):
            return traced(key, shape, dtype)
        generator = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        field = math.prod(shape[:-2])
        values = on_host(generator, shape, field * shape[-2], field * shape[-1])
        return jax.device_put(values.astype(dtype))

    return init


def zeros(_: Any, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """The initializer of biases; of NumPy, as JAX would compile one for each shape."""
    return jax.device_put(np.zeros(shape, dtype))


def ones(_: Any, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """The initializer of scales; likewise."""
    return jax.device_put(np.ones(shape, dtype))


def normal(std: float) -> Callable:
    """Return the initializer N(0, std)."""
    return _initializer(
        lambda rng, shape, *_: rng.normal(0, std, shape),
        jax.nn.initializers.normal(std),
    )


# Glorot and Bengio 2010, eq. 16; He et al. 2015, eq. 14 (fan out, as torchvision).
XAVIER = _initializer(
    lambda rng, shape, fan_in, fan_out: rng.uniform(
        -math.sqrt(6 / (fan_in + fan_out)), math.sqrt(6 / (fan_in + fan_out)), shape
    ),
    jax.nn.initializers.variance_scaling(1.0, "fan_avg", "uniform"),
)
KAIMING = _initializer(
    lambda rng, shape, _, fan_out: rng.normal(0, math.sqrt(2 / fan_out), shape),
    jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
)


class Statistic(nnx.Variable):
    """A stored array that no optimizer sees: running mean or variance of a norm."""


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
    """Return a convolution padded by (size - 1) / 2 on each side.

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
        bias_init=zeros,
        conv_general_dilated=_convolution,
        rngs=rngs,
    )


def _convolution(
    x: Array,
    kernel: Array,
    strides: tuple[int, int],
    padding: Sequence[tuple[int, int]],
    **given: Any,
) -> Array:
    """Convolve by the form that suits, in place of XLA's general one."""
    if given["feature_group_count"] > 1:
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **given)
    if kernel.shape[:2] == (1, 1):
        # The matrix product that it is: on CPU the features of a ResNet-50-FPN take 0.9
        # of the time so, their gradient 0.8.
        x = x[:, :: strides[0], :: strides[1]]
        return convolution.product(x, kernel[0, 0])
    return convolution.convolve(x, kernel, strides[0], padding[0][0])


def recomputed(function: Callable[[Array], Array], x: Array) -> Array:
    """Return function(x), of which x alone is kept for the gradient, no map within.

    As `jax.checkpoint`, whose barrier XLA drops on a CPU: there it makes everything
    again as soon as it can, long before the gradient comes, and frees nothing.

    Args:
      function: of one array; what it closes over, as parameters, learns too.
    """
    function, closed_over = jax.closure_convert(function, x)

    @jax.custom_vjp
    def run(x, closed_over):
        return function(x, *closed_over)

    def backward(given, grad):
        x, closed_over = given
        # Nothing can start before there is a gradient, since 0 times it may be NaN.
        wait = 0 * grad[(0,) * grad.ndim]
        closed_over = jax.tree.map(lambda a: a + wait.astype(a.dtype), closed_over)
        return jax.vjp(lambda x, c: function(x, *c), x, closed_over)[1](grad)

    run.defvjp(lambda *given: (run(*given), given), backward)
    return run(x, closed_over)


def linear(
    channels_in: int,
    channels_out: int,
    *,
    bias: bool = True,
    init: Callable,
    rngs: nnx.Rngs,
) -> nnx.Linear:
    """Return a layer that is one matrix product, on the last axis."""
    return nnx.Linear(
        channels_in,
        channels_out,
        use_bias=bias,
        kernel_init=init,
        bias_init=zeros,
        dot_general=_product,
        rngs=rngs,
    )


def _product(x: Array, kernel: Array, *_: Any, **given: Any) -> Array:
    return convolution.product(x, kernel)


class FrozenBatchNorm(nnx.Module):
    """Batch norm with running statistics that never move; scale and bias do learn.

    Source: masktrack_rcnn norm_eval=True; eps 1e-5 as torchvision.
    """

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        del rngs  # nothing here is random; the argument makes norms exchangeable
        self.scale = nnx.Param(ones(None, (channels,)))
        self.bias = nnx.Param(zeros(None, (channels,)))
        self.mean = Statistic(zeros(None, (channels,)))
        self.var = Statistic(ones(None, (channels,)))

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
            rule = f"{channels} channels do not divide by {group_size}"
            raise InputError("group norm", "", rule)
        self.group_size = group_size
        self.scale = nnx.Param(ones(None, (channels,)))
        self.bias = nnx.Param(zeros(None, (channels,)))

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
