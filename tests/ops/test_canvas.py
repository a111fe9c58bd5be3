"""The canvas that frames are scaled into."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stan_jax.errors import InputError
from stan_jax.ops import canvas

SIDES = st.integers(1, 3000)


@pytest.mark.parametrize(
    ("size_hw", "canvas_hw", "scale_hw", "want"),
    [
        ((720, 1280), (384, 640), (360, 640), (0.5, 360, 640)),
        ((1280, 720), (640, 384), (360, 640), (0.5, 640, 360)),
        ((480, 640), (384, 640), (360, 640), (0.75, 360, 480)),
        ((360, 640), (384, 640), (360, 640), (1.0, 360, 640)),
        ((96, 160), (384, 640), (360, 640), (3.75, 360, 600)),
        ((333, 500), (384, 640), (640, 360), (360 / 333, 360, 541)),
        ((500, 500), (384, 640), (384, 640), (0.768, 384, 384)),
    ],
)
def test_fit_gives_the_sizes_of_the_original(size_hw, canvas_hw, scale_hw, want):
    assert canvas.fit(*size_hw, canvas_hw, scale_hw) == pytest.approx(want, rel=1e-12)


@given(height=SIDES, width=SIDES, short=SIDES, more=SIDES)
def test_fit_fills_one_side_and_never_leaves_the_canvas(height, width, short, more):
    scale_hw = (short, short + more)
    canvas_hw = canvas.canvas_of(height, width, scale_hw)
    factor, new_h, new_w = canvas.fit(height, width, canvas_hw, scale_hw)
    assert 1 <= new_h <= canvas_hw[0]
    assert 1 <= new_w <= canvas_hw[1]
    assert short in (new_h, new_w) or short + more in (new_h, new_w)
    assert abs(new_h - factor * height) <= max(0.5, 1 - factor * height) + 1e-6
    assert abs(new_w - factor * width) <= max(0.5, 1 - factor * width) + 1e-6


def test_fit_refuses_a_scale_beyond_the_canvas():
    with pytest.raises(ValueError, match="400 x 711 and must fit the canvas of 384"):
        canvas.fit(720, 1280, (384, 640), (400, 720))
    with pytest.raises(ValueError, match="must fit"):
        canvas.fit(1280, 720, (384, 640), (384, 640))


def test_canvas_is_transposed_for_portrait_alone():
    assert canvas.canvas_of(360, 640, (384, 640)) == (384, 640)
    assert canvas.canvas_of(640, 640, (384, 640)) == (384, 640)
    assert canvas.canvas_of(641, 640, (384, 640)) == (640, 384)


def test_resize_frame_averages_when_shrinking():
    board = np.indices((40, 60)).sum(0) % 2 * 200
    frame = np.repeat(board[:, :, None], 3, axis=2).astype(np.uint8)
    small = canvas.resize_frame(frame, (10, 15))
    assert np.abs(small.astype(int) - 100).max() <= 8


def test_canvas_that_is_portrait_or_too_small_is_refused():
    canvas.check((384, 640), [(360, 640), (384, 384)])
    with pytest.raises(InputError, match="landscape and hold 360 x 640, is 640 x 384"):
        canvas.check((640, 384), [(360, 640)])
    with pytest.raises(InputError, match="hold 400 x 640, is 384 x 640"):
        canvas.check((384, 640), [(360, 640), (400, 640)])
