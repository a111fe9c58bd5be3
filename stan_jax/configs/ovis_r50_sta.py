r"""STAN, ResNet-50-FPN, OVIS: long occlusions, many objects.

    python train.py --config=configs/ovis_r50_sta.py:scratch --workdir=runs/ovis_sta \
        --config.data.train.annotations=.../annotations_train.json \
        --config.data.train.frames=.../train

Published: nothing for STAN; 10.8 AP on val for MaskTrack R-CNN, 15.4 for CMaskTrack.
Ours: not measured yet; it needs the data set, which may not be passed on.
"""

from ml_collections import ConfigDict

from stan_jax.configs import ytvis19_r50


def get_config(argument: str = "original") -> ConfigDict:
    c = ytvis19_r50.with_attention(argument)
    for split, folder in (("train", "train"), ("val", "valid")):
        c.data[split].annotations = f"data/ovis/annotations_{folder}.json"
        c.data[split].frames = f"data/ovis/{folder}"
    # The steps are those of YouTube-VIS 2019.
    c.data.max_objects = 64  # [O] up to about 50 objects stand in one frame
    c.thresholds.detections = max(c.thresholds.detections, 30)  # [O]
    c.tracking.slots = max(c.tracking.slots, 128)  # [O]
    return c
