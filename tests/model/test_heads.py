import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_model
from flax import nnx

from stan_jax.model import heads
from stan_jax.ops import anchors

apply = jax.jit(lambda head, x: head(x))


def _normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def _linear(layer, x):
    return x @ layer["kernel"] + layer["bias"]


@pytest.mark.parametrize("anchor", [0, 1, 2])
def test_rpn_speaks_of_anchors_in_the_order_of_ops_anchors(anchor):
    height, width, stride = 3, 5, 16
    y, x = 1, 3
    head = heads.RpnHead(4, 3, rngs=nnx.Rngs(0))
    for layer in (head.conv, head.logits, head.deltas):
        layer.kernel[...] = jnp.zeros_like(layer.kernel[...])
    # One cell lights channel 2, which lights one anchor and the dw of its box.
    head.conv.kernel[...] = head.conv.kernel[...].at[1, 1, 2, 2].set(1.0)
    head.logits.kernel[...] = head.logits.kernel[...].at[0, 0, 2, anchor].set(1.0)
    dw = 4 * anchor + 2
    head.deltas.kernel[...] = head.deltas.kernel[...].at[0, 0, 2, dw].set(1.0)
    logits, deltas = head(jnp.zeros((1, height, width, 4)).at[0, y, x, 2].set(1.0))

    (row,) = np.flatnonzero(logits[0])
    x1, y1, x2, y2 = np.asarray(anchors.grid((height, width), stride))[row]
    np.testing.assert_allclose([(y1 + y2) / 2, (x1 + x2) / 2], [y * stride, x * stride])
    ratio = (0.5, 1.0, 2.0)[anchor]
    np.testing.assert_allclose((y2 - y1) / (x2 - x1), ratio, rtol=1e-5)
    want = np.zeros((height * width * 3, 4))
    want[row, 2] = 1
    np.testing.assert_array_equal(deltas[0], want)


def test_rpn_head_equals_its_equation():
    head = tiny_model.shake(heads.RpnHead(4, 3, rngs=nnx.Rngs(0)))
    head.conv.kernel[...] *= 100.0
    x = _normal(1, 2, 3, 5, 4)
    logits, deltas = apply(head, x)
    given = tiny_model.arrays(head)
    y = np.maximum(tiny_model.conv(x, **given["conv"]), 0)
    want = tiny_model.conv(y, **given["logits"])
    np.testing.assert_allclose(logits, want.reshape(2, 45), atol=1e-5)
    want = tiny_model.conv(y, **given["deltas"])
    np.testing.assert_allclose(deltas, want.reshape(2, 45, 4), atol=1e-5)


def test_rpn_says_the_same_of_every_anchor_alone_and_learns_the_same():
    head = tiny_model.shake(heads.RpnHead(4, 3, rngs=nnx.Rngs(0)))
    head.conv.kernel[...] *= 100.0
    structure, state = nnx.split(head)
    levels = [_normal(n, 2, *hw, 4) for n, hw in enumerate([(4, 5), (2, 3), (1, 1)])]
    number = 3 * (20 + 6 + 1)
    rows = np.stack([np.random.default_rng(n).permutation(number) for n in (5, 6)])
    weights = _normal(7, 2, number, 5)

    def answers(state, levels, at):
        head = nnx.merge(structure, state)
        if at:
            logits, deltas = head.at(levels, jnp.asarray(rows))
        else:
            parts = zip(*(head(x) for x in levels), strict=True)
            logits, deltas = (jnp.concatenate(x, 1) for x in parts)
            logits = jnp.take_along_axis(logits, rows, 1)
            deltas = jnp.take_along_axis(deltas, rows[..., None], 1)
        found = jnp.concatenate([logits[..., None], deltas], -1)
        return (weights * found).sum(), found

    learn = jax.jit(jax.grad(answers, (0, 1), has_aux=True), static_argnames="at")
    mine, whole = (learn(state, levels, at=at) for at in (True, False))
    assert all(np.any(x) for x in jax.tree.leaves(whole))
    for one, other in zip(jax.tree.leaves(mine), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(other).max())


def test_box_head_equals_its_equation():
    head = tiny_model.shake(
        heads.BoxHead(12, 3, channels=8, regressed=4, rngs=nnx.Rngs(0))
    )
    head.deltas.kernel[...] *= 1000.0
    x = _normal(1, 2, 5, 2, 2, 3)
    logits, deltas = apply(head, x)
    given = tiny_model.arrays(head)
    y = np.asarray(x, np.float64).reshape(2, 5, 12)  # y, x, channel
    y = np.maximum(_linear(given["fc2"], np.maximum(_linear(given["fc1"], y), 0)), 0)
    np.testing.assert_allclose(logits, _linear(given["logits"], y), atol=1e-5)
    assert logits.shape == (2, 5, 4)  # three classes and the background
    want = _linear(given["deltas"], y).reshape(2, 5, 4, 4)  # class, then dx dy dw dh
    np.testing.assert_allclose(deltas, want, atol=1e-4)


def test_track_head_equals_its_equation_and_may_be_negative():
    head = tiny_model.shake(heads.TrackHead(12, channels=8, rngs=nnx.Rngs(0)))
    head.fc1.kernel[...] *= 100.0
    head.fc2.kernel[...] *= 100.0
    x = _normal(1, 2, 5, 2, 2, 3)
    given = tiny_model.arrays(head)
    y = np.asarray(x, np.float64).reshape(2, 5, 12)
    want = _linear(given["fc2"], np.maximum(_linear(given["fc1"], y), 0))
    assert (want < 0).any()
    np.testing.assert_allclose(apply(head, x), want, atol=1e-4)


def test_track_head_of_openmmlab_cuts_off_what_is_negative():
    head = heads.TrackHead(49 * 3, channels=4, rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 5, 7, 7, 3)), jnp.float32)
    plain = head(x)
    head.last_relu = True
    np.testing.assert_array_equal(head(x), jnp.maximum(plain, 0))
    assert (plain < 0).any()


def _mask_head(depth):
    return tiny_model.shake(
        heads.MaskHead(3, 4, channels=5, depth=depth, rngs=nnx.Rngs(0))
    )


@pytest.mark.parametrize("depth", [1, 2])
def test_mask_head_equals_its_equation(depth):
    head = _mask_head(depth)
    x = _normal(1, 2, 6, 6, 3)
    y, given = np.asarray(x), tiny_model.arrays(head)
    for i in range(depth):
        y = np.maximum(tiny_model.conv(y, **given["convs"][i]), 0)
    kernel = given["upsample"]["kernel"].reshape(5, 2, 2, 5)
    fine = np.zeros((2, 12, 12, 5))
    for row, column, dy, dx in np.ndindex(6, 6, 2, 2):
        fine[:, 2 * row + dy, 2 * column + dx] = y[:, row, column] @ kernel[:, dy, dx]
    fine = np.maximum(fine + given["upsample_bias"], 0)
    want = _linear(given["logits"], fine)
    np.testing.assert_allclose(apply(head, x), want, atol=1e-4)


def test_deconvolution_of_the_mask_head_equals_torch(golden):
    arrays = np.load(golden / "parity/image_and_misc.npz")
    head = heads.MaskHead(4, 6, channels=3, depth=0, rngs=nnx.Rngs(0))
    # torch: (in, out, dy, dx); ours: in by (dy, dx, out).
    weight = arrays["deconv_w"].transpose(0, 2, 3, 1).reshape(4, 12)
    head.upsample = nnx.Linear(4, 12, use_bias=False, rngs=nnx.Rngs(0))
    head.upsample.kernel[...] = jnp.asarray(weight)
    # The activation behind it is undone: relu(x) - relu(-x) = x.
    x = jnp.asarray(arrays["deconv_in"].transpose(0, 2, 3, 1))
    head.logits.kernel[...] = jnp.eye(3, 6)
    got = (apply(head, x) - apply(head, -x))[..., :3]
    want = arrays["deconv2s2"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_heads_answer_in_float32_from_bfloat16():
    x = _normal(0, 1, 2, 3, 3, 4).astype(jnp.bfloat16)
    for head, given in (
        (heads.RpnHead(4, 3, rngs=nnx.Rngs(0)), x[0]),
        (heads.BoxHead(36, 3, channels=8, regressed=3, rngs=nnx.Rngs(0)), x),
        (heads.TrackHead(36, channels=8, rngs=nnx.Rngs(0)), x),
    ):
        head = jax.tree.map(lambda p: p.astype(jnp.bfloat16), head)
        for answer in jax.tree.leaves(jax.eval_shape(lambda h, g: h(g), head, given)):
            assert answer.dtype == jnp.float32
