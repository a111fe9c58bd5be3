"""Pasted masks as whole frames, to be compared with those of other codes."""

import numpy as np

from stan_jax.masks import paste as pasting


def paste(probs, boxes, frame_hw, *, legacy=False):
    """Probability of each pixel of the frame, [n h w]."""
    out = np.zeros((len(probs), *frame_hw), np.float32)
    for frame, grid, box in zip(out, np.asarray(probs), np.asarray(boxes), strict=True):
        top, left, part = pasting.paste(grid, box, frame_hw, legacy=legacy)
        frame[top : top + part.shape[0], left : left + part.shape[1]] = part
    return out
