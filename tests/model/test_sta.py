from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_model
from flax import nnx

from stan_jax.model.sta import SpatioTemporalAttention, cells_inside

C, D, H, W, STRIDE = 6, 3, 4, 5, 8
WHOLE = jnp.array([[H * STRIDE, W * STRIDE]] * 2)
SIZES = jnp.array([[H * STRIDE, W * STRIDE], [20, 33]])  # the second ends in cell 2, 4

# Compiled whole: one operation at a time takes far longer to compile than to run.
jitted = jax.jit(lambda sta, *given: sta(*given))
attention = jax.jit(lambda sta, *given: sta.attention(*given), static_argnums=4)
values = pytest.mark.parametrize("value_source", ["current", "previous"])
sources = pytest.mark.parametrize("value_source", ["current", "previous", "both"])
axes = pytest.mark.parametrize("normalise", ["source", "target"])


def _sta(**settings):
    given: dict[str, Any] = dict(key_channels=D, strides=(STRIDE,)) | settings
    sta = tiny_model.shake(SpatioTemporalAttention(C, **given, rngs=nnx.Rngs(1)))
    sta.gamma[...] = jnp.asarray((0.7, -0.4)[: len(sta.strides)])
    return sta


def _maps(seed=0, hw=(H, W)):
    x = np.random.default_rng(seed).normal(size=(2, 2, *hw, C))
    return tuple(jnp.asarray(x, jnp.float32))


def apply(sta, x0, x1, sizes, run=jitted):
    """Eq. 3 of all levels, with one previous frame."""
    return run(sta, [x[:, None] for x in x0], x1, sizes)


def _attended(sta, x0, x1, sizes=SIZES):
    """A of Eq. 2 for one level."""
    return np.asarray(attention(sta, x0[:, None], x1, sizes, STRIDE))


def _loops(x0, x1, conv1, conv1_previous, conv2, *, source, axis, scale, gamma):
    """Eq. 1-3 of one frame as printed, cell by cell; convs are (kernel, bias)."""
    cells = [(y, x) for y, x in np.ndindex(H, W)]
    q0 = [x0[p] @ conv1_previous[0] + conv1_previous[1] for p in cells]
    q1 = [x1[p] @ conv1[0] + conv1[1] for p in cells]
    v = [(x1 if source == "current" else x0)[p] @ conv2[0] + conv2[1] for p in cells]
    e = np.array([[np.exp(scale * (a @ b)) for b in q1] for a in q0])  # [i j]
    cor = e / e.sum(axis, keepdims=True)  # Eq. 1
    result = np.empty_like(x1)
    for j, p in enumerate(cells):
        a = sum(v[i] * cor[i, j] for i in range(len(cells)))  # Eq. 2
        result[p] = gamma * a + x1[p]  # Eq. 3
    return result


@pytest.mark.parametrize(("share_embed", "scale"), [(True, 1.0), (False, 0.4)])
@values
@axes
def test_sta_equals_the_equations_as_loops(normalise, value_source, share_embed, scale):
    sta = _sta(
        normalise=normalise,
        value_source=value_source,
        share_embed=share_embed,
        scale=scale,
    )
    x0, x1 = _maps()
    (got,) = apply(sta, [x0], [x1], WHOLE)
    weights = {
        name: (conv["kernel"][0, 0], conv["bias"])
        for name, conv in tiny_model.arrays(sta).items()
        if name != "gamma"
    }
    for b in range(2):
        want = _loops(
            *(np.asarray(x[b], np.float64) for x in (x0, x1)),
            weights["embed"],
            weights["embed" if share_embed else "embed_previous"],
            weights["value"],
            source=value_source,
            axis=0 if normalise == "source" else 1,
            scale=scale,
            gamma=0.7,
        )
        np.testing.assert_allclose(got[b], want, atol=1e-5)


@axes
@pytest.mark.parametrize("prior", [None, 1.5])
@pytest.mark.parametrize("cell", [(0, 0), (2, 3)])
def test_weights_of_a_cell_are_those_that_its_values_are_mixed_with(
    normalise, cell, prior
):
    sta = _sta(value_source="previous", normalise=normalise, scale=0.3, prior=prior)
    x0, x1 = _maps()
    weights = np.asarray(sta.weights(x0[:, None], x1, SIZES, STRIDE, jnp.array(cell)))
    assert weights.shape == (2, 1, H, W)
    weights = weights[:, 0]
    mixed = np.einsum("bhw,bhwc->bc", weights, np.asarray(sta.value(x0)))
    want = _attended(sta, x0, x1)[:, cell[0], cell[1]]
    np.testing.assert_allclose(mixed, want, atol=1e-5)
    inside = np.asarray(cells_inside(SIZES, (H, W), STRIDE)).reshape(2, H, W)
    assert not weights[~inside].any()
    if normalise == "source":
        np.testing.assert_allclose(weights.sum((1, 2)), 1, rtol=1e-5)


def _looped(sta, past, x1, known=1):
    """A of Eq. 2 of one frame with every choice of the class, cell by cell."""
    conv1, conv2 = (
        (np.asarray(c.kernel[...], np.float64)[0, 0], np.asarray(c.bias[...]))
        for c in (sta.embed, sta.value)
    )
    cells = [(y, x) for y, x in np.ndindex(H, W)]
    ages = np.zeros(9) if sta.age is None else np.asarray(sta.age[...][0], np.float64)
    looked = [
        (x0[p] @ conv1[0] + conv1[1], (x1 if sta.value_source == "current" else x0)[p])
        + (p, age)
        for x0, age in zip(past[:known], ages, strict=False)
        for p in cells
    ]
    if sta.value_source == "both":
        looked += [
            (x1[p] @ conv1[0] + conv1[1], x1[p], p, ages[len(past)]) for p in cells
        ]
    cost = 0.0 if sta.slope is None else np.exp(float(sta.slope[...][0]))
    reach = sta.reach or 99
    d, c = D // sta.heads, C // sta.heads
    result = np.zeros((H, W, C))
    for head in range(sta.heads):
        ks, cs = slice(head * d, (head + 1) * d), slice(head * c, (head + 1) * c)
        logits = np.array(
            [
                [
                    sta.scale * (key[ks] @ (x1[q] @ conv1[0] + conv1[1])[ks])
                    - cost * ((p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2)
                    + age
                    - 1e9 * (max(abs(p[0] - q[0]), abs(p[1] - q[1])) > reach)
                    for q in cells
                ]
                for key, _, p, age in looked
            ]
        )
        e = np.exp(logits - logits.max())
        cor = e / e.sum(0 if sta.normalise == "source" else 1, keepdims=True)
        for j, q in enumerate(cells):
            for i, (_, value, _, _) in enumerate(looked):
                result[q][cs] += (value @ conv2[0] + conv2[1])[cs] * cor[i, j]
    return result


@pytest.mark.parametrize(
    "choices",
    [
        dict(prior=1.0),
        dict(prior=0.5, normalise="target", value_source="previous"),
        dict(heads=3),
        dict(heads=3, prior=2.0, value_source="both", scale=0.3),
        dict(value_source="both", normalise="target"),
        dict(frames=3),
        dict(frames=3, value_source="previous", normalise="target", scale=0.5),
        dict(frames=3, value_source="both", prior=1.5, heads=3),
        dict(reach=1),
        dict(reach=2, value_source="previous", prior=1.0, frames=3),
        dict(reach=1, value_source="both", prior=1.5, heads=3, frames=2, scale=0.3),
    ],
    ids=str,
)
def test_every_choice_equals_its_loop(choices):
    sta = _sta(**choices)
    if sta.age is not None:
        sta.age[...] = jnp.asarray([[0.3, -0.8, 1.1, 0.5]])[:, : sta.age.shape[1]]
    past = jnp.stack([_maps(seed)[0] for seed in range(sta.frames)], 1)
    _, x1 = _maps()
    known = jnp.array([[True, True, True], [True, True, False]])[:, : sta.frames]
    got = attention(sta, past, x1, WHOLE, STRIDE, known)
    for b in range(2):
        x = (np.asarray(x[b], np.float64) for x in (past, x1))
        want = _looped(sta, *x, known=int(known[b].sum()))
        np.testing.assert_allclose(got[b], want, atol=1e-5)


def test_weights_of_several_frames_are_of_each_of_them_and_ages_learn():
    sta = _sta(frames=2, value_source="previous")
    sta.age[...] = jnp.asarray([[0.0, 0.9]])
    (x0, x1), (older, _) = _maps(), _maps(1)
    past = jnp.stack([x0, older], 1)
    known = jnp.array([[True, True], [True, False]])
    cell = jnp.array([1, 2])
    weights = sta.weights(past, x1, WHOLE, STRIDE, cell, known)
    assert weights.shape == (2, 2, H, W)
    mixed = jnp.einsum("bqhw,bqhwc->bc", weights, sta.value(past))
    want = attention(sta, past, x1, WHOLE, STRIDE, known)[:, 1, 2]
    np.testing.assert_allclose(mixed, want, atol=1e-5)
    assert not weights[1, 1].any()
    assert weights[0].sum((1, 2)).min() > 0.05
    grad = jax.grad(lambda sta: (sta([past], [x1], WHOLE, known)[0] ** 3).sum())(sta)
    assert np.abs(grad.age[...]).min() > 0.01


def test_prior_falls_with_the_distance_and_its_slope_learns():
    sta = _sta(prior=1.0, scale=0.0, value_source="previous")
    np.testing.assert_allclose(np.exp(sta.slope[...]), 0.5, rtol=1e-6)
    x0, x1 = _maps()
    weights = np.asarray(
        sta.weights(x0[:, None], x1, WHOLE, STRIDE, jnp.array([1, 2]))
    )[0, 0]
    y, x = np.mgrid[:H, :W]
    want = np.exp(-0.5 * ((y - 1) ** 2 + (x - 2) ** 2))
    np.testing.assert_allclose(weights, want / want.sum(), rtol=1e-5)
    grad = jax.grad(lambda sta: (sta([x0[:, None]], [x1], WHOLE)[0] ** 3).sum())(sta)
    assert np.abs(grad.slope[...]).min() > 0.01


def test_identity_start_gives_the_values_themselves_and_gamma_starts_where_it_is_told():
    sta = SpatioTemporalAttention(
        C,
        key_channels=D,
        strides=(STRIDE,),
        value_source="previous",
        prior=0.01,  # of cells: each looks at its own place alone
        gamma=0.5,
        value_start="identity",
        rngs=nnx.Rngs(0),
    )
    x0, x1 = _maps()
    np.testing.assert_allclose(
        sta([x0[:, None]], [x1], WHOLE)[0], 0.5 * x0 + x1, atol=1e-6
    )


@values
def test_columns_of_cor_sum_to_1_so_a_constant_stays(value_source):
    sta = _sta(value_source=value_source)
    constant = jnp.array([3.0, -1, 0, 2, 7, -5])
    sta.value.kernel[...] = jnp.zeros((1, 1, C, C))
    nnx.update(sta.value, {"bias": constant})
    got = _attended(sta, *_maps())
    inside = np.asarray(cells_inside(SIZES, (H, W), STRIDE)).reshape(2, H, W)
    for cell in got[inside]:
        np.testing.assert_allclose(cell, constant, rtol=1e-6)


@axes
def test_both_value_sources_agree_where_the_frames_are_equal(normalise):
    _, x1 = _maps()
    got, want = (
        _attended(_sta(value_source=v, normalise=normalise), x1, x1)
        for v in ("current", "previous")
    )
    np.testing.assert_array_equal(got, want)


@axes
def test_the_order_of_previous_cells_matters_to_printed_values_only(normalise):
    x0, x1 = _maps()
    order = np.random.default_rng(3).permutation(H * W)
    mixed = x0.reshape(2, -1, C)[:, order].reshape(x0.shape)

    sta = _sta(value_source="previous", normalise=normalise)
    got, want = (_attended(sta, x, x1, WHOLE) for x in (mixed, x0))
    np.testing.assert_allclose(got, want, atol=2e-6)

    sta = _sta(value_source="current", normalise=normalise)
    got, want = (_attended(sta, x, x1, WHOLE) for x in (mixed, x0))
    assert np.abs(got - want).max() > 0.1


def test_the_order_of_current_cells_moves_the_result_along():
    x0, x1 = _maps()
    order = np.random.default_rng(4).permutation(H * W)
    mixed = x1.reshape(2, -1, C)[:, order].reshape(x1.shape)
    sta = _sta(value_source="previous")
    got, want = (_attended(sta, x0, x, WHOLE).reshape(2, -1, C) for x in (mixed, x1))
    np.testing.assert_allclose(got, want[:, order], atol=2e-6)


@pytest.mark.parametrize(
    ("normalise", "more"),
    [
        ("source", {}),
        ("target", {}),
        ("source", dict(heads=3, prior=1.0)),
        ("target", dict(heads=3, prior=1.0)),
        ("source", dict(reach=2)),
    ],
)
@sources
def test_cells_in_the_padding_take_no_part(normalise, value_source, more):
    sta = _sta(normalise=normalise, value_source=value_source, **more)
    inside = np.asarray(cells_inside(SIZES, (H, W), STRIDE)).reshape(2, H, W, 1)
    x0, x1 = _maps(0)
    (want,) = apply(sta, [x0], [x1], SIZES)
    other = [
        [jnp.where(inside, x, 50 * y)] for x, y in zip((x0, x1), _maps(1), strict=True)
    ]
    (got,) = apply(sta, *other, SIZES)
    # Outside, the features stay as they came.
    np.testing.assert_array_equal(got, jnp.where(inside, want, other[1][0]))


def test_a_padded_frame_gives_what_its_crop_gives():
    sta = _sta()
    x0, x1 = _maps()
    got = _attended(sta, x0, x1)[1, :3]  # 20 rows are 3 cells, 33 columns all 5
    crop = _attended(sta, x0[1:, :3], x1[1:, :3], jnp.array([[24, 40]]))[0]
    np.testing.assert_allclose(got, crop, atol=1e-6)


def test_gamma_0_gives_x1_bit_for_bit():
    sta = _sta(strides=(8, 16))
    sta.gamma[...] = jnp.zeros(2)
    fine, coarse = _maps(0), _maps(1, (2, 3))
    got = apply(sta, [fine[0], coarse[0]], [fine[1], coarse[1]], SIZES)
    np.testing.assert_array_equal(got[0], fine[1])
    np.testing.assert_array_equal(got[1], coarse[1])


def test_a_new_sta_has_gamma_0_yet_gamma_learns():
    sta = SpatioTemporalAttention(C, key_channels=D, strides=(8,), rngs=nnx.Rngs(0))
    x0, x1 = _maps()

    def loss(sta):
        return (sta([x0[:, None]], [x1], SIZES)[0] ** 3).sum()

    grad = jax.jit(jax.grad(loss))(sta)
    np.testing.assert_array_equal(sta.gamma[...], 0)
    assert np.abs(grad.gamma[...]).min() > 0.1
    for conv in (grad.embed, grad.value):
        np.testing.assert_array_equal(conv.kernel[...], 0)


def test_levels_share_the_convolutions_and_each_has_its_gamma():
    sta = _sta(strides=(8, 16))
    alone = _sta(strides=(16,))
    fine, coarse = _maps(0), _maps(1, (2, 3))
    _, got = apply(sta, [fine[0], coarse[0]], [fine[1], coarse[1]], SIZES)
    for gamma, same in ((-0.4, True), (0.7, False)):
        alone.gamma[...] = jnp.array([gamma])
        (want,) = apply(alone, [coarse[0]], [coarse[1]], SIZES)
        assert np.allclose(got, want, atol=1e-6) == same


def test_gradient_reaches_the_previous_frame():
    sta = _sta()
    x0, x1 = _maps()
    grad = jax.jit(jax.grad(lambda x: (sta([x[:, None]], [x1], SIZES)[0] ** 2).sum()))(
        x0
    )
    inside = np.asarray(cells_inside(SIZES, (H, W), STRIDE)).reshape(2, H, W)
    assert (np.abs(grad).max(-1)[inside] > 0).all()
    np.testing.assert_array_equal(np.asarray(grad)[~inside], 0)


def test_bfloat16_stays_bfloat16():
    sta = jax.tree.map(lambda x: x.astype(jnp.bfloat16), _sta())
    x0, x1 = (x.astype(jnp.bfloat16) for x in _maps())
    (got,) = apply(sta, [x0], [x1], SIZES)
    exact = jax.tree.map(lambda x: x.astype(jnp.float32), sta)
    (want,) = apply(exact, [x0.astype(jnp.float32)], [x1.astype(jnp.float32)], SIZES)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(got.astype(jnp.float32), want, atol=0.1)


def test_cells_inside_are_those_whose_first_pixel_is():
    sizes = [(1, 1), (32, 40), (8, 9), (24, 16), (31, 33)]
    got = np.asarray(cells_inside(jnp.array(sizes), (H, W), STRIDE))
    for (height, width), row in zip(sizes, got, strict=True):
        want = [y * 8 < height and x * 8 < width for y, x in np.ndindex(H, W)]
        np.testing.assert_array_equal(row, want)


@pytest.mark.parametrize(
    "wrong",
    [
        dict(value_source="neither"),
        dict(normalise="rows"),
        dict(value_start="zero"),
        dict(heads=2),  # of 3 key channels
        dict(heads=0),
        dict(prior=0.0),
        dict(frames=0),
        dict(stored="both"),
        dict(reach=0),
    ],
)
def test_settings_outside_their_choices_are_refused(wrong):
    (name,) = wrong
    # The type check of the tests comes before our own and is a TypeError.
    with pytest.raises((ValueError, TypeError), match=name):
        SpatioTemporalAttention(
            C, key_channels=D, strides=(8,), **wrong, rngs=nnx.Rngs(0)
        )
