import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_model

from stan_jax.ops import roi_align as ops

STRIDES = (4, 8, 16, 32)
roi_align = jax.jit(
    ops.roi_align,
    static_argnames=("strides", "out", "sampling", "aligned", "min_size"),
)
BOXES = np.array(  # pixels of a 40 x 56 frame
    [
        [5, 6, 30, 21.5],
        [0, 0, 56, 40],
        [-9, -7, 12, 11],  # over the upper left corner
        [40, 30, 70, 60],  # over the lower right corner
        [-40, -40, -20, -20],
        [60, 44, 90, 80],  # outside, but nearer than one cell
        [20, 20, 20, 20],
        [30, 25, 10, 12],  # inverted
        [1, 2, 1.25, 39],
    ],
    np.float32,
)


def _bilinear(grid, y, x):
    """Value at (y, x) in cells, and what each cell adds to it."""
    height, width, _ = grid.shape
    share = np.zeros((height, width))
    if -1 <= y <= height and -1 <= x <= width:
        y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
        for row in range(height):
            for column in range(width):
                share[row, column] = max(0, 1 - abs(y - row)) * max(
                    0, 1 - abs(x - column)
                )
    return np.einsum("hw,hwc->c", share, grid), share


def _loop(grid, box, scale, out, sampling, shift, least):
    """RoIAlign of one box written as torchvision's source reads; also its weights."""
    x1, y1, x2, y2 = (float(v) * scale - shift for v in box)
    height, width = max(y2 - y1, least), max(x2 - x1, least)
    per_y = sampling or math.ceil(height / out[0])
    per_x = sampling or math.ceil(width / out[1])
    result = np.zeros((*out, grid.shape[-1]))
    shares = np.zeros((*out, *grid.shape[:2]))
    for row, column in np.ndindex(*out):
        for i, j in np.ndindex(max(per_y, 0), max(per_x, 0)):
            y = y1 + height / out[0] * (row + (i + 0.5) / per_y)
            x = x1 + width / out[1] * (column + (j + 0.5) / per_x)
            value, share = _bilinear(grid, y, x)
            result[row, column] += value / (per_y * per_x)
            shares[row, column] += share / (per_y * per_x)
    return result, shares


def _pyramid(seed, channels=3, batch=2):
    rng = np.random.default_rng(seed)
    shapes = ((10, 14), (5, 7))
    return tuple(
        rng.standard_normal((batch, *hw, channels)).astype(np.float32) for hw in shapes
    )


@pytest.mark.parametrize(
    ("sampling", "aligned", "min_size", "shift", "least"),
    [
        (2, True, None, 0.5, -np.inf),
        (1, False, None, 0.0, 1.0),
        (2, False, 0.0, 0.0, 0.0),
        (3, True, None, 0.5, -np.inf),
        (0, True, None, 0.5, -np.inf),
    ],
)
def test_roi_align_and_gradient_match_loops(sampling, aligned, min_size, shift, least):
    levels, out = _pyramid(0), (3, 4)
    boxes = np.stack([BOXES, BOXES[::-1]])
    level = np.arange(2 * len(BOXES)).reshape(2, -1) % 2
    grad = np.random.default_rng(1).standard_normal((*level.shape, *out, 3))
    want = np.zeros_like(grad)
    want_grads = [np.zeros(x.shape) for x in levels]
    for b, n in np.ndindex(*level.shape):
        k = level[b, n]
        scale = 1 / STRIDES[k]
        found = _loop(levels[k][b], boxes[b, n], scale, out, sampling, shift, least)
        want[b, n] = found[0]
        want_grads[k][b] += np.einsum("yxhw,yxc->hwc", found[1], grad[b, n])

    pool = partial(
        roi_align,
        boxes=jnp.asarray(boxes),
        strides=STRIDES[:2],
        out=out,
        sampling=sampling,
        aligned=aligned,
        min_size=min_size,
        level=jnp.asarray(level),
    )
    got, backward = jax.vjp(pool, tuple(map(jnp.asarray, levels)))
    np.testing.assert_allclose(got, want, atol=2e-6)
    (got_grads,) = backward(jnp.asarray(grad, jnp.float32))
    for one, other in zip(got_grads, want_grads, strict=True):
        np.testing.assert_allclose(one, other, atol=5e-6)


def _golden_pool(arrays, features, rois, out, **choices):
    """Result in the layout of torch; every box is given to both images."""
    boxes = jnp.asarray(np.broadcast_to(rois[:, 1:], (2, *rois[:, 1:].shape)))
    found = roi_align((features,), boxes, strides=(4,), out=out, **choices)
    found = found[rois[:, 0].astype(int), np.arange(len(rois))]
    return found.transpose(0, 3, 1, 2)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sampling", [0, 1, 2])
def test_roi_align_equals_torchvision(golden, sampling, aligned):
    arrays = np.load(golden / "parity/roi_align.npz")
    # Adaptive sampling is exact up to twice the frame; row 12 is 9 times as wide.
    rows = np.delete(np.arange(40), 12 if sampling == 0 else [])
    features = jnp.asarray(arrays["feat"].transpose(0, 2, 3, 1))
    name = f"aligned{int(aligned)}_sr{sampling}"
    for out in ((7, 7), (14, 14), (3, 5)):
        key = f"out_{name}_{out[0]}x{out[1]}"
        if key in arrays:
            got = _golden_pool(
                arrays,
                features,
                arrays["rois"][rows],
                out,
                sampling=sampling,
                aligned=aligned,
            )
            np.testing.assert_allclose(got, arrays[key][rows], atol=2e-5)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sampling", [1, 2])
def test_gradient_equals_torchvision(golden, sampling, aligned):
    arrays = np.load(golden / "parity/roi_align.npz")

    def loss(features):
        choices = {"sampling": sampling, "aligned": aligned}
        pooled = _golden_pool(arrays, features, arrays["rois"], (7, 7), **choices)
        return (pooled * arrays["grad_out_7x7"]).sum()

    got = jax.grad(loss)(jnp.asarray(arrays["feat"].transpose(0, 2, 3, 1)))
    want = arrays[f"grad_feat_aligned{int(aligned)}_sr{sampling}"]
    np.testing.assert_allclose(got.transpose(0, 3, 1, 2), want, atol=3e-5)


def test_original_roi_align_is_ours_without_shift_on_half_open_boxes(golden):
    arrays = np.load(golden / "parity/orig_ops.npz")
    rois = arrays["rois"][arrays["roi_rows"]]
    rois[:, 3:] += 1  # inclusive to half-open
    features = jnp.asarray(arrays["roi_feat"].transpose(0, 2, 3, 1))
    got = _golden_pool(arrays, features, rois, (7, 7), aligned=False, min_size=0.0)
    np.testing.assert_allclose(got, arrays["roialign_out_s2"], atol=2e-5)


def test_pyramid_equals_all_three_reference_codes(golden):
    arrays = np.load(golden / "parity/roi_align_multilevel.npz")
    original = np.load(golden / "parity/orig_ops.npz")
    levels = tuple(
        jnp.asarray(arrays[f"feat{i}"].transpose(0, 2, 3, 1)) for i in range(4)
    )

    def pooled(boxes, **choices):
        boxes = jnp.asarray(boxes)[None]
        found = roi_align(levels, boxes, strides=STRIDES, out=7, **choices)
        return found[0].transpose(0, 3, 1, 2)

    boxes, some = arrays["boxes"], arrays["torchvision_valid"]
    np.testing.assert_array_equal(
        ops.level_of(jnp.asarray(boxes)), arrays["mmdet_level"]
    )
    want = arrays["mmdet_out_7x7_sr0_aligned"]
    np.testing.assert_allclose(pooled(boxes, sampling=0), want, atol=1e-5)

    level = jnp.asarray(arrays["torchvision_level"].astype(np.int32))[None]
    got = pooled(boxes[some], aligned=False, level=level)
    want = arrays["torchvision_out_7x7_sr2_unaligned"]
    np.testing.assert_allclose(got, want, atol=3e-5)

    half_open = original["ml_boxes"] + np.float32([0, 0, 1, 1])
    np.testing.assert_array_equal(
        ops.level_of(jnp.asarray(half_open)), original["ml_level"]
    )
    got = pooled(half_open, aligned=False, min_size=0.0)
    np.testing.assert_allclose(got, original["ml_out_7x7_s2"], atol=3e-5)


def test_bins_of_a_map_of_coordinates_are_their_own_centres():
    y, x = np.meshgrid(np.arange(20) + 0.5, np.arange(30) + 0.5, indexing="ij")
    level = jnp.asarray(np.stack([x, y], -1)[None] * 4, jnp.float32)  # in pixels
    box = jnp.array([[[11.0, 13.0, 60.0, 41.0]]])
    got = roi_align((level,), box, strides=(4,), out=7)[0, 0]
    centres = (np.arange(7) + 0.5) / 7
    np.testing.assert_allclose(got[0, :, 0], 11 + centres * 49, rtol=1e-5)
    np.testing.assert_allclose(got[:, 0, 1], 13 + centres * 28, rtol=1e-5)


def test_adaptive_sampling_is_2_for_bins_of_1_to_2_cells():
    levels = _pyramid(3, batch=1)[:1]
    boxes = jnp.array([[[2.0, 3, 22, 35], [10, 6, 42, 30]]])  # 4 x 4 bins
    adaptive = roi_align(levels, boxes, strides=(4,), out=4, sampling=0)
    fixed = roi_align(levels, boxes, strides=(4,), out=4, sampling=2)
    np.testing.assert_allclose(adaptive, fixed, atol=1e-6)


def test_images_of_a_batch_do_not_mix():
    levels = _pyramid(4)
    boxes = jnp.asarray(np.stack([BOXES, BOXES + 3]))
    both = roi_align(levels, boxes, strides=STRIDES[:2], out=3)
    for b in range(2):
        alone = tuple(x[b : b + 1] for x in levels)
        one = roi_align(alone, boxes[b : b + 1], strides=STRIDES[:2], out=3)
        np.testing.assert_allclose(both[b], one[0], atol=1e-6)


def test_boxes_get_no_gradient():
    levels = _pyramid(5)
    boxes = jnp.asarray(np.stack([BOXES, BOXES]))

    def pooled(boxes):
        return roi_align(levels, boxes, strides=STRIDES[:2], out=3).sum()

    assert not jax.grad(pooled)(boxes).any()


def test_no_boxes_give_no_features_and_no_gradient():
    levels = tuple(map(jnp.asarray, _pyramid(6)))
    pool = partial(roi_align, boxes=jnp.zeros((2, 0, 4)), strides=STRIDES[:2], out=3)
    got, backward = jax.vjp(pool, levels)
    assert got.shape == (2, 0, 3, 3, 3)
    assert not any(x.any() for x in backward(got)[0])


def test_bfloat16_levels_give_bfloat16_sums_made_in_float32():
    exact = _pyramid(7)
    rough = tuple(jnp.asarray(x, jnp.bfloat16) for x in exact)
    exact = tuple(x.astype(jnp.float32) for x in rough)
    pool = partial(
        roi_align, boxes=jnp.asarray(np.stack([BOXES, BOXES])), strides=(4, 8), out=3
    )
    want, want_backward = jax.vjp(pool, exact)
    got, backward = jax.vjp(pool, rough)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got, want.astype(jnp.bfloat16))
    ones = jnp.ones(got.shape, got.dtype)
    pairs = zip(backward(ones)[0], want_backward(ones.astype(float))[0], strict=True)
    for one, other in pairs:
        np.testing.assert_array_equal(one, other.astype(jnp.bfloat16))


def test_gradient_needs_one_table_not_one_per_tap():
    levels = tuple(jnp.zeros((1, 96 // s * 4, 160 // s * 4, 32)) for s in STRIDES)
    boxes = jnp.broadcast_to(jnp.array([20.0, 20, 200, 150]), (1, 32, 4))

    def loss(levels):
        return (roi_align(levels, boxes, strides=STRIDES, out=7) ** 2).sum()

    compiled = jax.jit(jax.grad(loss)).lower(levels).compile()
    table = sum(x.size for x in levels) * 4
    assert tiny_model.temporary_bytes(compiled) < 3 * table


def test_level_grows_by_one_where_the_side_doubles():
    sides = jnp.array([0.0, 10, 111.9, 112, 223.9, 224, 447.9, 448, 5000])
    boxes = jnp.stack([0 * sides, 0 * sides, sides, sides], -1)
    np.testing.assert_array_equal(ops.level_of(boxes), [0, 0, 0, 1, 1, 2, 2, 3, 3])
    np.testing.assert_array_equal(ops.level_of(-boxes), np.zeros(9))  # inverted
    low = ops.level_of(boxes, num_levels=2, finest=28.0)
    np.testing.assert_array_equal(low, [0, 0, 1, 1, 1, 1, 1, 1, 1])
