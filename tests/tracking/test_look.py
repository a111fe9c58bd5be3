import jax.numpy as jnp
import numpy as np
import pytest
import tiny_model

from stan_jax.errors import InputError
from stan_jax.ops import canvas
from stan_jax.tracking.look import look

SIZE = (90, 140)  # shown at 62 x 96 on the canvas of 64 x 96


@pytest.fixture(scope="module")
def tracker():
    model = tiny_model.build()
    model.sta.gamma[...] = jnp.asarray([0.5, -0.25, 0.0, 1.0])
    return tiny_model.tracker(model)


@pytest.fixture(scope="module")
def frames():
    return [canvas.resize_frame(x, SIZE) for x in tiny_model.moving(1, 2)]


def test_each_level_says_where_its_cell_looks_and_what_that_adds(tracker, frames):
    looks = look(tracker, *frames, (139.0, 45.0))
    assert [x.stride for x in looks] == [8, 16, 32, 64]
    assert [x.cell_yx for x in looks] == [(3, 11), (1, 5), (0, 2), (0, 1)]
    assert [x.weights.shape for x in looks] == [(8, 12), (4, 6), (2, 3), (1, 2)]
    assert [x.gamma for x in looks] == [0.5, -0.25, 0.0, 1.0]
    for level in looks:
        np.testing.assert_allclose(level.weights.sum(), 1, rtol=1e-4)
        assert (level.added > 0).all() == (level.gamma != 0)


def test_what_is_added_is_the_difference_that_attention_makes(tracker, frames):
    model = tracker.program.model(tracker.parameters)
    padded = np.zeros((2, 64, 96, 3), np.uint8)
    for n, frame in enumerate(frames):
        padded[n, :62] = canvas.resize_frame(frame, (62, 96))
    maps = model.attended(
        model.features(jnp.asarray(padded), jnp.array([[62, 96]] * 2))
    )
    x0, x1 = ([x[n : n + 1] for x in maps] for n in (0, 1))
    new = model.sta([x[:, None] for x in x0], x1, jnp.array([[62, 96]]))
    for level, raw, attended in zip(
        look(tracker, *frames, (1, 1)), x1, new, strict=True
    ):
        change = np.linalg.norm(attended - raw, axis=-1) / np.linalg.norm(raw, axis=-1)
        want = change[0, : level.added.shape[0]]
        np.testing.assert_allclose(level.added, want, atol=2e-3)


def test_wrong_frames_points_and_models_are_one_line(tracker, frames):
    with pytest.raises(
        InputError, match=r"must lie in the frame of 140 x 90, is 140,3"
    ):
        look(tracker, *frames, (140, 3))
    with pytest.raises(InputError, match=r"previous.*must be 90 x 140"):
        look(tracker, frames[0][:50], frames[1], (1, 1))
    plain = tiny_model.tracker(tiny_model.build(sta=None))
    with pytest.raises(InputError, match="has no attention"):
        look(plain, *frames, (1, 1))
