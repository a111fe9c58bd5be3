"""STAN on a MobileNetV2, real videos: DAVIS 2016 in YouTube-VIS layout, 2 CPU cores.

    python train.py --config=configs/davis_mnv2_sta.py --workdir=runs/davis
    python eval.py --config=configs/davis_mnv2_sta.py --workdir=runs/davis

Published: nothing. Ours: 0.548 AP on the train videos, 0.214 on val, after 23 minutes.
The set is far too small to learn classes that carry over to new scenes: AP on its train
videos says that the system learns.
Sources: [M] MaskTrackRCNN config, [O] our choice.
"""

from ml_collections import ConfigDict

from configs import ytvis19_r50_sta

DATA = "../shared/data"


def get_config() -> ConfigDict:
    c = ytvis19_r50_sta.get_config()
    c.backbone_from = f"{DATA}/pretrained/mobilenetv2_imagenet.npz"
    for split in ("train", "val"):
        c.data[split].annotations = f"{DATA}/davis16_vis/{split}/instances.json"
        c.data[split].frames = f"{DATA}/davis16_vis/{split}/JPEGImages"
    mix = f"{DATA}/davis16_mix/train"
    c.data.extra = ((f"{mix}/instances.json", f"{mix}/JPEGImages", 0.25),)
    c.data.update(
        canvas=(192, 320),  # half the size of the files
        scale_hw=(180, 320),
        train_scales_hw=((150, 267), (180, 320)),
        batch=4,
        max_objects=8,
        num_threads=2,
    )
    c.model.backbone_args = dict(frozen_blocks=14)  # up to stride 16
    c.model.update(
        backbone="mobilenet_v2",
        channels=64,
        box_channels=256,
        mask_channels=48,
        mask_depth=2,
        embed_channels=128,
        pre_nms=100,
        proposals=100,
        background_columns=False,
    )
    c.loss.sampling.update(rois=64, positive_rois=16, border=-1)
    c.loss.weights["class"] = 2.0
    c.optim.update(
        name="adamw",
        peak_lr=8e-4,
        steps=2400,
        warmup_steps=100,
        decay="cosine",
        milestones=(),
        weight_decay=0.05,
        clip_norm=10.0,
    )
    c.tracking.update(clip_length=4, slots=32, expire_after=20)
    c.run.update(cpu_devices=2, save_every=500, eval_every=0)  # val says little
    return c
