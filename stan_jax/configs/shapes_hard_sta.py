"""STAN on moving shapes whose frames are often spoilt.

    python -m stan_jax.shapes --out=data/shapes_hard --hard
    python train.py --config=configs/shapes_hard_sta.py --workdir=runs/hard_sta

Published: nothing. Ours: 0.240 +- 0.017 AP, three seeds; newer in docs/study.md.
"""

from ml_collections import ConfigDict

from stan_jax.configs import shapes_sta


def get_config(attention: str = "paper") -> ConfigDict:
    return shapes_sta.under(shapes_sta.get_config(attention), "hard")
