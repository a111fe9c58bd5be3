r"""MaskTrack R-CNN, ResNet-50-FPN, YouTube-VIS 2019: the baseline.

    python train.py --config=configs/ytvis19_r50.py:scratch --workdir=runs/ytvis19_r50 \
        --config.data.train.annotations=.../train.json \
        --config.data.train.frames=.../train/JPEGImages

`:scratch` trains all of it, with group norm. Without it batch norm is frozen, as
published, and `--config.init_from` must bring the weights that this stands on:
torchvision's ResNet-50, a whole detector, or another run. `:openmmlab` and
`:torchvision` are the conventions of weights from there, see stan_jax/presets.py; the
default is `:original`.

Published: 30.3 AP on val (MaskTrack R-CNN paper), 28 to 31 between runs.
Ours: not measured yet; it needs the data set, which may not be passed on.
Sources: [M] MaskTrackRCNN masktrack_rcnn_r50_fpn_1x_youtubevos.py, [O] our choice.
"""

from typing import Any, get_args, get_type_hints

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from stan_jax import presets


def get_config(start: str = "original") -> ConfigDict:
    if start not in (*presets.PRESETS, "scratch"):
        known = ", ".join(presets.PRESETS)
        raise ValueError(f"must be 'scratch' or one of {known}, is '{start}'")
    # What published codes do differently: conventions, thresholds, losses, memory.
    preset = presets.get("original" if start == "scratch" else start)
    c = ConfigDict()
    c.seed = 0
    c.init_from = ""  # another run, a folder of `stan import`, or a published file
    c.init_only = ""  # "backbone" takes nothing else of it
    c.init_force = False  # also weights that were trained to be read otherwise

    c.data = dict(
        train=dict(
            annotations="data/ytvis2019/train.json",
            frames="data/ytvis2019/train/JPEGImages",
        ),
        val=dict(
            annotations="data/ytvis2019/valid.json",
            frames="data/ytvis2019/valid/JPEGImages",
        ),
        extra=(),  # more training sets: (annotations, frames, weight), the first has 1
        class_map={},  # classes of further sets by name: which of ours, "" for none
        canvas=(384, 640),  # 360 x 640 padded to multiples of 32
        scale_hw=(360, 640),  # [M]
        train_scales_hw=((360, 640),),  # [M]
        batch=32,  # [M] 8 per GPU on 4 GPUs
        gap="any",  # [M], A16
        frames=2,  # of a pair: what the attention looks at, and the current one
        still_motion=1.0,  # A27: how far a video of one frame moves in a pair; 0: not
        flip=0.5,  # [M]
        max_objects=16,  # [O] padding; a pair with more raises, a still is left out
        negatives=False,  # frames without an object as examples of none
        upright=True,  # frames are turned as their EXIF orientation says
        num_threads=8,
    )
    c.model = dict(
        backbone="resnet50",
        backbone_args=dict(
            frozen_stages=1,
            recompute_stages=3,  # 0.4 GB less for two frames, 5 % of the time
            caffe=False,  # [M]; True: detectron2's
        ),
        norm="frozen_batch",  # [M]
        channels=256,  # [M]
        anchor_scale=8.0,  # [M]
        sta=None,
        box_channels=1024,  # [M]
        mask_channels=256,  # [M]
        mask_depth=4,  # [M]
        embed_channels=1024,  # [M]
        background_columns=preset.background_columns,
        conventions=section(preset.conventions),
    )
    c.thresholds = section(preset.thresholds)
    c.loss = dict(
        weights=dict(rpn_score=1.0, rpn_box=1.0, box=1.0, mask=1.0, track=1.0),
        sampling=section(preset.sampling),
        kinds=section(preset.kinds),
    )
    c.loss.weights["class"] = 1.0
    c.optim = dict(
        name="sgd",  # [M] momentum 0.9
        peak_lr=0.005,  # [M] for batch 32
        steps=23_200,  # [M] 12 epochs of about 61,800 frames
        warmup_steps=500,  # [M] from a third
        decay="steps",
        milestones=(15_450, 21_250),  # [M] after epochs 8 and 11
        weight_decay=1e-4,  # [M]
        clip_norm=35.0,  # [M]
        gamma_factor=1.0,  # A10: of the learning rate
        accumulate=1,  # parts of a batch that are gone through one after the other
    )
    c.tracking = dict(
        clip_length=4,
        slots=preset.slots,
        first_frame="self",  # A12
        legacy_paste=preset.legacy_paste,
        association=section(preset.association),
    )
    c.run = dict(
        dtype="float32",
        average=0.0,  # what a mean of the parameters keeps of itself; 0: no mean
        shard_state=False,  # parameters and optimizer cut over the devices
        cpu_devices=1,
        log_every=50,
        save_every=1000,
        eval_every=0,  # val has no public labels
        keep_checkpoints=3,
        overlays=4,  # videos that eval.py draws
        overlay_score=0.4,  # what it draws of them
    )
    if start == "scratch":
        c.model.norm = "group"
        c.model.backbone_args.frozen_stages = -1
    return c


def with_attention(argument: str) -> ConfigDict:
    """Return the config with STA between the pyramid and the RPN.

    argument: START, as of `get_config`, or START-ATTENTION, a preset of the attention.
    """
    start, _, attention = argument.partition("-")
    c = get_config(start)
    # [O] A3, A4: P3 to P6; P2 alone would cost 68 GMAC a frame. A5: c_1 = c / 8.
    c.model.sta = dict(
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
    )
    c.data.gap = "5"  # [O] A16: at test the previous frame is the adjacent one
    with c.unlocked():
        c.update_from_flattened_dict(presets.attention(attention or "paper"))
    return c


def section(record: Any) -> dict[str, Any]:
    """Return a NamedTuple of settings as a section that the command line can change."""
    kinds = {name: get_type_hints(type(record))[name] for name in record._fields}
    found = {}
    for name, value in record._asdict().items():
        if isinstance(value, tuple):
            value = section(value)
        elif value is None:  # its type is that of what may stand in its place
            value = placeholder(get_args(kinds[name])[0])
        found[name] = value
    return found
