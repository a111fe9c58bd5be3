r"""STAN, ResNet-50-FPN, OVIS and COCO together.

    python train.py --config=configs/ovis_coco_r50_sta.py:scratch \
        --workdir=runs/ovis_coco_sta \
        --config.data.train.annotations=.../annotations_train.json \
        --config.data.train.frames=.../train \
        --config.data.extra="(('.../instances_train2017.json', '.../train2017', 4.0),)"

Published: nothing for STAN; VITA, trained so, has 19.6 AP on val with ResNet-50.
Ours: not measured yet; it needs the data sets, which may not be passed on.
Sources: [V] as ytvis19_coco_r50_sta.py.
"""

from ml_collections import ConfigDict

from stan_jax.configs import ovis_r50_sta, ytvis19_coco_r50_sta

CLASSES = {  # [V] where the names differ; it leaves birds out, of which OVIS has kinds
    "bird": "",
    "bus": "Vehical",  # as OVIS spells it
    "car": "Vehical",
    "truck": "Vehical",
}


def get_config(argument: str = "original") -> ConfigDict:
    c = ovis_r50_sta.get_config(argument)
    return ytvis19_coco_r50_sta.with_coco(c, CLASSES, 1 / 0.25)
