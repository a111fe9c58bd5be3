"""RoIAlign over a pyramid of maps: the features inside a box."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

# Of a table of rows, by an index [b n py px].
_ROWS = jax.lax.GatherDimensionNumbers(
    offset_dims=(4,), collapsed_slice_dims=(0,), start_index_map=(0,)
)


def level_of(
    boxes: Float[Array, "*b n 4"], *, num_levels: int = 4, finest: float = 56.0
) -> Int[Array, "*b n"]:
    """Level whose cells suit each box: floor(log2(sqrt(area) / finest)), clamped.

    finest: side in pixels; boxes from twice that side on belong to level 1 or above.
    Inverted and empty boxes go to level 0.
    Source: MaskTrackRCNN single_level.py; its 1e-6 lets exact powers of 2 go up.
    """
    sides = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0.0)
    side = jnp.sqrt(sides[..., 0] * sides[..., 1])
    level = jnp.floor(jnp.log2(side / finest + 1e-6))
    return jnp.clip(level, 0, num_levels - 1).astype(jnp.int32)


def roi_align(
    levels: tuple[Float[Array, "b _h _w c"], ...],
    boxes: Float[Array, "b n 4"],
    *,
    strides: tuple[int, ...],
    out: int | tuple[int, int],
    sampling: int = 2,
    aligned: bool = True,
    min_size: float | None = None,
    level: Int[Array, "b n"] | None = None,
    reach: float = 2.0,
) -> Float[Array, "b n _py _px c"]:
    """Mean of sampling x sampling bilinear samples in each of the bins of each box.

    Samples more than one cell outside the map are 0, those in between are clamped.

    Args:
      boxes: pixels of the frame; no gradient flows into them.
      out: bins per side, or (rows, columns).
      level: of each box, else `level_of`.
      sampling: 0 is mmdet's choice, one sample per cell of a bin, rounded up. It is
        several times slower, and exact for boxes up to `reach` times the frame's sides.
      aligned: a cell's value sits at its centre, else at its upper left corner.
      min_size: minimum side of a box in cells. None is torchvision's rule: 1 if not
        aligned, else no limit. The original MaskTrackRCNN has 0 and is not aligned.
    Source: Mask R-CNN Sec. 3; borders as torchvision roi_align_kernel.cpp.
    """
    if level is None:
        level = level_of(boxes, num_levels=len(levels))
    if min_size is None:
        min_size = -np.inf if aligned else 1.0
    rows, columns = (out, out) if isinstance(out, int) else out
    batch, channels = levels[0].shape[0], levels[0].shape[-1]
    shapes = np.array([x.shape[1:3] for x in levels])
    cells = shapes.prod(1)

    def taps(box, level, image):
        box = box.astype(jnp.float32) / jnp.asarray(strides, jnp.float32)[level]
        box = box - (0.5 if aligned else 0.0)
        # Ends less starts after the shift, whose rounding the published codes have too.
        start, size = box[:2], jnp.maximum(box[2:] - box[:2], min_size)
        height, width = jnp.asarray(shapes)[level]
        most_y, most_x = np.ceil(reach * shapes.max(0)).astype(int).tolist()
        y, wy = axis_taps(start[1], size[1], height, rows, sampling, most_y)
        x, wx = axis_taps(start[0], size[0], width, columns, sampling, most_x)
        first = image * cells.sum() + jnp.asarray(cells.cumsum() - cells)[level]
        return first + y * width, wy, x, wx

    # One table with the cells of all levels and images: each tap is one of its rows.
    table = jnp.concatenate([x.reshape(batch, -1, channels) for x in levels], 1)
    image = jnp.broadcast_to(jnp.arange(batch)[:, None], level.shape)
    taps = jax.vmap(jax.vmap(taps))(boxes, level, image)
    return _pool(batch * int(cells.sum()), table.reshape(-1, channels), taps)


def axis_taps(
    start: Float[Array, ""],
    size: Float[Array, ""],
    cells: Int[Array, ""] | int,
    bins: int,
    sampling: int,
    most: int = 0,
) -> tuple[Int[Array, "{bins} taps"], Float[Array, "{bins} taps"]]:
    """Return the cells that each bin of one axis reads, and their weights; sum 1.

    Each of the `sampling` samples of a bin reads two neighbours, so taps come in pairs.
    A sample outside [-1, cells] has weight 0.

    Args:
      start, size: of the box along this axis, in cells.
      cells: length of the axis.
      most: with sampling 0 there are as many taps as a box of `most` cells needs, those
        that this one does not need weigh 0.
    """
    slots = sampling or -(-most // bins)
    # XLA turns a division by a constant into a product, which is a rounding off: a bin
    # of 25 cells might get 26 samples. So it must not see that this is a constant.
    bin_size = size / jnp.where(jnp.isfinite(size), jnp.float32(bins), 1.0)
    samples = sampling or jnp.clip(jnp.ceil(bin_size), 0, slots)
    share = 1 / jnp.maximum(samples, 1)
    sample = np.arange(slots)[None] + 0.5
    # As the published codes add up: another order is 1e-5 cells off.
    step = bin_size / jnp.maximum(samples, 1)
    at = start + np.arange(bins)[:, None] * bin_size + sample * step
    counts = (at >= -1) & (at <= cells) & (sample < samples)  # [bins slots]
    at = jnp.clip(at, 0, cells - 1)
    low = jnp.floor(at).astype(jnp.int32)
    index = jnp.stack([low, jnp.minimum(low + 1, cells - 1)], -1)
    weight = jnp.stack([1 - (at - low), at - low], -1)
    weight = jnp.where(counts[..., None], weight * share, 0)
    return index.reshape(bins, -1), weight.reshape(bins, -1)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _pool(num_rows, table, taps):
    """Weighted sum of the table's rows that each bin reads: [b n py px c].

    taps: (row, weight) along y, then (offset, weight) along x. Few taps are unrolled,
    which XLA fuses into one pass over the result.
    """

    def add(total, i, j):
        rows, weight = _tap(taps, i, j)
        # table[rows], but traced 0.1 s sooner: there are 96 of it in a tracker.
        seen = jax.lax.gather(
            table,
            rows[..., None],
            _ROWS,
            (1, table.shape[1]),
            mode=jax.lax.GatherScatterMode.PROMISE_IN_BOUNDS,
        )
        return total + weight * seen.astype(jnp.float32)

    def add_all(total):
        for i, j in np.ndindex(y.shape[3], x.shape[3]):
            total = add(total, i, j)
        return total

    y, wy, x, _ = taps
    total = jnp.zeros((*y.shape[:3], x.shape[2], table.shape[1]), jnp.float32)
    if y.shape[3] * x.shape[3] <= 16:
        # XLA does not fuse across a branch. On CPU it would else pool once more for
        # the gradient of what comes next, in an order that is 10 times slower.
        total = jax.lax.cond((wy != 0).any(), add_all, lambda zeros: zeros, total)
    else:
        total = _each_tap(taps, add, total)
    return total.astype(table.dtype)


def _pool_forward(num_rows, table, taps):
    return _pool(num_rows, table, taps), taps


def _pool_backward(num_rows, taps, grad):
    """Scatters one tap after the other into one table.

    Left to itself, autodiff makes a table per tap and adds them: 5 to 10 times slower.
    """

    def add(total, i, j):
        rows, weight = _tap(taps, i, j)
        return total.at[rows].add(weight * grad.astype(jnp.float32))

    def add_all():
        # In the branch, for XLA would else make the tables of all pools at the start.
        total = jnp.zeros((num_rows, grad.shape[-1]), jnp.float32)
        return _each_tap(taps, add, total).astype(grad.dtype)

    def none():
        return jnp.zeros((num_rows, grad.shape[-1]), grad.dtype)

    return jax.lax.cond((taps[1] != 0).any(), add_all, none), None


_pool.defvjp(_pool_forward, _pool_backward)


def _tap(taps, i, j):
    """Row of the table that each bin reads as tap (i, j), and its weight."""
    y, wy, x, wx = taps
    rows = y[..., i][..., :, None] + x[..., j][..., None, :]
    weight = wy[..., i][..., :, None] * wx[..., j][..., None, :]
    return rows, weight[..., None]


def _each_tap(taps, add, total):
    """Loops `add(total, i, j)` up to the last taps that weigh anything in any box."""
    last_y, last_x = (
        jnp.max(
            jnp.where(weight != 0, np.arange(1, weight.shape[-1] + 1), 0), initial=0
        )
        for weight in taps[1::2]
    )
    return jax.lax.fori_loop(
        0, last_y * last_x, lambda k, sofar: add(sofar, k // last_x, k % last_x), total
    )
