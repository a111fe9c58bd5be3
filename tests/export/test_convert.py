import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from jax import lax

from stan_jax.errors import InputError
from stan_jax.export.convert import onnx_of
from tests.export import onnx_runs

X = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


def test_unknown_primitive_is_named_with_the_line_that_made_it():
    def f(x):
        return jnp.sort(x) + lax.nextafter(x, x)  # this very line

    rule = (
        r"primitive nextafter: made at \S*test_convert.py:17.*: has no writer to ONNX"
    )
    with pytest.raises(InputError, match=rule):
        onnx_of(f, X)


def test_what_follows_from_constants_is_computed_at_once():
    weights = jnp.asarray(X)

    def f(x):
        scale = (
            jnp.linalg.norm(weights, axis=1, keepdims=True) + jnp.arange(4.0)[:, None]
        )
        return x * (weights / jnp.broadcast_to(scale, weights.shape))

    model = onnx_runs.agree(f, X)
    assert onnx_runs.operators(model) == ["Mul", "Identity"]
    (held,) = model.graph.initializer
    assert held.dims == [4, 3]


def test_a_constant_that_repeats_itself_is_kept_short():
    def f(x):
        return x + -jnp.exp(jnp.full((4, 3), 2.0)) * 3

    model = onnx_runs.agree(f, X)
    assert [list(x.dims) for x in model.graph.initializer] == [[1, 1]]


def test_equal_constants_are_kept_once_and_unused_ones_not_at_all():
    big = np.arange(3000, dtype=np.float32)

    def f(x):
        jnp.dot(x[0], jnp.asarray(big[:3]))
        return x[0, 0] * jnp.asarray(big) + x[0, 1] / jnp.asarray(big.copy())

    model = onnx_runs.agree(f, X)
    assert [list(x.dims) for x in model.graph.initializer if x.dims[:1] == [3000]] == [
        [3000]
    ]
    assert "MatMul" not in onnx_runs.operators(model)


def test_names_and_metadata_are_those_given():
    model = onnx_of(
        lambda pair, y: {"sum": pair[0] + y, "same": pair[1]},
        (X, X),
        X,
        inputs=("a", "b", "c"),
        outputs=("same", "sum"),
        metadata={"of": "a test"},
    )
    opened = onnx_runs.session(model)
    assert [x.name for x in opened.get_inputs()] == ["a", "b", "c"]
    assert [x.name for x in opened.get_outputs()] == ["same", "sum"]
    assert opened.get_modelmeta().custom_metadata_map == {"of": "a test"}
    same, total = onnx_runs.run(opened, X, 2 * X, X)
    np.testing.assert_array_equal(same, 2 * X)
    np.testing.assert_array_equal(total, X + X)
    with pytest.raises(InputError, match="inputs: must be 3 names that nothing else"):
        onnx_of(lambda *x: x, X, X, X, inputs=("a", "b"))
    with pytest.raises(InputError, match="outputs: must be 1 names that nothing else"):
        onnx_of(jnp.sin, X, inputs=["a"], outputs=["a"])


def test_shapes_do_in_the_place_of_arrays():
    shape = jax.ShapeDtypeStruct((2,), jnp.float32)
    model = onnx_of(jnp.sin, shape)
    (found,) = onnx_runs.run(onnx_runs.session(model), X[0, :2])
    np.testing.assert_allclose(found, np.sin(X[0, :2]), rtol=1e-6)


def test_model_tells_no_path_of_this_machine():
    model = onnx_of(lambda x: lax.map(jnp.sin, x), X)
    assert b".py" not in model.SerializeToString()
    assert (model.opset_import[0].version, model.producer_name) == (18, "stan_jax")
    assert isinstance(model, onnx.ModelProto)
