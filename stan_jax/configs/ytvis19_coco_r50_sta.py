r"""STAN, ResNet-50-FPN, YouTube-VIS 2019 and COCO together.

    python train.py --config=configs/ytvis19_coco_r50_sta.py:scratch \
        --workdir=runs/ytvis19_coco_sta \
        --config.data.train.annotations=.../train.json \
        --config.data.train.frames=.../train/JPEGImages \
        --config.data.extra="(('.../instances_train2017.json', '.../train2017', 1.33),)"

The images of COCO are videos of one frame, over which a window glides (A27). Which of
its classes are ours is a choice of the published systems, and not of the names alone.
Published: nothing for STAN; VITA, trained so, has 49.8 AP on val with ResNet-50.
Ours: not measured yet; it needs the data sets, which may not be passed on.
Sources: [V] sukjunhwang/VITA 5554c93, vita_R50_bs8.yaml and convert_coco2ytvis.py.
"""

from ml_collections import ConfigDict

from stan_jax.configs import ytvis19_r50

CLASSES = {  # [V] where the names differ; "mouse" is of a computer there
    "bicycle": "motorbike",
    "car": "sedan",
    "motorcycle": "motorbike",
    "mouse": "",
    "skis": "snowboard",
}


def get_config(argument: str = "original") -> ConfigDict:
    return with_coco(ytvis19_r50.with_attention(argument), CLASSES, 1 / 0.75)


def with_coco(c: ConfigDict, classes: dict[str, str], weight: float) -> ConfigDict:
    """Return a config that trains on COCO train2017 as well.

    weight: of COCO; that of the config's own set is 1.
    """
    c.data.extra = (
        (
            "data/coco/annotations/instances_train2017.json",
            "data/coco/train2017",
            weight,
        ),
    )
    c.data.class_map = classes
    return c
