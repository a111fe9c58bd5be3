from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_model
from pasted import paste

from stan_jax.ops import masks, roi_align

crop = jax.jit(masks.crop, static_argnames=("out", "sampling"))


def _blobs(seed, num, height, width):
    """Masks with both large areas and ragged borders."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [
        np.sin(y / rng.uniform(2, 9) + rng.uniform(0, 6))
        + np.cos(x / rng.uniform(2, 9) + rng.uniform(0, 6))
        for _ in range(num)
    ]
    return jnp.asarray(np.stack(waves) > 0)


@pytest.mark.parametrize("sampling", [2, 0])
def test_crop_is_roi_align_of_the_chosen_bitmap(sampling):
    bitmaps = _blobs(0, 3, 50, 70)
    boxes = jnp.array(
        [
            [3.2, 4.1, 60.7, 44.4],
            [-10, -5, 30, 25],
            [50, 30, 90, 70],
            [0, 0, 70, 50],
            [12, 13, 14, 40],
        ]
    )
    index = jnp.array([2, 0, 1, 0, 2])
    got = crop(bitmaps, boxes, index, out=14, sampling=sampling)
    chosen = bitmaps[index][..., None].astype(jnp.float32)
    share = roi_align.roi_align(
        (chosen,), boxes[:, None], strides=(1,), out=14, sampling=sampling
    )
    share = np.asarray(share)[:, 0, ..., 0]
    clear = np.abs(share - 0.5) > 1e-5
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(np.asarray(got)[clear], (share >= 0.5)[clear])
    assert set(np.unique(got)) == {0.0, 1.0}


def test_crop_equals_a_loop_over_bilinear_samples():
    """Source: mmdet BitmapMasks.crop_and_resize, RoIAlign aligned, 2 x 2 samples."""
    bitmaps = np.asarray(_blobs(3, 2, 30, 40))
    boxes = np.array([[4.3, 2.2, 33.1, 27.9], [-6.0, 10.0, 21.5, 35.0]], np.float32)
    cells = 7
    got = np.asarray(crop(jnp.asarray(bitmaps), boxes, jnp.array([1, 0]), out=cells))

    def value(bitmap, y, x):
        height, width = bitmap.shape
        if not (-1 <= y <= height and -1 <= x <= width):
            return 0.0
        y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
        y0, x0 = int(y), int(x)
        y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
        top = bitmap[y0, x0] * (1 - (x - x0)) + bitmap[y0, x1] * (x - x0)
        low = bitmap[y1, x0] * (1 - (x - x0)) + bitmap[y1, x1] * (x - x0)
        return top * (1 - (y - y0)) + low * (y - y0)

    for n, bitmap in enumerate(bitmaps[[1, 0]].astype(float)):
        x1, y1, x2, y2 = boxes[n].astype(float)
        for i, j in np.ndindex(cells, cells):
            share = np.mean(
                [
                    value(
                        bitmap,
                        y1 - 0.5 + (i + a) * (y2 - y1) / cells,
                        x1 - 0.5 + (j + b) * (x2 - x1) / cells,
                    )
                    for a in (0.25, 0.75)
                    for b in (0.25, 0.75)
                ]
            )
            if abs(share - 0.5) > 1e-5:
                assert got[n, i, j] == (share >= 0.5), (n, i, j)


def test_crop_of_as_many_pixels_as_cells_is_the_bitmap():
    bitmaps = _blobs(1, 2, 40, 60)
    got = crop(bitmaps, jnp.array([[10.0, 5, 38, 33]]), jnp.array([1]))
    # Samples sit a quarter pixel off the centres: two thirds of a 2 x 2 patch decide.
    assert (got[0] == bitmaps[1, 5:33, 10:38]).mean() > 0.95
    one_each = crop(bitmaps, jnp.array([[10.0, 5, 38, 33]]), jnp.array([1]), sampling=1)
    np.testing.assert_array_equal(one_each[0], bitmaps[1, 5:33, 10:38])


def test_crop_counts_an_exact_half_as_inside():
    columns = jnp.broadcast_to(jnp.arange(40) >= 20, (1, 40, 40))
    boxes = jnp.array([[6.0, 6, 34, 34], [7, 7, 35, 35], [6.5, 6.5, 34.5, 34.5]])
    got = crop(columns, boxes, jnp.zeros(3, int), sampling=1)
    # The third box samples on the border, where the bitmap is one half.
    np.testing.assert_array_equal(got.sum((1, 2)), [28 * 14, 28 * 15, 28 * 15])


def test_crop_outside_the_frame_and_of_empty_boxes_is_empty():
    full = jnp.ones((1, 30, 40), bool)
    boxes = jnp.array([[-50.0, -50, -20, -20], [45, 35, 80, 90], [20, 10, 60, 20]])
    got = crop(full, boxes, jnp.zeros(3, int))
    np.testing.assert_array_equal(got[:2], np.zeros((2, 28, 28)))
    # RoIAlign lets the last pixel reach one further, here into half of one cell more.
    np.testing.assert_array_equal(got[2].sum(1), np.full(28, 15))


def test_crop_of_no_boxes_or_no_objects_is_empty():
    bitmaps = _blobs(2, 2, 20, 20)
    assert crop(bitmaps, jnp.zeros((0, 4)), jnp.zeros(0, int)).shape == (0, 28, 28)
    got = crop(bitmaps[:0], jnp.array([[0.0, 0, 9, 9]]), jnp.array([0]))
    np.testing.assert_array_equal(got, np.zeros((1, 28, 28)))


def test_crop_keeps_less_memory_than_the_masks():
    shapes = [
        jax.ShapeDtypeStruct(shape, dtype)
        for shape, dtype in (((16, 384, 640), bool), ((32, 4), "f4"), ((32,), "i4"))
    ]
    compiled = jax.jit(masks.crop).lower(*shapes).compile()
    assert tiny_model.temporary_bytes(compiled) < 16 * 384 * 640


def _sample(grid, y, x):
    """Bilinear value at (y, x) in cells, zeros outside."""
    side = len(grid)
    return sum(
        grid[row, column] * max(0, 1 - abs(y - row)) * max(0, 1 - abs(x - column))
        for row in range(side)
        for column in range(side)
    )


def test_paste_matches_loops():
    rng = np.random.default_rng(3)
    probs = rng.uniform(size=(3, 4, 4)).astype(np.float32)
    rows = [[2.3, 1.7, 9.1, 8], [-4, -2, 5, 6], [5, 5, 6, 30]]
    boxes = np.array(rows, np.float32)
    height, width = 10, 12
    want = np.zeros((3, height, width))
    for n, y, x in np.ndindex(*want.shape):
        x1, y1, x2, y2 = boxes[n]
        v = (y + 0.5 - y1) / (y2 - y1) * 4 - 0.5
        u = (x + 0.5 - x1) / (x2 - x1) * 4 - 0.5
        want[n, y, x] = _sample(probs[n], v, u)
    got = paste(jnp.asarray(probs), jnp.asarray(boxes), (height, width))
    np.testing.assert_allclose(got, want, atol=2e-6)


def test_paste_equals_mmdet(golden):
    arrays = np.load(golden / "parity/mask_paste.npz")
    probs = jax.nn.sigmoid(jnp.asarray(arrays["mask_logits"]))
    got = np.asarray(paste(probs, jnp.asarray(arrays["boxes"]), (360, 640)))
    np.testing.assert_allclose(got, arrays["mmdet_soft_fp16"], atol=3e-4)
    want = np.unpackbits(arrays["mmdet_bool_packed"], axis=-1).astype(bool)
    # Mask 4 has a pixel 6e-7 from one half; all others are clear of rounding.
    close = np.abs(got - 0.5) < 2e-6
    assert close.sum() < 20
    np.testing.assert_array_equal((got >= 0.5)[~close], want[~close])


def test_crop_undoes_paste_of_large_boxes():
    cells = _blobs(4, 2, 28, 28).astype(jnp.float32)
    boxes = jnp.array([[10.0, 20, 122, 132], [100, 0, 184, 140]])  # 3 px a cell and up
    back = crop(paste(cells, boxes, (150, 200)) >= 0.5, boxes, jnp.arange(2))
    assert (back == cells).mean() > 0.97


def test_paste_of_one_box_does_not_depend_on_its_neighbours():
    probs = jax.random.uniform(jax.random.key(0), (5, 28, 28))
    boxes = jnp.array(
        [[0.0, 0, 30, 20], [5, 5, 5, 9], [9, 9, 3, 3], [-9, -9, -3, -3], [1, 2, 3, 4]]
    )
    together = paste(probs, boxes, (20, 30))
    each = [paste(probs[n : n + 1], boxes[n : n + 1], (20, 30))[0] for n in range(5)]
    np.testing.assert_allclose(together, jnp.stack(each), atol=1e-6)
    # No area, inverted, outside: nothing, and nothing that is not a number.
    np.testing.assert_array_equal(together[1:4], np.zeros((3, 20, 30)))


def test_paste_of_a_full_grid_fills_the_box_and_fades_within_half_a_cell():
    got = paste(jnp.ones((1, 4, 4)), jnp.array([[8.0, 8, 24, 24]]), (32, 32))[0]
    np.testing.assert_array_equal(got[10:22, 10:22], np.ones((12, 12)))
    np.testing.assert_array_equal(np.asarray(got >= 0.5)[16].nonzero()[0], range(8, 24))
    beyond = np.ones((32, 32), bool)
    beyond[6:26, 6:26] = False  # a cell is 4 pixels
    assert not np.asarray(got)[beyond].any()


def test_paste_of_no_boxes_is_empty():
    assert paste(jnp.zeros((0, 28, 28)), jnp.zeros((0, 4)), (9, 8)).shape == (0, 9, 8)


def test_batched_images_agree_with_one_by_one():
    bitmaps = jnp.stack([_blobs(5, 2, 20, 30), _blobs(6, 2, 20, 30)])
    boxes = jnp.array(
        [[[1.0, 2, 20, 18], [3, 3, 9, 9]], [[0, 0, 30, 20], [4, 4, 8, 9]]]
    )
    index = jnp.array([[0, 1], [1, 0]])
    both = jax.vmap(partial(crop, out=7))(bitmaps, boxes, index)
    for b in range(2):
        one = crop(bitmaps[b], boxes[b], index[b], out=7)
        np.testing.assert_array_equal(both[b], one)


def test_legacy_crop_and_paste_equal_the_original(golden):
    arrays = np.load(golden / "parity/orig_ops.npz")
    half_open = np.array([[0, 0, 1, 1]], np.float32)
    got = jax.jit(partial(masks.crop, legacy=True))(
        jnp.asarray(arrays["mt_gt"] > 0),
        jnp.asarray(arrays["mt_props"] + half_open),
        jnp.asarray(arrays["mt_inds"]),
    )
    np.testing.assert_array_equal(got, arrays["mt_target"])


def test_legacy_paste_equals_the_original(golden):
    arrays = np.load(golden / "parity/orig_ops.npz")
    logits = np.load(golden / "parity/mask_paste.npz")["mask_logits"]
    probs = jax.nn.sigmoid(jnp.asarray(logits[arrays["paste_rows"]]))
    boxes = arrays["paste_boxes"] + np.array([[0, 0, 1, 1]], np.float32)
    got = paste(probs, boxes, (360, 640), legacy=True)
    want = np.unpackbits(arrays["paste_mask_packed"], axis=-1).astype(bool)
    close = np.abs(np.asarray(got) - 0.5) < 2e-6
    assert close.sum() < 20
    np.testing.assert_array_equal((got > 0.5)[~close], want[~close])
