import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.export import onnx_runs

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 3, 4, 5)).astype(np.float32)
WHOLE = (3 * X).astype(np.int32)


@pytest.mark.parametrize("axes", [(), (1,), (0, 2), (0, 1, 2, 3)])
@pytest.mark.parametrize("x", [X, WHOLE], ids=["float", "int"])
def test_sums_products_and_ends_along_axes_are_those_of_jax(x, axes):
    for reduce in (jnp.sum, jnp.max, jnp.min, jnp.prod):
        onnx_runs.agree(lambda x, r=reduce: r(x, axis=axes), x, rtol=1e-4, atol=1e-5)
    for reduce in (jnp.any, jnp.all):
        onnx_runs.agree(lambda x, r=reduce: r(x > -2, axis=axes), x)


@pytest.mark.parametrize("reverse", [False, True])
def test_running_sums_are_those_of_jax(reverse):
    for x in (WHOLE, X, X > 0):
        x = x.astype(np.int32) if x.dtype == bool else x
        onnx_runs.agree(lambda x: lax.cumsum(x, 2, reverse=reverse), x, atol=1e-5)


@pytest.mark.parametrize(
    "how",
    [
        "bhij,bhjk->bhik",
        "bhij,bhkj->bhik",
        "ij,jk->ik",
        "bij,jkl->bikl",
        "ij,ij->",
        "i,j->ij",
    ],
)
def test_products_of_matrices_are_those_of_jax(how):
    sizes = dict(b=2, h=3, i=4, j=5, k=6, l=2)
    one, other = (
        RNG.normal(size=[sizes[n] for n in part]).astype(np.float32)
        for part in how.split("->")[0].split(",")
    )
    onnx_runs.agree(lambda a, b: jnp.einsum(how, a, b), one, other, atol=1e-5)


def test_products_of_whole_numbers_and_of_bytes_are_exact():
    a, b = (RNG.integers(-9999, 9999, (4, 4)).astype(np.int32) for _ in range(2))
    onnx_runs.agree(lambda a, b: a @ b, a, b)
    small = [(x // 100).astype(np.int8) for x in (a, b)]
    onnx_runs.agree(
        lambda a, b: jnp.matmul(a, b, preferred_element_type=jnp.int32), *small
    )


@pytest.mark.parametrize(
    ("window", "strides", "padding"),
    [
        ((1, 3, 3, 1), (1, 2, 2, 1), [(0, 0), (1, 1), (1, 1), (0, 0)]),
        ((1, 2, 1, 1), (1, 1, 1, 1), "VALID"),
        ((1, 1, 1, 1), (1, 1, 1, 1), "VALID"),
        ((1, 2, 2, 3), (1, 1, 2, 1), [(0, 0), (0, 1), (1, 0), (1, 1)]),
    ],
)
def test_pools_are_those_of_jax(window, strides, padding):
    for start, reduce in ((-np.inf, lax.max), (0.0, lax.add)):

        def pool(x, start=start, reduce=reduce):
            return lax.reduce_window(x, start, reduce, window, strides, padding)

        onnx_runs.agree(pool, X, atol=1e-5)
