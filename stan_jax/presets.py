"""Settings that belong together because published weights were trained with them.

`original` is youtubevos/MaskTrackRCNN, `openmmlab` mmdet 3 and mmtracking (and, but for
what it trains with, detectron2), `torchvision` its Mask R-CNN. Source: masktrack_rcnn,
mmdet and torchvision as published; CHOICES.md says where we differ.

ATTENTION names the choices that the paper leaves open: `paper` as printed, `best` as
measured.
"""

from typing import Any, NamedTuple

from stan_jax.errors import InputError
from stan_jax.model.stan import Conventions, Thresholds
from stan_jax.tracking.memory import Association, MatchWeights
from stan_jax.training.losses import LossKinds, Sampling

# What differs from the settings as printed, by the setting's name in a config.
ATTENTION: dict[str, dict[str, Any]] = {
    "paper": {},
    "best": {
        "model.sta.value_source": "previous",  # A2
        "model.sta.strides": (4, 8, 16, 32, 64),  # A4
        "model.sta.value_start": "identity",  # A7
        "model.sta.scale": 0.1,  # A9
        "model.sta.gamma": 1.0,  # A10
        "model.sta.frames": 2,  # A14
        "model.sta.prior": 1.0,  # A22
        "model.sta.reach": 2,  # A22
        "data.frames": 3,  # A14
    },
}

MATCH_COEFF = MatchWeights(score=1.0, iou=2.0, label=10.0)


class Preset(NamedTuple):
    """Settings that a published code reads and trains its weights with.

    Args:
      background_columns: see `build.assemble`.
      slots: see `tracker.Settings`.
      legacy_paste: see `tracker.Settings`.
    """

    conventions: Conventions
    background_columns: bool
    thresholds: Thresholds
    sampling: Sampling
    kinds: LossKinds
    association: Association
    slots: int
    legacy_paste: bool


PRESETS = {
    "original": Preset(
        conventions=Conventions(
            anchors="legacy",
            least_side=1.0,
            aligned=False,
            sampling=2,
            min_size=0.0,
            embed_relu=False,
        ),
        background_columns=True,
        thresholds=Thresholds(
            pre_nms=200,
            proposals=200,
            rpn_nms=0.7,
            score_threshold=0.05,
            box_nms=0.5,
            detections=10,
            nms_candidates=8000,
        ),
        sampling=Sampling(
            anchors=64,
            positive_anchors=32,
            rois=128,
            positive_rois=32,
            border=0,
            padded=False,
        ),
        kinds=LossKinds(
            rpn_beta=1 / 9,
            box_beta=1.0,
            mask_cells="legacy",
            rpn_class=None,
            match_known=False,
        ),
        association=Association(
            weights=MATCH_COEFF,
            update_labels=False,
            expire_after=None,
            share_ids=False,
        ),
        slots=64,  # without end there, as below
        legacy_paste=True,
    ),
    "openmmlab": Preset(
        conventions=Conventions(
            anchors="plain",
            least_side=0.0,
            aligned=True,
            sampling=0,
            min_size=None,
            embed_relu=True,
        ),
        background_columns=False,
        thresholds=Thresholds(
            pre_nms=200,
            proposals=200,
            rpn_nms=0.7,
            score_threshold=0.01,
            box_nms=0.5,
            detections=100,
            nms_candidates=8000,
        ),
        sampling=Sampling(
            anchors=64,
            positive_anchors=32,
            rois=128,
            positive_rois=32,
            border=-1,
            padded=True,
        ),
        kinds=LossKinds(
            rpn_beta=0.0,
            box_beta=0.0,
            mask_cells="adaptive",
            rpn_class=None,
            match_known=True,
        ),
        association=Association(
            weights=MATCH_COEFF,
            update_labels=True,
            expire_after=20,
            share_ids=True,
        ),
        slots=256,
        legacy_paste=False,
    ),
    "torchvision": Preset(
        conventions=Conventions(
            anchors="rounded",
            least_side=0.0,
            aligned=False,
            sampling=2,
            min_size=None,
            embed_relu=False,
        ),
        background_columns=False,
        thresholds=Thresholds(
            pre_nms=1000,
            proposals=1000,
            rpn_nms=0.7,
            score_threshold=0.05,
            box_nms=0.5,
            detections=100,
            nms_candidates=8000,
        ),
        sampling=Sampling(
            anchors=64,
            positive_anchors=32,
            rois=128,
            positive_rois=32,
            border=-1,
            padded=True,
        ),
        kinds=LossKinds(
            rpn_beta=1 / 9,
            box_beta=1 / 9,
            mask_cells="adaptive",
            rpn_class=None,
            match_known=False,
        ),
        association=Association(
            weights=MATCH_COEFF,
            update_labels=False,
            expire_after=None,
            share_ids=False,
        ),
        slots=256,
        legacy_paste=False,
    ),
}


def get(name: str) -> Preset:
    """Return a preset by name.

    Raises: InputError for a name that is no preset.
    """
    if name not in PRESETS:
        rule = f"must be one of {', '.join(PRESETS)}, is '{name}'"
        raise InputError("preset", "", rule)
    return PRESETS[name]


def attention(name: str) -> dict[str, Any]:
    """Return what a preset of the attention changes, by name.

    Raises: InputError for a name that is none.
    """
    if name not in ATTENTION:
        rule = f"must be one of {', '.join(ATTENTION)}, is '{name}'"
        raise InputError("attention", "", rule)
    return ATTENTION[name]


def name_of(conventions: Conventions) -> str:
    """Return the preset with these conventions, or how they are called without one."""
    for name, preset in PRESETS.items():
        if preset.conventions == conventions:
            return name
    return "none" if conventions == Conventions() else "no known preset"


def difference(theirs: Conventions, ours: Conventions) -> list[str]:
    """Return, as sentences, where two models would read the same parameters apart."""
    mine = ours._asdict()
    return [
        f"conventions.{key} was {value}, is {mine[key]}"
        for key, value in theirs._asdict().items()
        if value != mine[key]
    ]
