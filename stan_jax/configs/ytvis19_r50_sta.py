r"""STAN, ResNet-50-FPN, YouTube-VIS 2019 (paper Table 1).

    python train.py --config=configs/ytvis19_r50_sta.py:scratch \
        --workdir=runs/ytvis19_sta \
        --config.data.train.annotations=.../train.json \
        --config.data.train.frames=.../train/JPEGImages

Published: 40.0 AP on test, from 29.3 without STA; backbone and extra data not stated.
Ours: not measured yet; it needs the data set, which may not be passed on.
"""

from ml_collections import ConfigDict

from stan_jax.configs import ytvis19_r50


def get_config(argument: str = "original") -> ConfigDict:
    return ytvis19_r50.with_attention(argument)
