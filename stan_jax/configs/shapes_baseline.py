"""MaskTrack R-CNN on moving shapes: the demo without STA.

    python train.py --config=configs/shapes_baseline.py --workdir=runs/baseline

Published: nothing. Ours: not measured; `shapes_hard_baseline` is, see the README.
"""

from ml_collections import ConfigDict

from stan_jax.configs import shapes_sta


def get_config() -> ConfigDict:
    c = shapes_sta.get_config()
    c.model.sta = None
    return c
