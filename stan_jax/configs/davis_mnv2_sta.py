"""STAN on a MobileNetV2, real videos: DAVIS 2016 in YouTube-VIS layout, 2 CPU cores.

    python train.py --config=configs/davis_mnv2_sta.py --workdir=runs/davis
    python eval.py --workdir=runs/davis

Published: nothing. Ours: 0.529 AP on the train videos, 0.221 on val, after 15 minutes.
The set is far too small to learn classes that carry over to new scenes: AP on its train
videos says that the system learns.
Sources: [M] MaskTrackRCNN config, [O] our choice.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from stan_jax import presets

DATA = "../shared/data"


def get_config(attention: str = "paper") -> ConfigDict:
    c = ConfigDict()
    c.seed = 0
    c.init_from = f"{DATA}/pretrained/mobilenetv2_imagenet.npz"
    c.init_only = "backbone"
    c.init_force = False

    mix = f"{DATA}/davis16_mix/train"
    c.data = dict(
        train=dict(
            annotations=f"{DATA}/davis16_vis/train/instances.json",
            frames=f"{DATA}/davis16_vis/train/JPEGImages",
        ),
        val=dict(
            annotations=f"{DATA}/davis16_vis/val/instances.json",
            frames=f"{DATA}/davis16_vis/val/JPEGImages",
        ),
        extra=((f"{mix}/instances.json", f"{mix}/JPEGImages", 0.25),),
        class_map={},  # classes of further sets by name: which of ours, "" for none
        canvas=(192, 320),  # half the size of the files
        scale_hw=(180, 320),
        train_scales_hw=((150, 267), (180, 320)),
        batch=4,
        gap="5",  # A16
        frames=2,
        still_motion=1.0,  # A27: how far a video of one frame moves in a pair; 0: not
        flip=0.5,  # [M]
        max_objects=8,
        negatives=False,  # frames without an object as examples of none
        upright=True,  # frames are turned as their EXIF orientation says
        num_threads=2,
    )
    c.model = dict(
        backbone="mobilenet_v2",
        backbone_args=dict(frozen_blocks=14),  # up to stride 16
        norm="frozen_batch",  # [M]
        channels=64,
        anchor_scale=8.0,  # [M]
        sta=dict(
            key_channels=32,
            strides=(8, 16, 32, 64),
            value_source="current",  # A2
            normalise="source",  # A1
            share_embed=True,  # A8
            scale=1.0,  # A9
            prior=placeholder(float),  # A22, none
            reach=placeholder(int),  # A22, everywhere
            gamma=0.0,  # A10
            value_start="he",  # A7
            heads=1,  # A6
            frames=1,  # A14
            stored="raw",  # A13
        ),
        box_channels=256,
        mask_channels=48,
        mask_depth=2,
        embed_channels=128,
        background_columns=False,
        conventions=dict(  # of no published code: half-open boxes throughout
            anchors="plain",
            least_side=0.0,
            aligned=True,
            sampling=2,
            min_size=placeholder(float),  # none
            embed_relu=False,
        ),
    )
    c.thresholds = dict(
        pre_nms=100,
        proposals=100,
        rpn_nms=0.7,  # [M]
        score_threshold=0.05,  # [M]
        box_nms=0.5,  # [M]
        detections=10,  # [M]
        nms_candidates=1000,
        class_agnostic_nms=False,
    )
    c.loss = dict(
        weights=dict(rpn_score=1.0, rpn_box=1.0, box=1.0, mask=1.0, track=1.0),
        sampling=dict(
            anchors=64,  # [M]
            positive_anchors=32,  # [M]
            rois=64,
            positive_rois=16,
            border=-1,
            padded=False,
        ),
        kinds=dict(
            rpn_beta=1 / 9,  # [M]
            box_beta=1.0,  # [M]
            mask_cells="sampled",
            rpn_class=placeholder(int),  # none
            match_known=False,
        ),
    )
    c.loss.weights["class"] = 2.0
    c.optim = dict(
        name="adamw",
        peak_lr=8e-4,
        steps=2400,
        warmup_steps=100,
        decay="cosine",
        milestones=(),
        weight_decay=0.05,
        clip_norm=10.0,
        gamma_factor=1.0,  # A10: of the learning rate
        accumulate=1,  # parts of a batch that are gone through one after the other
    )
    c.tracking = dict(
        clip_length=4,
        slots=32,
        first_frame="self",  # A12
        legacy_paste=False,
        association=dict(
            weights=dict(score=1.0, iou=2.0, label=10.0),  # [M] match_coeff
            update_labels=False,
            expire_after=20,  # frames, as openmmlab: long videos at full rate
            share_ids=False,
        ),
    )
    c.run = dict(
        dtype="float32",
        average=0.0,  # what a mean of the parameters keeps of itself; 0: no mean
        shard_state=False,  # parameters and optimizer cut over the devices
        cpu_devices=2,
        log_every=50,
        save_every=500,
        eval_every=0,  # val says little
        keep_checkpoints=3,
        overlays=4,  # videos that eval.py draws
        overlay_score=0.4,  # what it draws of them
    )
    with c.unlocked():
        c.update_from_flattened_dict(presets.attention(attention))
    return c
