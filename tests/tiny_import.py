"""A small detector of the mmdet family as an import leaves it, with random weights."""

import numpy as np

from stan_jax import presets
from stan_jax.pretrained import store
from stan_jax.published import detectors

CLASSES = ["person", "giant panda", "dog"]


def settings(**changes):
    preset = presets.get("openmmlab")
    return dict(
        backbone="resnet18",
        backbone_args=dict(caffe=False),
        norm="frozen_batch",
        anchor_scale=8.0,
        sta=None,
        channels=8,
        box_channels=6,
        mask_channels=5,
        mask_depth=4,
        embed_channels=7,
        background_columns=preset.background_columns,
        conventions=preset.conventions._asdict(),
    ) | dict(changes)


def arrays(shapes, seed):
    rng = np.random.default_rng(seed)
    return {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}


def imported(seed=0, **changes):
    params, statistics = (
        arrays(x, seed) for x in detectors.shapes(settings(**changes), len(CLASSES))
    )
    return detectors.Imported(
        "mmdet", "openmmlab", settings(**changes), 3, params, statistics, {}, []
    )


def save(folder, **changes):
    """Write the folder; return what it holds."""
    found = imported(**changes)
    store.save(folder, "x.pth", found, CLASSES)
    return found
