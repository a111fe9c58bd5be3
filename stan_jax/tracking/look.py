"""Where the attention looks: what one point of a frame takes from the frame before."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from stan_jax.errors import InputError
from stan_jax.ops import canvas as canvases
from stan_jax.tracking.tracker import Tracker, checked_frame

Point = tuple[float | int, float | int]  # x and y in pixels of a frame


class Look(NamedTuple):
    """What one level of the pyramid attends to.

    Args:
      stride: pixels from cell to cell, at the size that the model sees.
      cell_yx: the cell of the present frame that looks.
      weights: of the cells of the previous frame in Cor (Eq. 1).
      gamma: factor of Eq. 3.
      added: size of gamma * A beside that of x1, for each cell of the present frame;
        0 where the attention changes nothing.
    """

    stride: int
    cell_yx: tuple[int, int]
    weights: Float[np.ndarray, "h w"]
    gamma: float
    added: Float[np.ndarray, "h w"]


def look(tracker: Tracker, previous: Any, current: Any, at_xy: Point) -> list[Look]:
    """Return what a point of the current frame takes from the previous one, by level.

    Args:
      previous, current: RGB frames of one size, uint8 [height width 3].
      at_xy: the point, in pixels of the frame from its left and upper edge.
    Raises: InputError for a model without attention, other frames, a point outside.
    """
    current = checked_frame(current, None, "current")
    size_hw = current.shape[:2]
    previous = checked_frame(previous, [size_hw], "previous")
    x, y = at_xy
    if not (0 <= x < size_hw[1] and 0 <= y < size_hw[0]):
        rule = f"must lie in the frame of {size_hw[1]} x {size_hw[0]}, is {x:g},{y:g}"
        raise InputError("point", "", rule)
    model = tracker.program.model(tracker.parameters)
    if model.sta is None:
        raise InputError("model", "", "has no attention: it is the plain baseline")
    canvas_hw = canvases.canvas_of(*size_hw, tracker.settings.canvas)
    h, w = tracker.fitted_hw(size_hw)
    padded = np.zeros((2, *canvas_hw, 3), np.uint8)
    for n, image in enumerate((previous, current)):
        padded[n, :h, :w] = canvases.resize_frame(image, (h, w))
    seen_yx = (int(y * h / size_hw[0]), int(x * w / size_hw[1]))
    cells = tuple((seen_yx[0] // s, seen_yx[1] // s) for s in model.sta.strides)

    @jax.jit
    def levels(frames, size):
        maps = model.attended(model.features(frames, jnp.stack([size, size])))
        return [
            _level(model.sta, x[:1], x[1:], size[None], stride, cell)
            for x, stride, cell in zip(maps, model.sta.strides, cells, strict=True)
        ]

    found = levels(padded, np.array([h, w], np.int32))
    gammas = np.asarray(model.sta.gamma[...], np.float32)
    looks = []
    for stride, cell, gamma, (weights, ratio) in zip(
        model.sta.strides, cells, gammas, found, strict=True
    ):
        rows, columns = -(-h // stride), -(-w // stride)  # no padding
        weights, ratio = (np.asarray(z)[0, :rows, :columns] for z in (weights, ratio))
        looks.append(Look(stride, cell, weights, float(gamma), abs(gamma) * ratio))
    return looks


def _level(sta, x0, x1, size_hw, stride, cell):
    """Weights for one cell, and the size of A beside that of x1."""
    attended = sta.attention(x0, x1, size_hw, stride).astype(jnp.float32)
    ratio = jnp.linalg.norm(attended, axis=-1) / (
        jnp.linalg.norm(x1.astype(jnp.float32), axis=-1) + 1e-6
    )
    return sta.weights(x0, x1, size_hw, stride, cell), ratio
