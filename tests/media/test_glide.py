"""A window over a still image: where it may be, and that masks see what pixels see."""

import numpy as np
import pytest
from PIL import Image

from stan_jax.masks import codec
from stan_jax.media import glide

SIZES = [(48, 64), (90, 300), (300, 90), (7, 5)]


@pytest.mark.parametrize("motion", [0.5, 1.0, 2.0])
def test_window_stays_inside_and_moves_smoothly(motion):
    rng = np.random.default_rng(0)
    for hw in SIZES:
        height, width = hw
        corners = np.array(
            [[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]]
        )
        for _ in range(20):
            path = glide.glide(hw, 30, rng, motion=motion)
            x, y = path[:, :3] @ corners.T, path[:, 3:] @ corners.T
            assert x.min() >= -1e-6
            assert x.max() <= width + 1e-6
            assert y.min() >= -1e-6
            assert y.max() <= height + 1e-6
            assert np.abs(np.diff(x, axis=0)).max() < 0.08 * max(1, motion) * width
            assert len({step.tobytes() for step in path}) == 30


def test_without_motion_the_still_comes_back():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (48, 64, 3), np.uint8)
    mask = rng.random((48, 64)) < 0.5
    for step in glide.glide((48, 64), 3, rng, motion=0.0):
        view = glide.warp(Image.fromarray(pixels), step, (48, 64))
        np.testing.assert_array_equal(np.asarray(view), pixels)
        seen = glide.warp_mask(codec.encode(mask), step, (48, 64))
        np.testing.assert_array_equal(seen, mask)


def test_draws_do_not_depend_on_the_motion():
    one, two = np.random.default_rng(3), np.random.default_rng(3)
    glide.glide((48, 64), 4, one, motion=0.0)
    glide.glide((48, 64), 4, two, motion=1.0)
    assert one.random() == two.random()


def _blob(rng, hw):
    """A mask somewhere, often at the border of the image."""
    mask = np.zeros(hw, bool)
    top, left = (int(rng.integers(-n // 3, n)) for n in hw)
    bottom, right = top + int(rng.integers(1, hw[0])), left + int(rng.integers(1, 20))
    part = mask[max(top, 0) : max(bottom, 1), max(left, 0) : max(right, 1)]
    part |= rng.random(part.shape) < 0.8
    return mask


@pytest.mark.parametrize("frame_hw", [(48, 64), (36, 48), (20, 31), (90, 120)])
def test_mask_sees_what_an_image_painted_with_it_shows(frame_hw):
    """The mask goes by its own part of the image; the image goes as a whole."""
    rng = np.random.default_rng(1)
    shown = 0
    for _ in range(60):
        mask = _blob(rng, (48, 64))
        if not mask.any():
            continue
        (step,) = glide.glide((48, 64), 1, rng)
        step = glide.rescaled(step, (48, 64), frame_hw, (48, 64))
        painted = Image.fromarray(mask.view(np.uint8) * np.uint8(255))
        want = np.asarray(glide.warp(painted, step, frame_hw)) > 127
        seen = glide.warp_mask(codec.encode(mask), step, frame_hw)
        assert (seen is not None) == want.any()
        if seen is not None:
            np.testing.assert_array_equal(seen, want)
            shown += 1
    assert 20 < shown


def test_rescaled_map_shows_the_same_window_at_another_size():
    """A smooth picture: half the frame of twice the image is the frame itself."""
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:48, :64] + 0.5
    ramp = np.stack([4 * x - 1, 5 * y, 128 + x - y], axis=2).astype(np.uint8)
    image = Image.fromarray(ramp)
    twice = image.resize((128, 72), Image.Resampling.BICUBIC)
    for step in glide.glide((48, 64), 5, rng):
        plain = np.asarray(glide.warp(image, step, (48, 64)), float)
        other = glide.rescaled(step, (48, 64), (24, 32), (72, 128))
        small = np.asarray(glide.warp(twice, other, (24, 32)), float)
        want = plain.reshape(24, 2, 32, 2, 3).mean((1, 3))
        assert np.abs(small - want)[1:-1, 1:-1].max() < 4


def test_object_outside_the_window_is_none():
    mask = np.zeros((40, 60), bool)
    mask[:4, :4] = True
    away = np.array([0.5, 0.0, 28.0, 0.0, 0.5, 18.0])
    assert glide.warp_mask(codec.encode(mask), away, (40, 60)) is None


def test_mask_that_fills_the_image_fills_the_frame_up_to_its_corners():
    whole = codec.encode(np.ones((40, 60), bool))
    near = np.array([0.9, 0.0, -0.35, 0.0, 0.9, -0.35])  # samples from 0.1, 0.1 on
    seen = glide.warp_mask(whole, near, (40, 60))
    assert seen is not None
    assert seen.all()
