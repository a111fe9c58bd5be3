"""Convolutions and max pooling whose gradients are fast on a CPU too.

Kernels' gradients are XLA's own on other platforms. Figures are of a CPU with AVX-512,
jax 0.10.2, 2026-11-27; docs/measured.md has those of whole steps.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
# Of cells and channels: from here on a kernel's gradient is one product of matrices a
# tap. On 2 x 96 x 160 cells of 256 channels that takes 0.15 s, XLA's 0.4 to 0.6; on 32
# RoIs of 14 x 14 cells 29 ms against 38, and on less XLA's is the faster one.
_MANY_CELLS, _MANY_CHANNELS = 6000, 128
_IN_CACHE = 2**19  # numbers of the map's gradient that all taps of a part share


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(
    x: Float[Array, "b h w i"],
    kernel: Float[Array, "k k i o"],
    stride: int,
    pad: int,
) -> Float[Array, "b _h _w o"]:
    """Return the convolution of x, padded by `pad` cells on each side."""
    return _xla(x, kernel, stride, pad)


def _convolve_backward(stride, pad, given, grad):
    x, kernel = given
    _, to_x = jax.vjp(lambda x: _xla(x, kernel, stride, pad), x)

    def plain(x, grad):
        _, to_kernel = jax.vjp(lambda k: _xla(x, k, stride, pad), kernel)
        return to_kernel(grad)[0]

    def tap_by_tap(x, grad):
        size, wide = len(kernel), _padded(x, pad)
        _, rows, columns, channels = grad.shape
        # So many rows of cells at once as stay in a cache for all taps.
        some = max(
            n
            for n in range(1, rows + 1)
            if n == 1 or (rows % n == 0 and n * columns * channels <= _IN_CACHE)
        )
        reach = stride * (some - 1) + 1, stride * (columns - 1) + 1

        def add(totals, part):
            image, row = part // (rows // some), part % (rows // some) * some
            extent = 1, reach[0] + size - 1, *wide.shape[2:]
            near = jax.lax.dynamic_slice(wide, (image, stride * row, 0, 0), extent)[0]
            extent = 1, some, columns, channels
            flat = jax.lax.dynamic_slice(grad, (image, row, 0, 0), extent)
            flat = flat.reshape(-1, channels)
            products = []
            for ky, kx in np.ndindex(size, size):
                seen = near[ky : ky + reach[0] : stride, kx : kx + reach[1] : stride]
                products.append(seen.reshape(len(flat), -1).T @ flat)
            return [t + p for t, p in zip(totals, products, strict=True)], None

        totals = [jnp.zeros(kernel.shape[2:], jnp.float32)] * size**2
        parts = jnp.arange(len(x) * (rows // some))
        totals, _ = jax.lax.scan(add, totals, parts)
        return jnp.stack(totals).reshape(kernel.shape).astype(kernel.dtype)

    cells, channels = grad.size // grad.shape[-1], min(kernel.shape[2:])
    many = cells >= _MANY_CELLS and channels >= _MANY_CHANNELS
    on_cpu = tap_by_tap if many else plain
    of_kernel = jax.lax.platform_dependent(x, grad, cpu=on_cpu, default=plain)
    return to_x(grad)[0], of_kernel


convolve.defvjp(lambda x, k, *how: (convolve(x, k, *how), (x, k)), _convolve_backward)


@jax.custom_vjp
def product(
    x: Float[Array, "*n i"], kernel: Float[Array, "i o"]
) -> Float[Array, "*n o"]:
    """Return x @ kernel."""
    return x @ kernel


def _product_backward(given, grad):
    x, kernel = given
    rows, columns = (a.reshape(-1, a.shape[-1]) for a in (x, grad))
    # Autodiff asks for the transpose of this, and XLA then lays the gradient of the map
    # down by channels: 7 % of a ResNet-50's step on CPU.
    to_kernel = jax.lax.dot_general(rows, columns, (((0,), (0,)), ((), ())))
    return grad @ kernel.T, to_kernel


product.defvjp(lambda x, k: (product(x, k), (x, k)), _product_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve_depthwise(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "k k 1 c"],
    stride: int,
    pad: int,
) -> Float[Array, "b _h _w c"]:
    """Return the convolution of each channel with a kernel of its own.

    A sum of shifted maps: 3.6 ms on one core where XLA's grouped form takes 82 ms, the
    kernel's gradient 13 ms where it takes 94 (8 x 48 x 80 cells of 96 channels).
    """
    return _shifted(x, kernel, stride, pad)


def _depthwise_backward(stride, pad, given, grad):
    x, kernel = given
    _, to_x = jax.vjp(lambda x: _shifted(x, kernel, stride, pad), x)

    def plain(x, grad):
        return jax.vjp(lambda k: _shifted(x, k, stride, pad), kernel)[1](grad)[0]

    def row_by_row(x, grad):
        size, columns = len(kernel), grad.shape[2]
        wide, reach = _padded(x, pad), stride * (columns - 1) + 1

        def add(total, row):
            # A sum over all cells at once would walk memory a channel at a time.
            seen = jax.lax.dynamic_slice_in_dim(wide, stride * row, size, 1)
            of_row = jax.lax.dynamic_index_in_dim(grad, row, 1, keepdims=False)
            products = [
                (seen[:, ky, kx : kx + reach : stride] * of_row).astype(jnp.float32)
                for ky, kx in np.ndindex(size, size)
            ]
            return total + jnp.stack([p.sum(0) for p in products]), None

        total = jnp.zeros((size**2, columns, x.shape[-1]), jnp.float32)
        total, _ = jax.lax.scan(add, total, jnp.arange(grad.shape[1]))
        return total.sum(1).reshape(kernel.shape).astype(kernel.dtype)

    of_kernel = jax.lax.platform_dependent(x, grad, cpu=row_by_row, default=plain)
    return to_x(grad)[0], of_kernel


convolve_depthwise.defvjp(
    lambda x, k, *how: (convolve_depthwise(x, k, *how), (x, k)), _depthwise_backward
)


@jax.custom_vjp
def max_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b _h _w c"]:
    """Return the largest of each 3x3 window, stride 2, padded by 1 on each side.

    Equal largest cells share the gradient: 5 ms on one core, where passing it to the
    first of them, as XLA does, takes 27 (12 x 48 x 80 cells of 16 channels).
    """
    return jax.lax.reduce_window(
        x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), _around(1)
    )


def _largest(x):
    """As `max_pool`, along one axis after the other."""
    for axis in (1, 2):
        number = -(-x.shape[axis] // 2)
        edge = [(int(a == axis),) * 2 for a in range(4)]
        wide = jnp.pad(x, edge, constant_values=-jnp.inf)
        ends = (2 * number - 1, 2 * number, 2 * number + 1)
        first, *others = (
            jax.lax.slice_in_dim(wide, n, end, 2, axis) for n, end in enumerate(ends)
        )
        x = jnp.maximum(jnp.maximum(first, others[0]), others[1])
    return x


max_pool.defvjp(lambda x: (max_pool(x), x), lambda x, g: jax.vjp(_largest, x)[1](g))


def _xla(x, kernel, stride, pad):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        _around(pad)[1:3],
        dimension_numbers=_DIMENSIONS,
        feature_group_count=x.shape[-1] // kernel.shape[2],
    )


def _shifted(x, kernel, stride, pad):
    """Depthwise convolution as a sum over taps, which XLA fuses into one pass."""
    size, wide = len(kernel), _padded(x, pad)
    rows, columns = ((n + 2 * pad - size) // stride * stride + 1 for n in x.shape[1:3])
    total = jnp.zeros((), jnp.float32)
    for ky, kx in np.ndindex(size, size):
        seen = wide[:, ky : ky + rows : stride, kx : kx + columns : stride]
        total = total + seen * kernel[ky, kx].astype(jnp.float32)[None, None]
    return total.astype(x.dtype)


def _padded(x, pad):
    return jnp.pad(x, _around(pad))


def _around(pad):
    return ((0, 0), (pad, pad), (pad, pad), (0, 0))
