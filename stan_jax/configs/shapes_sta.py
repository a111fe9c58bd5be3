"""STAN on moving shapes, from scratch: the demo.

    make demo
    python train.py --config=configs/shapes_sta.py --workdir=runs/demo
    python eval.py --workdir=runs/demo

The argument is a preset of the attention: `paper`, or `shapes_sta.py:best`.
Published: nothing, the data is made by stan_jax.shapes.
Ours: 0.60 to 0.65 AP on the held-out videos, see the README.
Sources: [M] MaskTrackRCNN config, [O] our choice, made for 2 CPU cores.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from stan_jax import presets


def get_config(attention: str = "paper") -> ConfigDict:
    c = ConfigDict()
    c.seed = 0
    c.init_from = ""  # another run, a folder of `stan import`, or a published file
    c.init_only = ""  # "backbone" takes nothing else of it
    c.init_force = False  # also weights that were trained to be read otherwise

    c.data = dict(
        train=dict(
            annotations="data/shapes/train/instances.json",
            frames="data/shapes/train/JPEGImages",
        ),
        val=dict(
            annotations="data/shapes/val/instances.json",
            frames="data/shapes/val/JPEGImages",
        ),
        extra=(),  # more training sets: (annotations, frames, weight), the first has 1
        class_map={},  # classes of further sets by name: which of ours, "" for none
        canvas=(96, 160),  # multiples of 32
        scale_hw=(96, 160),  # bounds of a frame inside the canvas
        train_scales_hw=((96, 160),),  # one is drawn per pair
        batch=4,
        gap="3",  # A16: "any", "previous", or within so many frames
        frames=2,  # of a pair: what the attention looks at, and the current one
        still_motion=1.0,  # A27: how far a video of one frame moves in a pair; 0: not
        flip=0.5,  # [M]
        max_objects=8,  # a pair with more raises, a still is left out
        negatives=False,  # frames without an object as examples of none
        upright=True,  # frames are turned as their EXIF orientation says
        num_threads=2,
    )
    c.model = dict(
        backbone="resnet18",
        backbone_args=dict(width=16, frozen_stages=-1),
        norm="group",
        channels=32,
        anchor_scale=6.0,  # [O] objects are 20 to 60 pixels: 24, 48, 96, ...
        sta=dict(
            key_channels=8,
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
        mask_channels=32,
        mask_depth=2,
        embed_channels=64,
        background_columns=False,
    )
    c.thresholds = dict(
        pre_nms=60,
        proposals=60,
        rpn_nms=0.7,  # [M]
        score_threshold=0.05,  # [M]
        box_nms=0.5,  # [M]
        detections=10,  # [M]
        nms_candidates=200,
        class_agnostic_nms=False,
    )
    c.loss = dict(
        weights=dict(rpn_score=1.0, rpn_box=1.0, box=1.0, mask=1.0, track=1.0),
        sampling=dict(
            anchors=64,  # [M]
            positive_anchors=32,
            rois=32,
            positive_rois=8,
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
    c.loss.weights["class"] = 2.0  # [O] shapes are told apart late
    c.optim = dict(
        name="adamw",
        peak_lr=1e-3,
        steps=3400,
        warmup_steps=100,
        decay="cosine",
        milestones=(),
        weight_decay=0.05,
        clip_norm=10.0,
        gamma_factor=1.0,  # A10: of the learning rate
        accumulate=1,  # parts of a batch that are gone through one after the other
    )
    c.tracking = dict(
        clip_length=6,
        slots=32,
        first_frame="self",  # A12
        legacy_paste=False,
        association=dict(
            weights=dict(score=1.0, iou=2.0, label=10.0),  # [M] match_coeff
            update_labels=False,
            expire_after=placeholder(int),  # never
            share_ids=False,
        ),
    )
    c.run = dict(
        dtype="float32",
        average=0.0,  # what a mean of the parameters keeps of itself; 0: no mean
        shard_state=False,  # parameters and optimizer cut over the devices
        cpu_devices=2,
        log_every=100,
        save_every=1000,
        eval_every=1700,
        keep_checkpoints=2,
        overlays=4,  # videos that eval.py draws
        overlay_score=0.6,  # what it draws of them
    )
    with c.unlocked():
        c.update_from_flattened_dict(presets.attention(attention))
    return c


def under(c: ConfigDict, weather: str) -> ConfigDict:
    """Return the config with the set of a weather of `stan_jax.shapes`."""
    for split in ("train", "val"):
        c.data[split].annotations = f"data/shapes_{weather}/{split}/instances.json"
        c.data[split].frames = f"data/shapes_{weather}/{split}/JPEGImages"
    return c
