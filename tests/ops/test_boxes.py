import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stan_jax.ops import boxes

# Compiled whole: one operation at a time takes far longer to compile than to run.
area, iou, clip = (jax.jit(f) for f in (boxes.area, boxes.iou, boxes.clip))
encode, decode = (jax.jit(f, static_argnums=2) for f in (boxes.encode, boxes.decode))

RCNN_STDS = (0.1, 0.1, 0.2, 0.2)
HALF_OPEN = np.array([[0, 0, 1, 1]], np.float32)  # from inclusive boxes


def _random(seed, num, side=20.0):
    """Boxes with positive sides, some of them outside the frame."""
    rng = np.random.default_rng(seed)
    corner, size = (
        rng.uniform(-side, 2 * side, (num, 2)),
        rng.uniform(1, side, (num, 2)),
    )
    return jnp.asarray(np.hstack([corner, corner + size]), jnp.float32)


def test_area_counts_pixels_and_is_zero_for_inverted_boxes():
    given = jnp.array([[1.0, 2, 4, 4], [4, 2, 1, 4], [4, 4, 1, 2], [3, 3, 3, 9]])
    np.testing.assert_array_equal(area(given), [6, 0, 0, 0])


def test_iou_counts_the_pixels_of_whole_pixel_boxes():
    rng = np.random.default_rng(0)
    corner = rng.integers(0, 10, (24, 2))
    whole = np.hstack([corner, corner + rng.integers(0, 8, (24, 2))])

    def pixels(box):
        x1, y1, x2, y2 = box
        return {(x, y) for x in range(x1, x2) for y in range(y1, y2)}

    want = np.zeros((24, 24))
    for i, a in enumerate(whole):
        for j, b in enumerate(whole):
            either = pixels(a) | pixels(b)
            want[i, j] = len(pixels(a) & pixels(b)) / len(either) if either else 0
    got = iou(jnp.asarray(whole, jnp.float32), jnp.asarray(whole, jnp.float32))
    np.testing.assert_allclose(got, want, rtol=1e-6)
    assert (want == 0).any()
    assert ((want > 0) & (want < 1)).any()


def test_iou_is_symmetric_and_one_with_itself():
    a, b = _random(1, 7), _random(2, 9)
    np.testing.assert_array_equal(iou(a, b), iou(b, a).T)
    np.testing.assert_allclose(jnp.diagonal(iou(a, a)), 1, rtol=1e-6)


def test_iou_of_an_empty_union_is_zero_with_a_finite_gradient():
    point = jnp.array([[3.0, 3, 3, 3], [9, 9, 5, 5]])
    np.testing.assert_array_equal(iou(point, point), np.zeros((2, 2)))
    grad = jax.jit(jax.grad(lambda x: iou(x, point).sum()))(point)
    assert np.isfinite(grad).all()


def test_iou_does_not_see_shift_and_scale():
    a, b = _random(3, 8), _random(4, 8)
    np.testing.assert_allclose(
        iou(a * 4 + 64, b * 4 + 64), iou(a, b), rtol=1e-4, atol=1e-6
    )


def test_encode_matches_a_loop():
    given, anchors = _random(5, 12), _random(6, 12)
    got = encode(given, anchors, RCNN_STDS)
    for row, (x1, y1, x2, y2), (u1, v1, u2, v2) in zip(
        np.asarray(got), given.tolist(), anchors.tolist(), strict=True
    ):
        want = [
            ((x1 + x2) - (u1 + u2)) / 2 / (u2 - u1) / 0.1,
            ((y1 + y2) - (v1 + v2)) / 2 / (v2 - v1) / 0.1,
            math.log((x2 - x1) / (u2 - u1)) / 0.2,
            math.log((y2 - y1) / (v2 - v1)) / 0.2,
        ]
        np.testing.assert_allclose(row, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stds", [(1.0, 1.0, 1.0, 1.0), RCNN_STDS])
def test_decode_inverts_encode(stds):
    given, anchors = _random(7, 50), _random(8, 50)
    back = decode(encode(given, anchors, stds), anchors, stds)
    np.testing.assert_allclose(back, given, atol=1e-4)


def test_decode_clamps_both_ways_at_16_px_to_1000_px():
    anchor = jnp.array([[0.0, 0, 16, 16]])
    for sign, side in ((1, 1000.0), (-1, 16 * 16 / 1000)):
        got = decode(jnp.array([[0.0, 0, sign * 50, sign * 50]]), anchor)
        want = [[8 - side / 2, 8 - side / 2, 8 + side / 2, 8 + side / 2]]
        np.testing.assert_allclose(got, want, rtol=1e-5)


def test_encode_of_padding_is_finite():
    empty = jnp.zeros((3, 4))
    for given, anchors in (
        (empty, _random(9, 3)),
        (_random(9, 3), empty),
        (empty,) * 2,
    ):
        assert np.isfinite(encode(given, anchors)).all()


def test_clip_keeps_what_is_inside_and_empties_what_is_outside():
    given = jnp.array(
        [[-5.0, 2, 7, 99], [50, 50, 60, 60], [-9, -9, -1, -1], [1, 2, 3, 4]]
    )
    got = clip(given, jnp.array([30, 40]))
    want = [[0, 2, 7, 30], [40, 30, 40, 30], [0, 0, 0, 0], [1, 2, 3, 4]]
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(area(got), [7 * 28, 0, 0, 4])


def test_clip_may_keep_the_last_pixel_of_a_box_outside():
    given = jnp.array([[-30.0, 5, -20, 9], [50, 20, 70, 30], [1, 2, 3, 4]])
    got = boxes.clip(given, jnp.array([10, 40]), minimum=1.0)
    np.testing.assert_array_equal(got, [[0, 5, 1, 9], [39, 9, 40, 10], [1, 2, 3, 4]])


def test_leading_axes_are_batches():
    given, anchors = _random(10, 6).reshape(2, 3, 4), _random(11, 6).reshape(2, 3, 4)
    size = jnp.array([15, 25])
    for function in (
        encode,
        decode,
        lambda a, b: area(a),
        lambda a, b: clip(a, size),
    ):
        np.testing.assert_allclose(
            function(given, anchors), jax.vmap(function)(given, anchors), rtol=1e-6
        )


def test_empty_sets_give_empty_results():
    none, some = jnp.zeros((0, 4)), _random(12, 3)
    assert area(none).shape == (0,)
    assert iou(none, some).shape == (0, 3)
    assert iou(some, none).shape == (3, 0)
    assert encode(none, none).shape == (0, 4)
    assert decode(none, none).shape == (0, 4)
    assert clip(none, jnp.array([4, 4])).shape == (0, 4)


@pytest.mark.parametrize(
    ("head", "stds"), [("rpn", (1.0, 1.0, 1.0, 1.0)), ("rcnn", RCNN_STDS)]
)
def test_coder_equals_mmdet(golden, head, stds):
    arrays = np.load(golden / "parity/box_coder.npz")
    priors, gt, deltas = (jnp.asarray(arrays[k]) for k in ("priors", "gt", "deltas"))
    np.testing.assert_allclose(
        encode(gt, priors, stds),
        arrays[f"mmdet_{head}_encode"],
        rtol=1e-6,
        atol=1e-6,
    )
    got = decode(deltas, priors, stds)
    np.testing.assert_allclose(got, arrays[f"mmdet_{head}_decode_noclip"], rtol=2e-6)
    np.testing.assert_allclose(
        clip(got, jnp.array([360, 640])),
        arrays[f"mmdet_{head}_decode_clip360x640"],
        rtol=2e-6,
    )


def test_decode_of_class_wise_deltas_equals_mmdet(golden):
    arrays = np.load(golden / "parity/box_coder.npz")
    deltas = jnp.asarray(arrays["deltas_3class"]).reshape(-1, 3, 4)
    anchors = jnp.repeat(jnp.asarray(arrays["priors"])[:, None], 3, axis=1)
    got = clip(decode(deltas, anchors, RCNN_STDS), jnp.array([360, 640]))
    want = arrays["mmdet_rcnn_decode_3class"]
    np.testing.assert_allclose(got.reshape(-1, 12), want, rtol=2e-6, atol=1e-5)


def test_iou_equals_mmdet(golden):
    arrays = np.load(golden / "parity/box_coder.npz")
    got = iou(jnp.asarray(arrays["priors"]), jnp.asarray(arrays["gt"]))
    np.testing.assert_allclose(got, arrays["mmdet_iou"], rtol=1e-6)


@pytest.mark.parametrize(
    ("head", "stds"), [("rpn", (1.0, 1.0, 1.0, 1.0)), ("rcnn", RCNN_STDS)]
)
def test_half_open_boxes_give_the_original_plus_one_arithmetic(golden, head, stds):
    arrays = np.load(golden / "parity/orig_ops.npz")
    priors, gt = (jnp.asarray(arrays[k] + HALF_OPEN) for k in ("priors", "gt"))
    np.testing.assert_allclose(
        iou(priors, gt), arrays["iou_plus1"], rtol=2e-6, atol=1e-7
    )
    np.testing.assert_allclose(
        encode(gt, priors, stds), arrays[f"encode_{head}"], rtol=1e-5, atol=1e-5
    )
    got = decode(jnp.asarray(arrays["deltas"]), priors, stds)
    want = arrays[f"decode_{head}_noclip"] + HALF_OPEN
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)

    got = clip(got, jnp.array([360, 640]))
    want = arrays[f"decode_{head}_clip360x640"] + HALF_OPEN
    seen = area(got) > 0  # outside the frame the original keeps one pixel
    np.testing.assert_allclose(got[seen], want[seen], rtol=1e-5, atol=1e-4)
    assert seen.sum() > 30
