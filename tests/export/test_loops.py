import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.export import onnx_runs

X = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def _collatz(n):
    """Steps to 1: another number of them for each n."""

    def step(state):
        n, steps = state
        return jnp.where(n % 2 == 0, n // 2, 3 * n + 1), steps + 1

    return lax.while_loop(lambda s: s[0] != 1, step, (n, 0))


@pytest.mark.parametrize("n", [1, 7])
def test_while_runs_until_its_test_fails_or_not_at_all(n):
    onnx_runs.agree(_collatz, np.array(n, np.int32))


def test_while_under_vmap_leaves_rows_that_have_ended_as_they_are():
    rows = np.array([1, 7, 2, 27], np.int32)
    onnx_runs.agree(jax.vmap(_collatz), rows)
    onnx_runs.agree(jax.vmap(_collatz), np.ones(3, np.int32))  # none goes on
    onnx_runs.agree(jax.vmap(jax.vmap(_collatz)), rows.reshape(2, 2))


def test_while_sees_what_is_outside_in_its_test_and_its_body():
    def f(x, most):
        scaled = jnp.broadcast_to(x[0], x.shape)
        return lax.while_loop(
            lambda s: jnp.abs(s).sum() < most, lambda s: s + scaled, jnp.zeros_like(x)
        )

    onnx_runs.agree(f, X, np.float32(40))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [0, 1, 5])
@pytest.mark.parametrize("unroll", [1, 5])
def test_scan_carries_and_stacks_in_either_direction(reverse, length, unroll):
    def f(x, start, factor):
        def step(total, row):
            total = total * factor + row.sum()
            return total, (row * total, total > 0)

        return lax.scan(step, start, x, reverse=reverse, unroll=unroll)

    onnx_runs.agree(f, X[:length], np.float32(0.5), np.float32(0.9))


def test_scan_without_rows_counts_and_map_has_no_carry():
    def f(x):
        return lax.scan(lambda s, _: (s * 0.5, s[0]), x, None, length=4)

    onnx_runs.agree(f, X)
    onnx_runs.agree(lambda x: lax.map(lambda row: row.max() + x[0, 0], x), X)


def test_fori_loop_with_ends_known_only_as_it_runs():
    def f(x, end):
        return lax.fori_loop(1, end, lambda i, s: s + x[i] * i, x[0])

    for end in (0, 4):
        onnx_runs.agree(f, X, np.array(end, np.int32))


@pytest.mark.parametrize("which", [-4, 0, 1, 2, 9])
def test_cond_takes_the_branch_of_a_number_at_either_end_too(which):
    branches = [lambda x: x + 1, lambda x: jnp.zeros_like(x), lambda x: x]
    number = np.array(which, np.int32)
    onnx_runs.agree(lambda i, x: lax.switch(i, branches, x), number, X)
    onnx_runs.agree(lambda x: lax.switch(number, branches, x), X)  # known before


@pytest.mark.parametrize("true", [False, True])
def test_cond_of_a_truth_value_inside_a_loop_sees_all_around_it(true):
    def f(x, true):
        def step(total, row):
            return lax.cond(true, lambda: total + row, lambda: total - x[0]), total

        return lax.scan(step, x[0], x)

    onnx_runs.agree(f, X, np.array(true))


def test_functions_with_rules_of_their_own_are_written_as_what_they_do():
    @jax.custom_vjp
    def own(x):
        return jnp.sin(x)

    own.defvjp(lambda x: (own(x), x), lambda x, g: (g,))
    inner = jax.checkpoint(lambda x: jax.nn.relu(own(x)) * jax.nn.silu(x))
    onnx_runs.agree(lambda x: jax.jit(inner)(x) + 1, X)


def test_of_code_by_platform_that_for_none_in_particular_is_written():
    def f(x):
        return lax.platform_dependent(x, tpu=jnp.cos, default=jnp.sin)

    model = onnx_runs.agree(f, X)
    assert onnx_runs.operators(model) == ["Sin", "Identity"]
