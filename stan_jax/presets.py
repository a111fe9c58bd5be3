"""Which settings belong together because published weights were trained with them.

`original` is youtubevos/MaskTrackRCNN, `openmmlab` mmdet 3 and mmtracking (and, but for
what it trains with, detectron2), `torchvision` its Mask R-CNN. Source: masktrack_rcnn,
mmdet and torchvision as published; CHOICES.md says where we differ.
"""

from collections.abc import Mapping
from typing import Any

from stan_jax.errors import InputError
from stan_jax.model.stan import Conventions

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "original": dict(
        model=dict(
            background_columns=True,
            pre_nms=200,
            proposals=200,
            rpn_nms=0.7,
            score_threshold=0.05,
            box_nms=0.5,
            detections=10,
            nms_candidates=8000,
            conventions=dict(
                anchors="legacy",
                least_side=1.0,
                aligned=False,
                sampling=2,
                min_size=0.0,
                embed_relu=False,
            ),
        ),
        sampling=dict(
            border=0,
            padded=False,
            rpn_beta=1 / 9,
            box_beta=1.0,
            mask_cells="legacy",
            match_known=False,
        ),
        tracking=dict(
            slots=64,  # without end there, as below
            update_labels=False,
            expire_after=None,
            share_ids=False,
            legacy_paste=True,
        ),
    ),
    "openmmlab": dict(
        model=dict(
            background_columns=False,
            pre_nms=200,
            proposals=200,
            rpn_nms=0.7,
            score_threshold=0.01,
            box_nms=0.5,
            detections=100,
            nms_candidates=8000,
            conventions=dict(
                anchors="plain",
                least_side=0.0,
                aligned=True,
                sampling=0,
                min_size=None,
                embed_relu=True,
            ),
        ),
        sampling=dict(
            border=-1,
            padded=True,
            rpn_beta=0.0,
            box_beta=0.0,
            mask_cells="adaptive",
            match_known=True,
        ),
        tracking=dict(
            slots=256,
            update_labels=True,
            expire_after=20,
            share_ids=True,
            legacy_paste=False,
        ),
    ),
    "torchvision": dict(
        model=dict(
            background_columns=False,
            pre_nms=1000,
            proposals=1000,
            rpn_nms=0.7,
            score_threshold=0.05,
            box_nms=0.5,
            detections=100,
            nms_candidates=8000,
            conventions=dict(
                anchors="rounded",
                least_side=0.0,
                aligned=False,
                sampling=2,
                min_size=None,
                embed_relu=False,
            ),
        ),
        sampling=dict(
            border=-1,
            padded=True,
            rpn_beta=1 / 9,
            box_beta=1 / 9,
            mask_cells="adaptive",
            match_known=False,
        ),
        tracking=dict(
            slots=256,
            update_labels=False,
            expire_after=None,
            share_ids=False,
            legacy_paste=False,
        ),
    ),
}


def apply(config: Any, name: str) -> None:
    """Nothing; `config` has the preset's settings, each to be changed at will later.

    config: of a training run, e.g. a ConfigDict.

    Raises: InputError for a name that is no preset.
    """
    if name not in PRESETS:
        rule = f"must be one of {', '.join(PRESETS)}, is '{name}'"
        raise InputError("preset", "", rule)
    for part, settings in PRESETS[name].items():
        target = config.loss.sampling if part == "sampling" else config[part]
        for key, value in settings.items():
            target[key] = value


def name_of(conventions: Mapping[str, Any] | None) -> str:
    """Return the preset with these conventions, or how they are called without one."""
    for name, preset in PRESETS.items():
        if _whole(preset["model"]["conventions"]) == _whole(conventions):
            return name
    return "none" if _whole(conventions) == Conventions() else "no known preset"


def difference(
    theirs: Mapping[str, Any] | None, ours: Mapping[str, Any] | None
) -> list[str]:
    """Return, as sentences, where two models would read the same parameters apart."""
    sides = _whole(theirs)._asdict(), _whole(ours)._asdict()
    return [
        f"conventions.{key} was {value}, is {sides[1][key]}"
        for key, value in sides[0].items()
        if value != sides[1][key]
    ]


def _whole(conventions: Mapping[str, Any] | None) -> Conventions:
    return Conventions(**(conventions or {}))
