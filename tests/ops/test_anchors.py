import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stan_jax.ops import anchors

grid = jax.jit(
    anchors.grid, static_argnums=(0, 1), static_argnames=("scales", "ratios", "kind")
)
inside = jax.jit(anchors.inside, static_argnums=2)

STRIDES = (4, 8, 16, 32, 64)
LEVELS = tuple((384 // s, 640 // s) for s in STRIDES)
FRAME = jnp.array([360, 640])


def test_grid_matches_a_loop_over_cells_ratios_and_scales():
    got = grid((3, 4), 8, scales=(2.0, 4.0), ratios=(0.5, 3.0))
    want = []
    for y in range(3):
        for x in range(4):
            for ratio in (0.5, 3.0):
                for scale in (2.0, 4.0):
                    w, h = 8 * scale / math.sqrt(ratio), 8 * scale * math.sqrt(ratio)
                    want.append(
                        [8 * x - w / 2, 8 * y - h / 2, 8 * x + w / 2, 8 * y + h / 2]
                    )
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-5)


def test_grid_keeps_the_area_and_aspect_asked_for():
    x1, y1, x2, y2 = grid((2, 2), 16, scales=(8.0,), ratios=(0.5, 2.0)).T
    np.testing.assert_allclose((x2 - x1) * (y2 - y1), (8 * 16) ** 2, rtol=1e-5)
    np.testing.assert_allclose((y2 - y1) / (x2 - x1), [0.5, 2.0] * 4, rtol=1e-5)


def test_grid_of_an_empty_level_is_empty():
    assert grid((0, 5), 8).shape == (0, 4)


def test_legacy_grid_is_in_the_middle_of_whole_pixels():
    got = grid((2, 3), 8, kind="legacy")
    np.testing.assert_array_equal(got, jnp.round(got))
    centre = (got[:, :2] + got[:, 2:]) / 2
    np.testing.assert_array_equal(centre[::3] % 8, np.full((6, 2), 4.0))


@pytest.mark.parametrize("level", range(5))
def test_grid_equals_mmdet(golden, level):
    want = np.load(golden / "parity/anchors.npz")[f"mmdet_grid_{level}"]
    np.testing.assert_array_equal(grid(LEVELS[level], STRIDES[level]), want)


@pytest.mark.parametrize("level", range(5))
def test_legacy_grid_equals_the_original_written_half_open(golden, level):
    arrays = np.load(golden / "parity/orig_ops.npz")
    half_open = np.array([[0, 0, 1, 1]], np.float32)
    got = grid(LEVELS[level], STRIDES[level], kind="legacy")
    np.testing.assert_array_equal(got[:3], arrays[f"anchor_base_{level}"] + half_open)
    if level > 0:  # of level 0 only a corner is stored, of another width
        want = arrays[f"anchor_grid_{level}"] + half_open
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("level", range(5))
def test_inside_by_cell_equals_mmdet_valid_flags(golden, level):
    given = grid(LEVELS[level], STRIDES[level])
    packed = np.load(golden / "parity/anchors.npz")[f"mmdet_valid_{level}"]
    want = np.unpackbits(packed)[: len(given)].astype(bool)
    np.testing.assert_array_equal(inside(given, FRAME), want)


@pytest.mark.parametrize("size", [(33, 64), (64, 65)])
def test_inside_by_cell_is_exact_where_a_cell_starts_on_the_border(size):
    for stride in (8, 64):
        level = (128 // stride, 128 // stride)
        cells = np.argwhere(np.ones(level)) * stride
        want = np.repeat((cells < size).all(axis=1), 3)
        got = inside(grid(level, stride), jnp.array(size))
        np.testing.assert_array_equal(got, want)


def test_inside_with_border_matches_a_loop():
    given = grid((6, 6), 16, scales=(1.0, 4.0), kind="legacy")
    for border in (0, 40):
        want = [
            x1 >= -border and y1 >= -border and x2 <= 90 + border and y2 <= 70 + border
            for x1, y1, x2, y2 in np.asarray(given).tolist()
        ]
        got = inside(given, jnp.array([70, 90]), border)
        np.testing.assert_array_equal(got, want)
        assert 0 < sum(want) < len(want)


def test_inside_without_border_leaves_what_the_original_trains():
    # Counted from the original's formulas for a 640x360 frame on a 640x384 canvas.
    got = [
        int(inside(grid(hw, s, kind="legacy"), FRAME, 0).sum())
        for hw, s in zip(LEVELS, STRIDES, strict=True)
    ]
    assert got == [36908, 7758, 1330, 76, 0]
