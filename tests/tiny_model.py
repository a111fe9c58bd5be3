"""A STAN of few thousand parameters, and convolution as loops, for several tests."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from stan_jax.model import build as builder
from stan_jax.model import parameters
from stan_jax.model.stan import STAN, Thresholds
from stan_jax.tracking.memory import Association, MatchWeights
from stan_jax.tracking.program import Program, Settings
from stan_jax.tracking.tracker import Tracker

CANVAS = (64, 96)
SETTINGS: dict[str, Any] = dict(
    num_classes=3,
    backbone="resnet18",
    backbone_args=dict(stages=(1, 1, 1, 1), width=8),
    norm="group",
    channels=16,
    anchor_scale=4.0,
    sta=dict(key_channels=4, strides=(8, 16, 32, 64)),
    box_channels=16,
    mask_channels=8,
    mask_depth=1,
    embed_channels=8,
)
THRESHOLDS = Thresholds(
    pre_nms=24,
    proposals=16,
    rpn_nms=0.7,
    score_threshold=0.05,
    box_nms=0.5,
    detections=6,
    nms_candidates=40,
)
MATCH_COEFF = MatchWeights(score=1.0, iou=2.0, label=10.0)
ASSOCIATION = Association(
    weights=MATCH_COEFF, update_labels=False, expire_after=None, share_ids=False
)
TRACKING = Settings(
    canvas=CANVAS,
    scale_hw=CANVAS,
    clip_length=3,
    slots=8,
    first_frame="self",
    legacy_paste=False,
    dtype="float32",
    association=ASSOCIATION,
    thresholds=THRESHOLDS,
)


def plain(seed=0, **changes) -> STAN:
    """The model as it is built."""
    return builder.build(**(SETTINGS | changes), rngs=nnx.Rngs(seed))


def tracker(model, settings=TRACKING, categories=("cat", "dog", "cow")) -> Tracker:
    """A tracker with the parameters of a model."""
    structure, values = parameters.split(model)
    return Tracker(Program(structure, values, settings), values, categories)


def build(seed=0, **changes):
    """A model whose untrained heads are loud enough to detect and to tell apart."""
    model = plain(seed, **changes)
    for layer, factor in (
        (model.rpn.logits, 100.0),
        (model.rpn.deltas, 10.0),
        (model.box_head.logits, 100.0),
        (model.box_head.deltas, 300.0),
        (model.mask_head.logits, 3.0),
        (model.track_head.fc1, 10.0),
        (model.track_head.fc2, 10.0),
    ):
        layer.kernel[...] *= factor
    if model.sta is not None:
        model.sta.gamma[...] = jnp.linspace(0.5, -0.5, len(model.sta.strides))
    return model


def without_attention(model):
    """The baseline with the parameters of a model that has an attention."""
    plain = build(9, sta=None)
    given = {k: v for k, v in nnx.to_pure_dict(nnx.state(model)).items() if k != "sta"}
    state = nnx.state(plain)
    nnx.replace_by_pure_dict(state, given)
    nnx.update(plain, state)
    return plain


def moving(seed, num, canvas=CANVAS):
    """Frames of a few textured rectangles that move over a textured ground."""
    rng = np.random.default_rng(seed)
    fh, fw = canvas
    frames = np.repeat(rng.integers(90, 130, (1, fh, fw, 3)), num, axis=0)
    for _ in range(4):
        h, w = rng.integers(14, 30, 2)
        y, x = rng.uniform(0, fh - h), rng.uniform(0, fw - w)
        dy, dx = rng.uniform(-3, 3, 2)
        paint = rng.integers(0, 256, (1, 1, 3)) + rng.integers(-30, 30, (h, w, 3))
        for t in range(num):
            top = int(np.clip(y + t * dy, 0, fh - h))
            left = int(np.clip(x + t * dx, 0, fw - w))
            frames[t, top : top + h, left : left + w] = paint
    return np.clip(frames, 0, 255).astype(np.uint8)


def shake(module, seed=0):
    """The module with norms and biases of its own, so that none can be left out."""
    rng = np.random.default_rng(seed)

    def draw(path, x):
        if path[-1].key in ("scale", "var"):
            return jnp.asarray(rng.uniform(0.5, 1.5, x.shape), jnp.float32)
        if path[-1].key in ("bias", "mean", "upsample_bias"):
            return jnp.asarray(rng.normal(size=x.shape), jnp.float32)
        return x

    state = nnx.to_pure_dict(nnx.state(module))
    nnx.update(module, jax.tree_util.tree_map_with_path(draw, state))
    return module


def arrays(module):
    """Its parameters and statistics in float64, as nested dicts."""
    state = nnx.to_pure_dict(nnx.state(module))
    return jax.tree.map(lambda x: np.asarray(x, np.float64), state)


def conv(x, kernel, bias=0.0, *, stride=1, groups=1):
    """Convolution [b h w c] padded by half the kernel, in float64, tap by tap."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    size, _, per_group, out = kernel.shape
    pad = (size - 1) // 2
    h, w = (-(-(n + 2 * pad - size + 1) // stride) for n in x.shape[1:3])
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    result = np.zeros((len(x), h, w, out))
    for o in range(out):
        first = o // (out // groups) * per_group
        for dy, dx, c in np.ndindex(size, size, per_group):
            rows = slice(dy, dy + (h - 1) * stride + 1, stride)
            columns = slice(dx, dx + (w - 1) * stride + 1, stride)
            result[..., o] += x[:, rows, columns, first + c] * kernel[dy, dx, c, o]
    return result + np.asarray(bias, np.float64)


def temporary_bytes(compiled) -> int:
    """Memory that a compiled program takes beside its inputs and outputs."""
    return compiled.memory_analysis().temp_size_in_bytes
