import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from stan_jax.export import shapes
from tests.export import onnx_runs

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 3, 4)).astype(np.float32)
TRUE, BYTES = X > 0, RNG.integers(0, 256, (2, 3, 4)).astype(np.uint8)
CASES = [
    ("reshape", lambda x: x.reshape(6, 4), X),
    ("reshape", lambda x: x[:, None].reshape(2, 1, 12) + 1, TRUE),
    ("squeeze", lambda x: lax.squeeze(x, (0,)), X[:1]),
    ("transpose", lambda x: lax.transpose(x, (2, 0, 1)), BYTES),
    (
        "broadcast_in_dim",
        lambda x: lax.broadcast_in_dim(x, (4, 2, 5), (1,)),
        X[:, 0, 0],
    ),
    ("broadcast_in_dim", lambda x: jnp.broadcast_to(x, (5, 2, 3)), np.float32(7)),
    ("tile", lambda x: jnp.tile(x, (2, 1, 3)), X),
    ("tile", lambda x: jnp.tile(x[:, :, None], (1, 1, 2, 3)) * 2, X),
    ("concatenate", lambda x: jnp.concatenate([x, x[:, :1]], 1), TRUE),
    ("concatenate", lambda x: jnp.concatenate([x, x[:, :0]], 1), X),
    ("stack", lambda x: jnp.stack([x, 2 * x], 1), X),
    ("unstack", lambda x: [a + 1 for a in jnp.unstack(x, axis=1)], X),
    ("split", lambda x: lax.split(x, (1, 3), 2), X),
    ("slice", lambda x: lax.slice(x, (0, 1, 1), (2, 3, 4), (1, 1, 2)), BYTES),
    ("slice", lambda x: x[:, 2:2], X),
    ("rev", lambda x: lax.rev(x, (0, 2)), X),
    ("iota", lambda x: x + lax.broadcasted_iota(jnp.float32, x.shape, 1), X),
    ("pad", lambda x: lax.pad(x, np.float32(7), [(1, 2, 0), (0, 0, 0), (0, 1, 0)]), X),
    (
        "pad",
        lambda x: lax.pad(x, np.float32(7), [(0, 0, 2), (-1, 2, 1), (-1, -1, 0)]),
        X,
    ),
    ("pad", lambda x: lax.pad(x, True, [(1, 0, 0), (0, 0, 0), (0, 0, 0)]), TRUE),
    ("pad", lambda x, y: lax.pad(x, y[0, 0, 0], [(1, 0, 0)] * 3), BYTES, BYTES),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_model_of_a_primitive_gives_what_jax_does(case):
    onnx_runs.agree(*case[1:])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_primitive_of_constants_is_computed_at_once_and_to_the_same(case):
    _, function, *args = case
    model = onnx_runs.agree(lambda: function(*map(jnp.asarray, args)))
    assert set(onnx_runs.operators(model)) <= {"Identity"}


def test_every_writer_has_a_case():
    made = set()
    for name, function, *args in CASES:
        made |= {name, *_names(jax.make_jaxpr(function)(*args).jaxpr)}
    assert set(shapes.WRITERS) <= made


def _names(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn.primitive.name
        for inner in jax.extend.core.jaxprs_in_params(eqn.params):
            yield from _names(inner)


def test_what_is_repeated_is_left_short_until_it_is_needed_whole():
    def f(row, column):
        return row[None] * jnp.broadcast_to(column[:, None], (3, 4)) + 1

    model = onnx_runs.agree(f, X[0, 0], X[0, :, 0])
    assert "Expand" not in onnx_runs.operators(model)
    # Through sides of 1 that come and go, turns and cuts as well.

    def g(row, column):
        whole = jnp.broadcast_to(column[:, None], (3, 4))
        return whole[None].T[1:, :2, 0] * row[1:, None]

    model = onnx_runs.agree(g, X[0, 0], X[0, :, 0])
    assert "Expand" not in onnx_runs.operators(model)
    for whole in (
        lambda x: jnp.broadcast_to(x[:, None], (3, 4)).reshape(-1),
        lambda x: jnp.broadcast_to(x[:, None], (3, 4)).sum(1),
        lambda x: jnp.broadcast_to(x[:, None], (3, 4)),
    ):
        assert "Expand" in onnx_runs.operators(onnx_runs.agree(whole, X[0, :, 0]))


def test_moves_of_sides_of_one_are_reshapes_and_those_in_a_row_are_one():
    def moved(x):
        x = x.reshape(2, 1, 12)[:, None].transpose(0, 2, 1, 3)
        return x.reshape(3, 8)

    assert onnx_runs.operators(onnx_runs.agree(moved, X)) == ["Reshape", "Identity"]

    def back(x):
        return x.reshape(6, 4).reshape(2, 3, 4) + 1

    assert onnx_runs.operators(onnx_runs.agree(back, X)) == ["Add", "Identity"]
