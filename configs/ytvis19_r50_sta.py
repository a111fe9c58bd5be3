r"""STAN, ResNet-50-FPN, YouTube-VIS 2019 (paper Table 1).

    python train.py --config=configs/ytvis19_r50_sta.py:scratch \
        --workdir=runs/ytvis19_sta \
        --config.data.train.annotations=.../train.json \
        --config.data.train.frames=.../train/JPEGImages

Published: 40.0 AP on test, from 29.3 without STA; backbone and extra data not stated.
Ours: not measured yet; it needs the data set, which may not be passed on.
"""

from ml_collections import ConfigDict

from configs import ytvis19_r50


def get_config(start: str = "original") -> ConfigDict:
    c = ytvis19_r50.get_config(start)
    # [O] A3, A4: P3 to P6; P2 alone would cost 68 GMAC a frame. A5: c_1 = c / 8.
    c.model.sta = dict(
        key_channels=32,
        strides=(8, 16, 32, 64),
        value_source="current",  # A2
        normalise="source",  # A1
        share_embed=True,  # A8
        scale=1.0,  # A9
    )
    c.data.gap = "5"  # [O] A16: at test the previous frame is the adjacent one
    return c
