"""Where the attention looks: what one point of a frame takes from the frame before."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from stan_jax.errors import InputError
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
    frames, fitted_hw = tracker.on_canvas([previous, current], size_hw, 2)
    h, w = fitted_hw.tolist()
    seen_yx = (int(y * h / size_hw[0]), int(x * w / size_hw[1]))
    cells = [tuple(at // stride for at in seen_yx) for stride in model.sta.strides]
    found = _levels(model, frames, fitted_hw, np.array(cells, np.int32))
    looks = []
    for stride, cell, gamma, (weights, ratio) in zip(
        model.sta.strides, cells, model.sta.gamma[...].tolist(), found, strict=True
    ):
        rows, columns = -(-h // stride), -(-w // stride)  # no padding
        weights, ratio = (np.asarray(z)[0, :rows, :columns] for z in (weights, ratio))
        looks.append(Look(stride, cell, weights, gamma, abs(gamma) * ratio))
    return looks


@jax.jit
def _levels(model, frames, size_hw, cells):
    """By level: weights for one cell, and the size of A beside that of x1."""
    sizes = size_hw[None]
    levels = model.features(frames, jnp.repeat(sizes, 2, axis=0))
    before, x1 = ([x[None, i : i + 1] for x in levels] for i in (0, 1))
    # The frame before is taken as the first of the video: all that the queue holds.
    _, kept = model.walk(model.empty_past(before), before, sizes, jnp.zeros(1, int))
    known = jnp.arange(model.sta.frames)[None] == 0
    found = []
    for x0, x, stride, cell in zip(
        (x[:, :0:-1] for x in kept),
        model.attended([x[:, 0] for x in x1]),
        model.sta.strides,
        cells,
        strict=True,
    ):
        given = x0, x, sizes, stride
        attended, plain = (
            jnp.linalg.norm(z.astype(jnp.float32), axis=-1)
            for z in (model.sta.attention(*given, known), x)
        )
        weights = model.sta.weights(*given, cell, known)[:, 0]
        # Where a cell is 0 nothing can be told beside it.
        found.append((weights, attended / (plain + 1e-6)))
    return found
