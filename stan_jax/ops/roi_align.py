"""Which feature vectors lie inside a box: RoIAlign over a pyramid of maps."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def level_of(
    boxes: Float[Array, "*b n 4"], *, num_levels: int = 4, finest: float = 56.0
) -> Int[Array, "*b n"]:
    """Level whose cells suit each box: floor(log2(sqrt(area) / finest)), clamped.

    finest: sqrt(area) in pixels from which on level 1 takes over is 2 * finest.
    Inverted and empty boxes go to level 0.
    Source: MaskTrackRCNN single_level.py; FPN paper eq. 1 has another constant.
    """
    sides = jnp.maximum(boxes[..., 2:] - boxes[..., :2], 0.0)
    size = jnp.sqrt(sides[..., 0] * sides[..., 1])
    level = jnp.floor(jnp.log2(size / finest + 1e-6))
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
) -> Float[Array, "b n _py _px c"]:
    """Mean of `sampling`^2 bilinear samples in each of the bins of each box.

    boxes: pixels of the frame; no gradient flows into them.
    out: bins per side, or (rows, columns). level: defaults to `level_of`.
    aligned: shift by half a cell, so that a cell's value sits at its centre.
    min_size: least side of a box in cells. None is torchvision's rule: 1 if not
    aligned, else no limit; the original MaskTrackRCNN has 0 and is not aligned.
    Samples more than one cell outside the map are 0, those in between are clamped.
    Source: Mask R-CNN Sec. 3; borders as torchvision roi_align_kernel.cpp.
    """
    py, px = (out, out) if isinstance(out, int) else out
    if level is None:
        level = level_of(boxes, num_levels=len(levels))
    cells_hw = np.array([x.shape[1:3] for x in levels])
    cells = cells_hw.prod(1)
    first = np.cumsum(cells) - cells  # where each level starts in the table

    # One table of cells over all levels and images turns every tap into one row.
    batch, channels = levels[0].shape[0], levels[0].shape[-1]
    table = jnp.concatenate([x.reshape(batch, -1, channels) for x in levels], 1)
    table = table.reshape(-1, channels)
    row0 = jnp.asarray(first)[level] + (jnp.arange(batch) * cells.sum())[:, None]

    if min_size is None:
        min_size = -np.inf if aligned else 1.0
    scaled = boxes / jnp.asarray(strides, boxes.dtype)[level][..., None]
    scaled = scaled - (0.5 if aligned else 0.0)
    start, size = scaled[..., :2], scaled[..., 2:] - scaled[..., :2]
    size = jnp.maximum(size, min_size)
    hw = jnp.asarray(cells_hw)[level]  # [b n 2]
    y, wy = axis_taps(start[..., 1], size[..., 1], hw[..., 0], py, sampling)
    x, wx = axis_taps(start[..., 0], size[..., 0], hw[..., 1], px, sampling)
    y = row0[..., None, None] + y * hw[..., 1, None, None]

    total = jnp.zeros((*level.shape, py, px, channels), table.dtype)
    for i in range(2 * sampling):
        for j in range(2 * sampling):
            rows = y[..., :, None, i] + x[..., None, :, j]  # [b n py px]
            weight = wy[..., :, None, i] * wx[..., None, :, j]
            total += weight[..., None].astype(table.dtype) * table[rows]
    return total


def axis_taps(
    start: Float[Array, "*n"],
    size: Float[Array, "*n"],
    cells: Int[Array, "*n"],
    bins: int,
    sampling: int,
) -> tuple[
    Int[Array, "*n {bins} {2*sampling}"], Float[Array, "*n {bins} {2*sampling}"]
]:
    """Which cells each bin of an axis reads, and how much of each; weights sum to 1.

    start, size: of the box along this axis, in cells; cells: length of the axis.
    Each of the `sampling` samples of a bin reads two neighbours. A sample outside
    [-1, cells] has weight 0 and the sum is then less than 1.
    """
    # Bin k, sample s sits at start + size * (k + (s + 0.5) / sampling) / bins.
    offsets = (np.arange(bins * sampling) + 0.5) / (bins * sampling)
    step = jnp.multiply.outer(size, jnp.asarray(offsets, size.dtype))
    at = start[..., None] + step
    last = (cells - 1)[..., None]
    inside = (at >= -1) & (at <= last + 1)
    at = jnp.clip(at, 0, last.astype(at.dtype))
    low = jnp.floor(at).astype(jnp.int32)
    high = jnp.minimum(low + 1, last)
    part = at - low
    index = jnp.stack([low, high], -1)
    weight = jnp.stack([1 - part, part], -1) * (inside / sampling)[..., None]
    shape = (*start.shape, bins, 2 * sampling)
    return index.reshape(shape), weight.astype(start.dtype).reshape(shape)
