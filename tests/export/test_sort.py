import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.export import onnx_runs

RNG = np.random.default_rng(0)
EQUAL = RNG.integers(0, 4, (3, 9)).astype(np.int32)  # most of them more than once
KINDS = ("float32", "int32", "uint8", "bool")
ENDS = np.array([[0.0, -np.inf, 1, np.inf, -0.0, 1]], np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_entries_stay_in_their_order(kind):
    x = EQUAL.astype(kind)
    onnx_runs.agree(lambda x: jnp.argsort(x, axis=1, stable=True), x)
    onnx_runs.agree(lambda x: jnp.argsort(x, axis=0, stable=True), x)
    onnx_runs.agree(lambda x: jnp.sort(x, axis=1), x)
    onnx_runs.agree(lambda x: lax.top_k(x, 4), x)


@pytest.mark.parametrize("keys", [1, 2, 3])
def test_several_keys_decide_one_after_the_other(keys):
    given = [
        EQUAL,
        EQUAL[::-1].copy(),
        EQUAL[:, ::-1].copy(),
        np.arange(27).reshape(3, 9),
    ]
    given = [x.astype(np.int32) for x in given]
    onnx_runs.agree(lambda *x: lax.sort(x, num_keys=keys, is_stable=True), *given)


def test_infinite_entries_and_both_zeros_have_their_places():
    onnx_runs.agree(lambda x: jnp.argsort(x, stable=True), ENDS)
    onnx_runs.agree(lambda x: lax.top_k(x, 6), ENDS)
    onnx_runs.agree(lambda x: lax.top_k(x, 1), ENDS[:, :1])


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_of_equal_entries_is_the_best(kind):
    x = EQUAL.astype(kind)
    for axis in (0, 1):
        onnx_runs.agree(lambda x, axis=axis: jnp.argmax(x, axis), x)
        onnx_runs.agree(lambda x, axis=axis: jnp.argmin(x, axis), x)
