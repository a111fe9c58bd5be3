r"""STAN, ResNet-50-FPN, YouTube-VIS 2021; its train set is also that of 2022.

    python train.py --config=configs/ytvis21_r50_sta.py:scratch \
        --workdir=runs/ytvis21_sta \
        --config.data.train.annotations=.../instances.json \
        --config.data.train.frames=.../train/JPEGImages

Published: nothing for STAN; 28.7 AP on val for MaskTrack R-CNN (mmtracking).
Ours: not measured yet; it needs the data set, which may not be passed on.
"""

from ml_collections import ConfigDict

from stan_jax.configs import ytvis19_r50


def get_config(argument: str = "original") -> ConfigDict:
    c = ytvis19_r50.with_attention(argument)
    for split, folder in (("train", "train"), ("val", "valid")):
        c.data[split].annotations = f"data/ytvis2021/{folder}/instances.json"
        c.data[split].frames = f"data/ytvis2021/{folder}/JPEGImages"
    # The steps are those of 2019; this set has about half as many frames more.
    c.data.max_objects = 32  # [O] denser than 2019
    return c
