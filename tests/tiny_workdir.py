"""A folder as training leaves it, with a model that sees something everywhere."""

import numpy as np
import tiny_model

from stan_jax.configs import shapes_sta
from stan_jax.model import parameters
from stan_jax.pretrained import record
from stan_jax.pretrained.checkpoint import Checkpoints

NAMES = ("cat", "dog", "cow")


def config(**model):
    """Settings of the tiny model, as a config has them."""
    own = {k: v for k, v in tiny_model.SETTINGS.items() if k != "num_classes"}
    made = shapes_sta.get_config().to_dict() | {"model": own | model}
    made["data"] |= dict(canvas=(64, 96), scale_hw=(64, 96))
    return made


def save(folder, model=None, steps=((10, 0.5), (20, 0.25)), names=NAMES, average=None):
    """Write checkpoints of (step, AP); return the folder.

    average: a model whose parameters stand beside those of the first as their mean.
    """
    model = tiny_model.build(num_classes=len(names)) if model is None else model
    about = record.to_json(record.from_config(config(), names))
    _, values = parameters.split(model)
    checkpoints = Checkpoints(folder / "checkpoints", record=about, best="AP")
    for step, ap in steps:
        state = {**values._asdict(), "step": np.int32(step)}
        if average is not None:
            state["average"] = parameters.split(average)[1].params
        checkpoints.save(step, state, {}, {"AP": ap})
    checkpoints.close()
    return folder
