import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_model

from stan_jax.ops import attention

attend = jax.jit(attention.attend, static_argnames=("normalise", "scale", "block"))
both_axes = pytest.mark.parametrize("normalise", ["source", "target"])


def _inputs(seed, i=23, j=37, batch=2):
    """query, key, value and masks that leave something of everything."""
    keys = jax.random.split(jax.random.key(seed), 5)
    shapes = (batch, j, 5), (batch, i, 5), (batch, i, 6)
    arrays = [jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=False)]
    mask = jax.random.bernoulli(keys[3], 0.7, (batch, i))
    query_mask = jax.random.bernoulli(keys[4], 0.7, (batch, j))
    return *arrays, mask, query_mask


def _loop(query, key, value, mask, query_mask, normalise, scale):
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    result = np.zeros((*query.shape[:2], value.shape[-1]))
    for b in range(len(query)):
        keys, queries = np.flatnonzero(mask[b]), np.flatnonzero(query_mask[b])
        e = {
            (i, j): np.exp(scale * key[b, i] @ query[b, j])
            for i in keys
            for j in queries
        }
        for i, j in e:
            if normalise == "source":
                total = sum(e[k, j] for k in keys)
            else:
                total = sum(e[i, k] for k in queries)
            result[b, j] += e[i, j] / total * value[b, i]
    return result


# Whole, blocks that do not divide 23 or 37, single rows, blocks of more than there is.
@pytest.mark.parametrize("block", [512, 4, 1, 7, 11])
@both_axes
def test_attend_matches_loops(normalise, block):
    given = _inputs(0)
    got = attend(
        *given[:4], query_mask=given[4], normalise=normalise, scale=0.7, block=block
    )
    want = _loop(*given, normalise, 0.7)
    np.testing.assert_allclose(got, want, atol=3e-6)


@both_axes
def test_masks_are_the_same_as_leaving_cells_out(normalise):
    query, key, value, mask, query_mask = _inputs(1, batch=1)
    for block in (512, 4):
        how = {"normalise": normalise, "block": block}
        got = attend(query, key, value, mask, query_mask=query_mask, **how)
        some = attend(
            query[:, query_mask[0]], key[:, mask[0]], value[:, mask[0]], **how
        )
        np.testing.assert_allclose(got[:, query_mask[0]], some, atol=3e-6)
        np.testing.assert_array_equal(got[:, ~query_mask[0]], 0)


@both_axes
def test_masked_cells_have_no_influence_and_no_gradient(normalise):
    query, key, value, mask, query_mask = _inputs(2)
    how = {"query_mask": query_mask, "normalise": normalise}
    for block in (512, 4):

        def loss(query, key, value, block=block):
            return (attend(query, key, value, mask, block=block, **how) ** 2).sum()

        grads = jax.grad(loss, (0, 1, 2))(query, key, value)
        for grad, on in zip(grads, (query_mask, mask, mask), strict=True):
            assert not np.asarray(grad)[~np.asarray(on)].any()
            assert np.asarray(grad)[np.asarray(on)].all()
        wild = (
            jnp.where(on[..., None], x, 1e4)
            for x, on in ((query, query_mask), (key, mask), (value, mask))
        )
        np.testing.assert_array_equal(loss(*wild), loss(query, key, value))


@both_axes
def test_gradient_in_blocks_equals_the_plain_form(normalise):
    query, key, value, mask, query_mask = _inputs(3)
    weight = jax.random.normal(jax.random.key(9), (2, 37, 6))

    def loss(arrays, block):
        how = {"normalise": normalise, "scale": 0.7, "block": block}
        got = attend(*arrays, mask, query_mask=query_mask, **how)
        return (got * weight).sum()

    want = jax.grad(loss)((query, key, value), 512)
    for block in (4, 5):
        got = jax.grad(loss)((query, key, value), block)
        for one, other in zip(got, want, strict=True):
            np.testing.assert_allclose(one, other, atol=3e-6)


@both_axes
def test_gradient_matches_finite_differences_of_loops(normalise):
    given = _inputs(4, i=5, j=6, batch=1)
    arrays, masks = list(given[:3]), given[3:]
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((1, 6, 6))

    def loss(arrays):
        how = {"normalise": normalise, "scale": 0.7, "block": 1}
        got = attend(*arrays, masks[0], query_mask=masks[1], **how)
        return (got * weight).sum()

    grads = jax.grad(loss)(arrays)
    for which in range(3):
        way = rng.standard_normal(arrays[which].shape)

        def moved(step, which=which, way=way):
            changed = [np.asarray(x, np.float64) for x in arrays]
            changed[which] = changed[which] + step * way
            return (_loop(*changed, *masks, normalise, 0.7) * weight).sum()

        want = (moved(1e-5) - moved(-1e-5)) / 2e-5
        np.testing.assert_allclose((grads[which] * way).sum(), want, rtol=1e-4)


@both_axes
@pytest.mark.parametrize("block", [512, 4])
def test_without_any_cell_the_result_is_0_and_gradients_are_finite(normalise, block):
    query, key, value, mask, query_mask = _inputs(5)
    mask, query_mask = mask.at[0].set(False), query_mask.at[1].set(False)

    def loss(query, key, value, mask, query_mask):
        how = {"normalise": normalise, "block": block, "query_mask": query_mask}
        return (attend(query, key, value, mask, **how) ** 2).sum()

    got = attend(query, key, value, mask, query_mask=query_mask, normalise=normalise)
    np.testing.assert_array_equal(got, 0)
    for grad in jax.grad(loss, (0, 1, 2))(query, key, value, mask, query_mask):
        np.testing.assert_array_equal(grad, 0)


@both_axes
def test_no_keys_give_0_and_no_queries_give_nothing(normalise):
    query, key, value, *_ = _inputs(6)
    for block in (None, 1):
        how = {"normalise": normalise, "block": block}
        np.testing.assert_array_equal(attend(query, key[:, :0], value[:, :0], **how), 0)
        assert attend(query[:, :0], key, value, **how).shape == (2, 0, 6)


@pytest.mark.parametrize("block", [512, 4])
def test_source_weights_of_a_result_sum_to_1_and_target_weights_of_a_key(block):
    query, key, *_ = _inputs(7)
    ones, each = jnp.ones((2, 23, 1)), jnp.broadcast_to(jnp.eye(23), (2, 23, 23))
    np.testing.assert_allclose(attend(query, key, ones, block=block), 1, rtol=1e-5)
    shared = attend(query, key, each, normalise="target", block=block)
    np.testing.assert_allclose(shared.sum(1), 1, rtol=1e-5)


@both_axes
def test_logits_too_large_for_exp_stay_exact(normalise):
    given = _inputs(8)
    query, key = given[0] * 30, given[1] * 30
    for block in (512, 4):
        how = {"normalise": normalise, "block": block}
        got = attend(query, key, given[2], **how)
        shifted = np.einsum("bid,bjd->bij", key, query).astype(np.float64)
        axis = 1 if normalise == "source" else 2
        weight = np.exp(shifted - shifted.max(axis, keepdims=True))
        weight /= weight.sum(axis, keepdims=True)
        want = np.einsum("bij,bic->bjc", weight, given[2])
        np.testing.assert_allclose(got, want, atol=2e-3)
        grad = jax.grad(lambda q, how=how: attend(q, key, given[2], **how).sum())(query)
        assert np.isfinite(grad).all()


@both_axes
def test_bfloat16_is_kept_and_softmax_is_float32(normalise):
    query, key, value = (x.astype(jnp.bfloat16) for x in _inputs(9)[:3])
    # Logits of about 20, which bfloat16 would round by up to 0.06.
    how = {"normalise": normalise, "scale": 8.0}
    want = attend(*(x.astype(jnp.float32) for x in (query, key, value)), **how)
    for block in (512, 4):
        got = attend(query, key, value, block=block, **how)
        assert got.dtype == jnp.bfloat16
        np.testing.assert_allclose(got.astype(jnp.float32), want, rtol=0.01, atol=0.01)


@both_axes
def test_memory_of_15360_cells_is_linear_forward_and_backward(normalise):
    cells, d, c = 96 * 160, 32, 256
    shapes = [jax.ShapeDtypeStruct((1, cells, n), jnp.float32) for n in (d, d, c)]
    run = partial(attention.attend, normalise=normalise)
    forward = jax.jit(run).lower(*shapes).compile()
    backward = jax.jit(jax.grad(lambda *x: (run(*x) ** 2).sum(), (0, 1, 2)))
    backward = backward.lower(*shapes).compile()
    whole_map = cells**2 * 4  # 944 MB
    for compiled, most in ((forward, 0.06), (backward, 0.1)):
        assert tiny_model.temporary_bytes(compiled) < most * whole_map


@both_axes
def test_only_large_maps_are_cut_and_no_block_is_too_large(normalise):
    def loop(cells, block=None):
        x = jax.ShapeDtypeStruct((1, cells, 4), jnp.float32)
        run = partial(attention.attend, normalise=normalise, block=block)
        return re.findall(
            r"scan\[.*?length=(\d+)", str(jax.make_jaxpr(run)(x, x, x)), re.S
        )

    assert loop(960) == []
    assert loop(3840) == ["15"]  # 273 rows are 2^20 entries, 14 of them too few
    assert loop(100, 100) == []
    assert loop(101, 100) == ["2"]


# ---- near cells


def _maps(seed, q=2, h=7, w=9, side=3):
    """query, key, value, bias and masks of q maps."""
    keys = jax.random.split(jax.random.key(seed), 6)
    shapes = (2, h, w, 5), (2, q, h, w, 5), (2, q, h, w, 6), (q, side, side)
    arrays = [jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=False)]
    masks = [
        jax.random.bernoulli(k, 0.7, s)
        for k, s in zip(keys[4:], ((2, q, h, w), (2, h, w)), strict=True)
    ]
    return *arrays, *masks


def _near_loop(query, key, value, bias, mask, query_mask, scale):
    arrays = (np.asarray(x, np.float64) for x in (query, key, value, bias))
    query, key, value, bias = arrays
    result = np.zeros((*query.shape[:3], value.shape[-1]))
    (h, w), (q, side, _) = query.shape[1:3], bias.shape
    for b, y, x in np.argwhere(query_mask):
        seen = [
            (n, y + dy - side // 2, x + dx - side // 2, bias[n, dy, dx])
            for n, dy, dx in np.ndindex(q, side, side)
        ]
        seen = [
            (n, v, u, more)
            for n, v, u, more in seen
            if 0 <= v < h and 0 <= u < w and mask[b, n, v, u]
        ]
        e = [
            np.exp(scale * key[b, n, v, u] @ query[b, y, x] + more)
            for n, v, u, more in seen
        ]
        for share, (n, v, u, _) in zip(e, seen, strict=True):
            result[b, y, x] += share / sum(e) * value[b, n, v, u]
    return result


# Whole, rows that divide 7 not at all, single rows, more than there are.
@pytest.mark.parametrize("block", [None, 3, 1, 20])
@pytest.mark.parametrize("side", [3, 5])
def test_attend_near_matches_loops(side, block):
    given = _maps(0, side=side)
    run = jax.jit(partial(attention.attend_near, scale=0.7, block=block))
    np.testing.assert_allclose(run(*given), _near_loop(*given, 0.7), atol=3e-6)


def test_attend_near_with_a_square_larger_than_the_map_is_attend():
    query, key, value, bias, mask, query_mask = _maps(1, side=19)
    cells = [x.reshape(2, -1, x.shape[-1]) for x in (query, key, value)]
    masks = mask.reshape(2, -1), query_mask.reshape(2, -1)
    want = attend(*cells, masks[0], query_mask=masks[1], scale=0.5)
    flat = jnp.zeros_like(bias)
    got = attention.attend_near(query, key, value, flat, mask, query_mask, scale=0.5)
    np.testing.assert_allclose(got.reshape(want.shape), want, atol=1e-5)


def test_attend_near_in_blocks_has_the_same_gradient_and_none_where_masked():
    *given, mask, query_mask = _maps(2)
    mask = mask.at[0].set(False)  # not a single key in the first of the batch

    def gradient(block):
        run = partial(attention.attend_near, scale=0.7, block=block)
        cubes = jax.grad(
            lambda *x: (run(*x, mask, query_mask) ** 3).sum(), (0, 1, 2, 3)
        )
        return jax.jit(cubes)(*given)

    whole, cut = gradient(None), gradient(2)
    for a, b in zip(whole, cut, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
        assert np.isfinite(a).all()
        assert np.abs(a).max() > 0.1
    hidden = ~np.asarray(mask)
    assert not np.asarray(whole[1])[hidden].any()
    assert not np.asarray(whole[2])[hidden].any()


def test_attend_near_takes_far_less_than_all_cells_with_all():
    h, w, d, c, side = 96, 160, 32, 256, 5
    shapes = (1, h, w, d), (1, 1, h, w, d), (1, 1, h, w, c), (1, side, side)
    given = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
    given += [jax.ShapeDtypeStruct(s, bool) for s in ((1, 1, h, w), (1, h, w))]
    compiled = jax.jit(attention.attend_near).lower(*given).compile()
    everything = 2 * (h * w) ** 2 * (d + c)  # products of all cells with all
    cost: Any = compiled.cost_analysis()
    assert cost["flops"] < 0.06 * everything
    squares = jax.grad(lambda *x: (attention.attend_near(*x) ** 2).sum(), (0, 1, 2, 3))
    backward = jax.jit(squares).lower(*given).compile()
    for run, most in ((compiled, 130e6), (backward, 200e6)):
        assert tiny_model.temporary_bytes(run) < most
