"""MaskTrack R-CNN on moving shapes whose frames are often spoilt.

    python -m stan_jax.shapes --out=data/shapes_hard --hard
    python train.py --config=configs/shapes_hard_baseline.py --workdir=runs/hard_base

Published: nothing. Ours: 0.235 +- 0.015 AP, three seeds; newer in docs/study.md.
"""

from ml_collections import ConfigDict

from stan_jax.configs import shapes_sta


def get_config() -> ConfigDict:
    c = shapes_sta.under(shapes_sta.get_config(), "hard")
    c.model.sta = None
    return c
