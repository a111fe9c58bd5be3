r"""STAN, ResNet-50-FPN, YouTube-VIS 2021 and COCO together.

    python train.py --config=configs/ytvis21_coco_r50_sta.py:scratch \
        --workdir=runs/ytvis21_coco_sta \
        --config.data.train.annotations=.../instances.json \
        --config.data.train.frames=.../train/JPEGImages \
        --config.data.extra="(('.../instances_train2017.json', '.../train2017', 1.25),)"

Published: nothing for STAN; VITA, trained so, has 45.7 AP on val with ResNet-50.
Ours: not measured yet; it needs the data sets, which may not be passed on.
Sources: [V] as ytvis19_coco_r50_sta.py.
"""

from ml_collections import ConfigDict

from stan_jax.configs import ytvis19_coco_r50_sta, ytvis21_r50_sta

CLASSES = {  # [V] where the names differ; "mouse" is of a computer there
    "bicycle": "motorbike",
    "frisbee": "flying_disc",
    "motorcycle": "motorbike",
    "mouse": "",
    "skis": "snowboard",
}


def get_config(argument: str = "original") -> ConfigDict:
    c = ytvis21_r50_sta.get_config(argument)
    return ytvis19_coco_r50_sta.with_coco(c, CLASSES, 1 / 0.8)
