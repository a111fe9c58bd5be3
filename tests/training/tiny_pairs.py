"""A model of a few thousand parameters, and pairs of frames to train it on."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tiny_model

from stan_jax.model.stan import STAN
from stan_jax.training.losses import LossKinds, Sampling
from stan_jax.types import Pair, Proposals

CANVAS, SETTINGS = tiny_model.CANVAS, tiny_model.SETTINGS
CLASSES = SETTINGS["num_classes"]
SAMPLING = Sampling(
    anchors=64,
    positive_anchors=16,
    rois=12,
    positive_rois=4,
    border=-1,
    padded=False,
)
KINDS = LossKinds(
    rpn_beta=1 / 9,
    box_beta=1.0,
    mask_cells="sampled",
    rpn_class=None,
    match_known=False,
)
WEIGHTS = dict.fromkeys(("rpn_score", "rpn_box", "class", "box", "track", "mask"), 1.0)
# Heads start from almost nothing; with these factors they say something, so that a
# wrong row or column shows in the loss.
LOUDER = {
    "rpn/logits/kernel": 30.0,
    "rpn/deltas/kernel": 30.0,
    "box_head/logits/kernel": 25.0,
    "box_head/deltas/kernel": 200.0,
    "track_head/fc1/kernel": 5.0,
    "track_head/fc2/kernel": 5.0,
}


class Given(STAN):
    """A STAN whose proposals do not depend on its parameters."""

    def propose(self, logits, deltas, level_anchors, size_hw, thresholds) -> Proposals:
        """Return twelve boxes, of which the last four are not valid."""
        b, n = size_hw.shape[0], 12
        corner = jnp.stack([jnp.arange(n) * 5.0, jnp.arange(n) * 2.5], axis=1)
        side = 12.0 + 3.0 * (jnp.arange(n) % 4)
        box = jnp.concatenate([corner, corner + side[:, None]], axis=1)
        box = jnp.broadcast_to(box, (b, n, 4))
        valid = jnp.broadcast_to(jnp.arange(n) < 8, (b, n))
        return Proposals(box, jnp.broadcast_to(jnp.linspace(1, 0, n), (b, n)), valid)


def model(kind: type[STAN] = STAN, **changes: Any) -> STAN:
    """Return the model, its heads made louder and its gamma no longer 0."""
    made = tiny_model.plain(**changes)
    if kind is not STAN:
        names = ("backbone", "fpn", "sta", "rpn", "box_head", "mask_head", "track_head")
        names += ("anchor_scale", "conventions")
        made = kind(**{name: getattr(made, name) for name in names})
    for path, factor in LOUDER.items():
        *parents, name = path.split("/")
        holder: Any = made
        for parent in parents:
            holder = getattr(holder, parent)
        kernel = getattr(holder, name)
        kernel[...] = factor * kernel[...]
    if made.sta is not None:
        made.sta.gamma[...] = jnp.full_like(made.sta.gamma[...], 0.5)
    return made


# Rows 0 and 4 are in both frames, 1 and 5 in the current one only, 2 in the
# reference only, 3 is padding.
PRESENT = ((1, 0, 1, 0, 1, 0), (1, 1, 0, 0, 1, 1))


def pair(seed: int, *, present=PRESENT, size_hw=(60, 90)) -> Pair:
    """Return ellipses on noise, of the objects that are `present` in [frame][row]."""
    rng = np.random.default_rng(seed)
    there = np.array(present, bool)
    rows = there.shape[1]
    height, width = size_hw
    frames = np.zeros((2, *CANVAS, 3), np.uint8)
    frames[:, :height, :width] = rng.integers(0, 60, (2, height, width, 3))
    boxes = np.zeros((2, rows, 4), np.float32)
    masks = np.zeros((rows, *CANVAS), bool)
    labels = np.where(there.any(0), rng.integers(0, CLASSES, rows), 0)
    y, x = np.mgrid[: CANVAS[0], : CANVAS[1]] + 0.5
    for row in range(rows):
        radius_y, radius_x = rng.uniform(8, 16, 2)
        colour = rng.integers(100, 255, 3)
        for f in range(2):
            centre_y = rng.uniform(radius_y, height - radius_y)
            centre_x = rng.uniform(radius_x, width - radius_x)
            far = ((y - centre_y) / radius_y) ** 2 + ((x - centre_x) / radius_x) ** 2
            if not there[f, row]:
                continue
            blob = far <= 1
            frames[f][blob] = colour
            rows_y, rows_x = np.flatnonzero(blob.any(1)), np.flatnonzero(blob.any(0))
            boxes[f, row] = rows_x[0], rows_y[0], rows_x[-1] + 1, rows_y[-1] + 1
            if f == 1:
                masks[row] = blob
    size = np.array(size_hw, np.int32)
    past = np.array(1, np.int32)
    return Pair(frames, size, boxes, there, labels.astype(np.int32), masks, past)


def batch(*pairs: Pair) -> Pair:
    """Return the pairs with a leading axis, on the device."""
    return jax.tree.map(lambda *x: jnp.asarray(np.stack(x)), *pairs)
