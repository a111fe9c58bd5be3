import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend import core

from stan_jax.export import elementwise
from tests.export import onnx_runs

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(2, 3, 4)).astype(np.float32)
POSITIVE = np.abs(X) + 0.1
WHOLE, OTHER = (RNG.integers(-9, 9, (3, 4)).astype(np.int32) for _ in range(2))
NOT_0 = np.where(OTHER == 0, 3, OTHER)
SMALL = RNG.integers(0, 256, (3, 4)).astype(np.uint8)
BITS = RNG.integers(0, 2**31, (3, 4)).astype(np.uint32)
TRUE, FALSE = (RNG.random((3, 4)) < 0.5 for _ in range(2))
HALVES = np.array([-2.5, -1.5, -0.5, -0.2, 0.5, 1.5, 2.5], np.float32)
ODD = np.array([0, np.inf, -np.inf, np.nan], np.float32)
# Name of the primitive, a function that has it, its arguments.
CASES = [
    ("add", lax.add, X, Y),
    ("add", lax.add, SMALL, SMALL),  # beyond 255 it begins anew
    ("add", lax.add, BITS, BITS + BITS),
    ("sub", lax.sub, X, Y),
    ("sub", lax.sub, WHOLE, OTHER),
    ("mul", lax.mul, X, Y),
    ("mul", lax.mul, WHOLE, OTHER),
    ("div", lax.div, X, POSITIVE),
    ("div", lax.div, WHOLE, NOT_0),  # towards 0
    ("rem", lax.rem, X, POSITIVE),
    ("rem", lax.rem, WHOLE, NOT_0),  # has the sign of what is divided
    ("max", lax.max, X, Y),
    ("max", lax.max, SMALL, SMALL[::-1]),
    ("min", lax.min, WHOLE, OTHER),
    ("pow", lax.pow, POSITIVE, Y),
    ("pow", lax.pow, X, np.abs(WHOLE)),
    ("integer_pow", lambda x: lax.integer_pow(x, 2), X),
    ("integer_pow", lambda x: lax.integer_pow(x, -3), POSITIVE),
    ("integer_pow", lambda x: lax.integer_pow(x, 3), WHOLE),
    ("square", lax.square, X),
    ("neg", lax.neg, WHOLE),
    ("abs", lax.abs, X),
    ("sign", lax.sign, WHOLE),
    ("floor", lax.floor, X),
    ("ceil", lax.ceil, X),
    ("round", lambda x: lax.round(x, lax.RoundingMethod.TO_NEAREST_EVEN), HALVES),
    ("round", lambda x: lax.round(x, lax.RoundingMethod.AWAY_FROM_ZERO), HALVES),
    ("exp", lax.exp, X),
    ("exp2", lax.exp2, X),
    ("expm1", lax.expm1, X),
    ("log", lax.log, POSITIVE),
    ("log2", jnp.log2, POSITIVE),  # a primitive of later versions
    ("log1p", lax.log1p, POSITIVE),
    ("sqrt", lax.sqrt, POSITIVE),
    ("rsqrt", lax.rsqrt, POSITIVE),
    ("sin", lax.sin, X),
    ("cos", lax.cos, X),
    ("tan", lax.tan, X),
    ("tanh", lax.tanh, X),
    ("logistic", lax.logistic, X),
    ("erf", lax.erf, X),
    ("clamp", lax.clamp, np.float32(-0.5), X, np.float32(0.7)),
    ("clamp", lax.clamp, OTHER - 5, WHOLE, OTHER),
    ("is_finite", lax.is_finite, ODD),
    ("eq", lax.eq, WHOLE, OTHER),
    ("eq", lax.eq, TRUE, FALSE),
    ("ne", lax.ne, SMALL, SMALL[::-1]),
    ("ne", lax.ne, ODD, ODD),
    ("lt", lax.lt, X, Y),
    ("lt", lax.lt, TRUE, FALSE),
    ("le", lax.le, WHOLE, OTHER),
    ("gt", lax.gt, BITS, BITS[::-1]),
    ("ge", lax.ge, WHOLE, OTHER),
    ("and", lax.bitwise_and, TRUE, FALSE),
    ("and", lax.bitwise_and, WHOLE, OTHER),
    ("or", lax.bitwise_or, TRUE, FALSE),
    ("or", lax.bitwise_or, BITS, BITS[::-1]),
    ("xor", lax.bitwise_xor, TRUE, FALSE),
    ("xor", lax.bitwise_xor, WHOLE, OTHER),
    ("not", lax.bitwise_not, TRUE),
    ("not", lax.bitwise_not, WHOLE),
    ("shift_left", lax.shift_left, BITS, np.full_like(BITS, 3)),
    ("shift_right_logical", lax.shift_right_logical, BITS, np.full_like(BITS, 3)),
    ("select_n", lax.select_n, TRUE, X, Y),
    ("select_n", lax.select_n, TRUE, TRUE, FALSE),
    ("select_n", lax.select_n, np.abs(WHOLE) % 3, X, Y, POSITIVE),
    ("select_n", lax.select_n, np.array(True), SMALL, SMALL[::-1]),
    ("convert_element_type", lambda x: x.astype(jnp.int32), X * 10),
    ("convert_element_type", lambda x: x.astype(jnp.float32), SMALL),
    ("convert_element_type", lambda x: x.astype(bool), WHOLE),
    ("convert_element_type", lambda x: x.astype(jnp.uint8), WHOLE),
    ("stop_gradient", lax.stop_gradient, X),
    ("copy", lambda x: jnp.array(x, copy=True), X),
    ("add_any", jax.grad(lambda x: (lax.sin(x) + lax.cos(x) * x).sum()), X),
    ("optimization_barrier", lax.optimization_barrier, (X, Y)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_model_of_a_primitive_gives_what_jax_does(case):
    onnx_runs.agree(*case[1:])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_primitive_of_constants_is_computed_at_once_and_to_the_same(case):
    _, function, *args = case
    model = onnx_runs.agree(lambda: function(*jax.tree.map(jnp.asarray, args)))
    assert set(onnx_runs.operators(model)) <= {"Identity"}


def test_every_writer_has_a_case():
    cases = {name for name, *_ in CASES}
    assert set(elementwise.WRITERS) == cases
    made = set()
    for _, function, *args in CASES:
        made |= _names(jax.make_jaxpr(function)(*args).jaxpr)
    assert cases - made <= {"log2"}


def _names(jaxpr):
    inner = [core.jaxprs_in_params(eqn.params) for eqn in jaxpr.eqns]
    parts = [_names(part) for parts in inner for part in parts]
    return set().union({eqn.primitive.name for eqn in jaxpr.eqns}, *parts)


def test_half_precision_is_computed_in_single_and_rounded_after_each_step():
    x = jnp.asarray(X, jnp.bfloat16)
    onnx_runs.agree(lambda x: (lax.exp(x) * x).astype(jnp.float32), X)
    model = onnx_runs.onnx_of(lambda x: (x.astype(jnp.bfloat16) * 3).astype(x.dtype), X)
    (found,) = onnx_runs.run(onnx_runs.session(model), X)
    np.testing.assert_array_equal(found, (x * 3).astype(jnp.float32))
