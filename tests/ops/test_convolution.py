import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stan_jax.ops import convolution


def _normal(seed, shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def _xla(x, kernel, stride, pad):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(pad, pad)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1] // kernel.shape[2],
    )


def _agree(ours, x, kernel, stride, pad):
    """A form and XLA's: results and both gradients."""
    want, plain = jax.vjp(lambda *to: _xla(*to, stride, pad), x, kernel)
    got, mine = jax.vjp(lambda *to: ours(*to, stride, pad), x, kernel)
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())
    grad = _normal(2, got.shape)
    for one, other in zip(mine(grad), plain(grad), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(other).max())


@pytest.fixture
def always(monkeypatch):
    """Winograd's way for maps of any size."""
    monkeypatch.setattr(convolution, "_MANY_CELLS", 0)
    monkeypatch.setattr(convolution, "_MANY_CHANNELS", 0)


@pytest.mark.parametrize(
    ("stride", "size", "shape"),
    [(1, 3, (2, 10, 13)), (2, 3, (2, 10, 13)), (2, 7, (1, 16, 12)), (1, 1, (2, 5, 4))],
)
@pytest.mark.parametrize("wide", [False, True])
def test_convolution_and_its_gradients_are_xlas(stride, size, shape, wide, monkeypatch):
    if wide:
        monkeypatch.setattr(convolution, "_WIDE", 0)
    x, kernel = _normal(0, (*shape, 5)), _normal(1, (size, size, 5, 3))
    _agree(convolution.convolve, x, kernel, stride, size // 2)


@pytest.mark.parametrize(
    "shape", [(2, 12, 13), (2, 10, 7), (1, 3, 5), (3, 1, 1), (1, 9, 2)]
)
@pytest.mark.parametrize("fours", [99, 2, 1])  # that stay in a cache
def test_winograd_and_its_gradients_are_xlas(shape, fours, always, monkeypatch):
    monkeypatch.setattr(convolution, "_IN_CACHE", 6 * fours * shape[2] * 3)
    x, kernel = _normal(0, (*shape, 5)), _normal(1, (3, 3, 5, 3))
    _agree(convolution.convolve, x, kernel, 1, 1)


def test_matrices_of_winograd_are_those_of_a_correlation():
    cells, taps, outputs = convolution._matrices()
    x, kernel = np.random.default_rng(0).normal(size=(6, 6)), np.eye(3)
    for tap in range(3):
        got = outputs @ ((taps @ kernel[tap])[:, None] * (cells @ x))
        np.testing.assert_allclose(got, x[tap : tap + 4], atol=1e-12)


def test_winograd_rounds_at_most_three_times_as_much_as_the_sum(always):
    x, kernel = jax.nn.relu(_normal(0, (1, 24, 20, 64))), _normal(1, (3, 3, 64, 64))
    wide = np.pad(np.asarray(x, np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    want = sum(
        wide[:, y : y + 24, z : z + 20] @ np.asarray(kernel[y, z], np.float64)
        for y, z in np.ndindex(3, 3)
    )
    ours, plain = (
        np.sqrt(np.mean((f(x, kernel, 1, 1) - want) ** 2))
        for f in (convolution.convolve, _xla)
    )
    assert 0 < ours < 3 * plain


@pytest.mark.parametrize("channels", [255, 256])
def test_gradient_of_a_wide_kernel_is_made_of_products_of_matrices(channels):
    x, kernel = jnp.zeros((1, 6, 6, channels)), jnp.zeros((3, 3, channels, 256))
    to_kernel = jax.grad(lambda k: convolution.convolve(x, k, 2, 1).sum())
    text = jax.jit(to_kernel).lower(kernel).as_text()
    assert text.count("stablehlo.dot_general") == (9 if channels == 256 else 0)


def test_gradients_of_a_wide_bfloat16_convolution_keep_their_type():
    x, kernel = jnp.ones((1, 3, 3, 256)), jnp.ones((3, 3, 256, 256)) / 2304
    half = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
    got, back = jax.vjp(lambda *to: convolution.convolve(*to, 1, 1), *half)
    assert {got.dtype, *(a.dtype for a in back(got))} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize(
    ("cells", "channels", "size", "stride", "dtype", "fast"),
    [
        ((30, 30), 64, 3, 1, jnp.float32, True),
        ((29, 31), 64, 3, 1, jnp.float32, False),
        ((30, 30), 63, 3, 1, jnp.float32, False),
        ((60, 60), 64, 3, 2, jnp.float32, False),
        ((30, 30), 64, 5, 1, jnp.float32, False),
        ((30, 30), 64, 3, 1, jnp.bfloat16, False),
    ],
)
def test_only_wide_convolutions_of_float32_go_by_winograds_way(
    cells, channels, size, stride, dtype, fast
):
    x, kernel = jnp.zeros((1, *cells, channels)), jnp.zeros((size, size, channels, 64))
    x, kernel = x.astype(dtype), kernel.astype(dtype)
    both = jax.grad(
        lambda x, k: convolution.convolve(x, k, stride, size // 2).sum(), (0, 1)
    )
    text = jax.jit(both).lower(x, kernel).as_text()
    assert ("stablehlo.dot_general" in text) == fast
    text = jax.jit(both).trace(x, kernel).lower(lowering_platforms=("cuda",)).as_text()
    assert "stablehlo.dot_general" not in text


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_product_and_its_gradients_are_xlas(dtype):
    x, kernel = _normal(0, (2, 3, 4, 5)).astype(dtype), _normal(1, (5, 6)).astype(dtype)
    want, plain = jax.vjp(lambda x, k: x @ k, x, kernel)
    got, mine = jax.vjp(convolution.product, x, kernel)
    np.testing.assert_array_equal(got, want)
    for one, other in zip(mine(got), plain(got), strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        one, other = (np.asarray(a, np.float32) for a in (one, other))
        np.testing.assert_allclose(one, other, atol=1e-2 * np.abs(other).max())


def test_gradient_of_a_product_transposes_no_map():
    x, kernel = jnp.zeros((2, 8, 8, 16)), jnp.zeros((16, 4))
    loss = jax.grad(lambda k, x: jnp.sin(convolution.product(x, k)).sum())
    text = jax.jit(loss).lower(kernel, x).compile().as_text()
    assert text
    assert "f32[4,128]" not in text


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(2, 10, 12), (1, 7, 9)])
def test_depthwise_convolution_and_its_gradients_are_xlas(stride, shape):
    x, kernel = _normal(0, (*shape, 6)), _normal(1, (3, 3, 1, 6))
    _agree(convolution.convolve_depthwise, x, kernel, stride, 1)


def test_depthwise_convolution_keeps_bfloat16():
    x, kernel = _normal(0, (1, 6, 8, 4)), _normal(1, (3, 3, 1, 4))
    half = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
    got, back = jax.vjp(lambda *to: convolution.convolve_depthwise(*to, 1, 1), *half)
    assert {got.dtype, *(x.dtype for x in back(got))} == {jnp.dtype(jnp.bfloat16)}
    want = convolution.convolve_depthwise(x, kernel, 1, 1)
    np.testing.assert_allclose(got.astype(jnp.float32), want, atol=0.1)


@pytest.mark.parametrize("shape", [(2, 6, 8, 3), (1, 7, 5, 2), (1, 1, 1, 1)])
def test_max_pool_and_its_gradient_are_xlas(shape):
    def plain(x):
        return jax.lax.reduce_window(
            x,
            -jnp.inf,
            jax.lax.max,
            (1, 3, 3, 1),
            (1, 2, 2, 1),
            ((0, 0), (1, 1), (1, 1), (0, 0)),
        )

    x = _normal(0, shape)
    want, to_x = jax.vjp(plain, x)
    got, mine = jax.vjp(convolution.max_pool, x)
    np.testing.assert_array_equal(got, want)
    grad = _normal(1, got.shape)
    np.testing.assert_allclose(mine(grad)[0], to_x(grad)[0], atol=1e-6)


def test_equal_largest_cells_share_the_gradient_of_max_pool():
    x = jnp.ones((1, 4, 4, 1))
    _, back = jax.vjp(convolution.max_pool, x)
    grad = _normal(0, (1, 2, 2, 1))
    np.testing.assert_allclose(back(grad)[0].sum(), grad.sum(), rtol=1e-6)


def test_max_pool_equals_torch(golden):
    arrays = np.load(golden / "parity/image_and_misc.npz")
    got = convolution.max_pool(jnp.asarray(arrays["interp_in"].transpose(0, 2, 3, 1)))
    want = arrays["maxpool3s2p1"].transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(got, want)


def test_max_pool_takes_the_largest_of_each_window_on_even_maps():
    x = np.random.default_rng(0).normal(size=(1, 6, 8, 2)).astype(np.float32)
    want = np.empty((1, 3, 4, 2), np.float32)
    for i, j in np.ndindex(3, 4):
        rows = slice(max(2 * i - 1, 0), 2 * i + 2)
        columns = slice(max(2 * j - 1, 0), 2 * j + 2)
        want[:, i, j] = x[:, rows, columns].max((1, 2))
    np.testing.assert_array_equal(convolution.max_pool(jnp.asarray(x)), want)
