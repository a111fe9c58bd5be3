"""Convolutions and max pooling that are fast on a CPU too, and their gradients.

On other platforms they are XLA's own. Figures are of two cores, jax 0.10.2, 2026-11-27;
docs/measured.md has those of whole frames and steps.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
# From so many cells and channels on, 3x3 convolutions of float32 go by Winograd's way.
# Of fewer it takes longer to transform the kernel than to convolve.
_MANY_CELLS, _MANY_CHANNELS = 900, 64
# From so many channels on, the gradient of any other kernel is a product for each tap:
# 16 to 18 ms where XLA takes 24 to 29, for stages 3 and 4 of a ResNet-50.
_WIDE = 256
# The points at which Winograd's polynomials meet, and infinity. These round least of
# those tried: 1.9 times the error of the plain sum, where 0, +-1, +-2 have 2.7 times.
_POINTS = np.array([0, 2 / 3, -2 / 3, 3 / 2, -3 / 2])
_IN_CACHE = 2**19  # numbers of the transformed gradient that the taps of a part share


def _matrices():
    """Return what cells, taps and outputs are multiplied with: [6 6], [6 3], [4 6]."""
    cells, taps, outputs = np.zeros((6, 6)), np.zeros((6, 3)), np.zeros((4, 6))
    for n, point in enumerate(_POINTS):
        others = np.delete(_POINTS, n)
        cells[n, :5] = np.poly(others)[::-1]
        taps[n] = point ** np.arange(3) / np.prod(point - others)
        outputs[:, n] = point ** np.arange(4)
    cells[5] = np.poly(_POINTS)[::-1]
    taps[5, 2] = outputs[3, 5] = 1
    return [np.where(abs(m) > 1e-12, m, 0) for m in (cells, taps, outputs)]


_CELLS, _TAPS, _OUTPUTS = _matrices()


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(
    x: Float[Array, "b h w i"],
    kernel: Float[Array, "k k i o"],
    stride: int,
    pad: int,
) -> Float[Array, "b _h _w o"]:
    """Return the convolution of x, padded by `pad` cells on each side.

    On a CPU a 3x3 kernel takes half the multiplications, by Winograd's F(4, 3) along
    rows (Lavin and Gray, 2016): 65 ms where XLA takes 113, for 96 x 160 cells of 256
    channels to as many. It rounds otherwise, by some 2e-7 of the result.
    """
    plain = partial(_xla, stride=stride, pad=pad)
    on_cpu = _winograd if _by_winograd(x, kernel, stride, pad) else plain
    return _by_platform(on_cpu, plain, x, kernel)


def _convolve_backward(stride, pad, given, grad):
    x, kernel = given

    def to_x(grad, kernel):
        return jax.vjp(lambda x: _xla(x, kernel, stride, pad), x)[1](grad)[0]

    def to_kernel(x, grad):
        return jax.vjp(lambda k: _xla(x, k, stride, pad), kernel)[1](grad)[0]

    x_on_cpu, kernel_on_cpu = to_x, to_kernel
    if _by_winograd(x, kernel, stride, pad):
        x_on_cpu, kernel_on_cpu = _winograd_to_x, _winograd_to_kernel
    elif min(kernel.shape[2:]) >= _WIDE:
        kernel_on_cpu = partial(_taps_to_kernel, like=kernel, stride=stride, pad=pad)
    of_x = _by_platform(x_on_cpu, to_x, grad, kernel)
    return of_x, _by_platform(kernel_on_cpu, to_kernel, x, grad)


convolve.defvjp(lambda x, k, *how: (convolve(x, k, *how), (x, k)), _convolve_backward)


def _by_platform(on_cpu, default, *given):
    if on_cpu is default:  # one program, without a choice in it
        return default(*given)
    return jax.lax.platform_dependent(*given, cpu=on_cpu, default=default)


def _by_winograd(x, kernel, stride, pad):
    cells = x.size // x.shape[-1]
    many = cells >= _MANY_CELLS and min(kernel.shape[2:]) >= _MANY_CHANNELS
    fits = (len(kernel), stride, pad) == (3, 1, 1)
    return many and fits and x.dtype == kernel.dtype == jnp.float32


def _winograd(x, kernel):
    """Four rows of the result from six of the map, by six kernels of one row each."""
    *between, last = _fours(x)
    first, none = between[0], jnp.zeros_like(last[:, :1])
    above = jnp.concatenate([none, last[:, :-1]], 1)
    below = jnp.concatenate([first[:, 1:], none], 1)
    cells = _combine(_CELLS, [above, *between, last, below])
    taps = _combine(_TAPS, [kernel[n : n + 1] for n in range(3)])
    products = [
        jax.lax.conv_general_dilated(
            c, t, (1, 1), ((0, 0), (1, 1)), dimension_numbers=_DIMENSIONS
        )
        for c, t in zip(cells, taps, strict=True)
    ]
    rows = jnp.stack(_combine(_OUTPUTS, products), 2)
    b, fours, _, w, o = rows.shape
    return rows.reshape(b, 4 * fours, w, o)[:, : x.shape[1]]


def _winograd_to_x(grad, kernel):
    """The convolution with the kernel turned, its taps transposed."""
    flat = kernel.reshape(9, *kernel.shape[2:])[::-1]
    # A tap at a time: XLA would transpose within each of its sums, 3 times as slow.
    taps = jax.lax.map(jnp.transpose, flat)
    return _winograd(grad, taps.reshape(3, 3, *taps.shape[1:]))


def _winograd_to_kernel(x, grad):
    """Products of the transformed map and gradient, by parts that stay in a cache."""
    (b, h, w, o), channels = grad.shape, x.shape[-1]
    fours = -(-h // 4)
    wide = jnp.pad(x, ((0, 0), (1, 4 * fours - h + 1), (1, 1), (0, 0)))
    grad = jnp.pad(grad, ((0, 0), (0, 4 * fours - h), (0, 0), (0, 0)))
    some = max(
        n
        for n in range(1, fours + 1)
        if n == 1 or (fours % n == 0 and 6 * n * w * o <= _IN_CACHE)
    )

    def add(totals, part):
        image, row = part // (fours // some), part % (fours // some) * 4 * some
        extent = 1, 4 * some + 2, *wide.shape[2:]
        near = jax.lax.dynamic_slice(wide, (image, row, 0, 0), extent)[0]
        extent = 1, 4 * some, w, o
        rows = jax.lax.dynamic_slice(grad, (image, row, 0, 0), extent)
        reach = 4 * some - 3
        cells = _combine(_CELLS, [near[n : n + reach : 4] for n in range(6)])
        grads = _combine(_OUTPUTS.T, [x[0] for x in _fours(rows)])
        # Stacked, or XLA would combine once more for each tap.
        cells, grads = jnp.stack(cells), jnp.stack(grads).reshape(6, -1, o)
        seen = (cells[:, :, n : n + w].reshape(6, -1, channels) for n in range(3))
        products = [jnp.einsum("ntc,nto->nco", c, grads) for c in seen]
        return [t + p for t, p in zip(totals, products, strict=True)], None

    totals = [jnp.zeros((6, channels, o), jnp.float32)] * 3
    totals, _ = jax.lax.scan(add, totals, jnp.arange(b * (fours // some)))
    taps = jnp.stack(totals, 1)
    return jnp.stack(_combine(_TAPS.T, list(taps)))


def _taps_to_kernel(x, grad, like, stride, pad):
    """A product of matrices for each tap, of the cells that it has seen."""
    (_, h, w, o), size = grad.shape, len(like)
    wide, flat = _padded(x, pad), grad.reshape(-1, o)
    reach = stride * (h - 1) + 1, stride * (w - 1) + 1
    taps = []
    for ky, kx in np.ndindex(size, size):
        seen = wide[:, ky : ky + reach[0] : stride, kx : kx + reach[1] : stride]
        taps.append(seen.reshape(len(flat), -1).T @ flat)
    return jnp.stack(taps).reshape(like.shape)


def _fours(x):
    """Return each first, second, third and fourth of four rows, zeros at the end."""
    b, h, w, c = x.shape
    fours = -(-h // 4)
    x = jnp.pad(x, ((0, 0), (0, 4 * fours - h), (0, 0), (0, 0)))
    x = x.reshape(b, fours, 4, w, c)
    return [x[:, :, n] for n in range(4)]


def _combine(matrix, parts):
    """Return the sums of parts that the rows of a matrix weigh."""
    return [
        sum(
            float(weight) * part
            for weight, part in zip(row, parts, strict=True)
            if weight
        )
        for row in matrix
    ]


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
