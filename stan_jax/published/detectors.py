"""Published checkpoint files: recognise the system, convert settings and arrays."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from stan_jax import presets
from stan_jax.annotations import youtube_vis
from stan_jax.errors import InputError
from stan_jax.model import parameters
from stan_jax.model.build import BACKBONES, build
from stan_jax.model.stan import Conventions
from stan_jax.presets import PRESETS
from stan_jax.published import (
    class_names,
    detectron2,
    mobilenet_v2,
    names,
    openmmlab,
    tensors,
    torchvision,
)
from stan_jax.published.names import Rename

EMA = "ema_"  # running means of the weights, which old hooks of mmcv kept beside them
PARTS = ("backbone", "fpn", "rpn", "box_head", "mask_head", "track_head")
SMALLEST = dict(  # of a model of which only the backbone matters
    channels=8, box_channels=8, mask_channels=8, mask_depth=1, embed_channels=8
)

WIDTHS = dict(  # arguments of `build`, and the arrays whose length they are
    channels="fpn/laterals/0/bias",
    box_channels="box_head/fc1/bias",
    mask_channels="mask_head/upsample_bias",
    num_classes="box_head/logits/bias",  # and one more, the background
)


class Family(NamedTuple):
    """One way to name tensors, and what else its files have in common.

    Args:
      preset: key of PRESETS.
      caffe: bottlenecks stride in their first 1x1.
      parts: which of PARTS every file has; others may be absent.
      defaults: see `names.translate`.
      absent: a part of names that no file has.
    """

    renames: Sequence[Rename]
    preset: str
    caffe: bool = False
    parts: Sequence[str] = PARTS[:5]
    defaults: Mapping[str, float] = {}
    absent: str = "\n"


FAMILIES = {
    "original": Family(openmmlab.ORIGINAL, "original", parts=PARTS),
    "mmdet": Family((*openmmlab.MASKTRACK, *openmmlab.MASK_RCNN), "openmmlab"),
    "torchvision-coco": Family(
        torchvision.MASK_RCNN_EPS_0, "torchvision", absent="num_batches_tracked"
    ),
    "torchvision": Family(torchvision.MASK_RCNN, "torchvision"),
    "detectron2": Family(detectron2.MASK_RCNN, "openmmlab", caffe=True),
    "torchvision-resnet": Family(
        names.under(torchvision.RESNET, "", "backbone/"), "original", parts=PARTS[:1]
    ),
    "detectron2-resnet": Family(
        names.under(detectron2.MSRA, "", "backbone/"),
        "original",
        caffe=True,
        parts=PARTS[:1],
        defaults=detectron2.MSRA_DEFAULTS,
    ),
    "mobilenet_v2": Family(
        names.under(mobilenet_v2.RENAMES, "", "backbone/"), "original", parts=PARTS[:1]
    ),
}
FAMILIES["mmtracking"] = FAMILIES["mmdet"]


class Imported(NamedTuple):
    """Content of a published file under our own names.

    Args:
      settings: arguments of `build`.
      classes: how many; 0 for a backbone alone.
      params, statistics: arrays by path.
      skipped: names of the file that are not needed, with the reason.
      missing: paths of ours that it does not hold.
      categories: names of the classes, where the file has them.
    """

    family: str
    preset: str
    settings: dict[str, Any]
    classes: int
    params: dict[str, np.ndarray]
    statistics: dict[str, np.ndarray]
    skipped: dict[str, str]
    missing: list[str]
    categories: Sequence[str] = ()


def load(path: str | Path, family: str = "auto") -> Imported:
    """Return what a published checkpoint becomes.

    family: key of FAMILIES, or "auto" to go by the names in the file.
    Raises: InputError as `tensors.read` and `names.translate`, for a file of another
    family than named, of none at all, and for a backbone that we do not have.
    """
    found, about = tensors.read(path), tensors.note(path)
    result = convert(path, found, family, sta=about.get("sta"))
    if not about:
        return result
    # An export of ours, which was not trained under its family's conventions.
    conventions = about["conventions"]
    return result._replace(
        categories=about["categories"],
        preset=presets.name_of(Conventions(**(conventions or {}))),
        settings=result.settings | {"conventions": conventions},
    )


def convert(
    path: str | Path,
    found: Mapping[str, np.ndarray],
    family: str = "auto",
    *,
    sta: Mapping[str, Any] | None = None,
) -> Imported:
    """Return what the tensors of a file become; as `load`, which has read them.

    sta: arguments of the attention that stands in the file under our own names.
    """
    skipped = {k: "a running mean (EMA)" for k in found if k.startswith(EMA)}
    found = {k: x for k, x in found.items() if k not in skipped}
    name = choose(path, found, family)
    about = FAMILIES[name]
    settings, classes = describe(path, found, about)
    settings["sta"] = sta
    params, statistics = shapes(settings, max(classes, 1))
    wanted = params | statistics
    if not classes:
        wanted = {k: x for k, x in wanted.items() if k.startswith("backbone/")}
    result = names.translate(
        path,
        found,
        about.renames,
        wanted,
        defaults=about.defaults,
        may_miss=[f"{part}/" for part in PARTS if part not in about.parts],
    )
    skipped |= dict.fromkeys(result.skipped, "not needed")
    params, statistics = (
        {k: result.arrays[k] for k in side if k in result.arrays}
        for side in (params, statistics)
    )
    return Imported(
        name,
        about.preset,
        settings,
        classes,
        params,
        statistics,
        skipped,
        result.missing,
    )


def choose(path: str | Path, found: Mapping[str, Any], family: str) -> str:
    """Return the family of a file by the names in it; `family` must not contradict."""
    if family != "auto" and family not in FAMILIES:
        rule = f"must be auto or one of {', '.join(FAMILIES)}, is '{family}'"
        raise InputError("family", "", rule)
    fits = {
        name: names.count(found, about.renames)
        for name, about in FAMILIES.items()
        if not any(about.absent in key for key in found)
    }
    best = max(fits, key=lambda name: fits[name])
    if fits[best] < len(found) / 2:
        some = ", ".join(sorted(found)[:3])
        rule = f"is of no known family ({', '.join(FAMILIES)}); it holds {some}"
        raise InputError(path, "", rule)
    if family == "auto":
        return best
    if fits.get(family, 0) < fits[best]:
        rule = f"has the names of {best}, not of {family}: use --family {best}"
        raise InputError(path, "", rule)
    return family


def describe(
    path: str | Path, found: Mapping[str, np.ndarray], family: Family
) -> tuple[dict[str, Any], int]:
    """Return the arguments of `build` for a file, and its number of classes."""
    by_path = names.places(found, family.renames)
    backbone = _backbone(path, by_path)
    is_resnet = backbone != "mobilenet_v2"
    sizes = dict(SMALLEST)
    classes = 0
    if PARTS[3] in family.parts:
        if absent := [k for k in WIDTHS.values() if k not in by_path]:
            raise InputError(path, "", f"lacks {', '.join(absent)}: is it whole?")
        classes = len(by_path["box_head/logits/bias"]) - 1
        depth = [k for k in by_path if re.fullmatch(r"mask_head/convs/\d+/bias", k)]
        embed = by_path.get("track_head/fc1/bias")
        sizes = {k: len(by_path[v]) for k, v in WIDTHS.items() if k in SMALLEST}
        sizes["mask_depth"] = len(depth)
        sizes["embed_channels"] = 1024 if embed is None else len(embed)
    return dict(
        backbone=backbone,
        backbone_args=dict(caffe=family.caffe) if is_resnet else {},
        norm="frozen_batch",
        anchor_scale=8.0,
        sta=None,
        background_columns=PRESETS[family.preset].background_columns,
        conventions=PRESETS[family.preset].conventions._asdict(),
        **sizes,
    ), classes


def _backbone(path: str | Path, by_path: Mapping[str, np.ndarray]) -> str:
    """Return the key of BACKBONES with as many blocks, and groups of that width."""
    pattern = re.compile(r"backbone/layer(\d)/(\d+)/conv(\d)/kernel")
    blocks = [m for key in by_path if (m := pattern.fullmatch(key))]
    if not blocks:
        return "mobilenet_v2"
    stages = tuple(
        1 + max((int(m[2]) for m in blocks if int(m[1]) == stage), default=-1)
        for stage in (1, 2, 3, 4)
    )
    width = by_path["backbone/layer1/0/conv2/kernel"].shape[:2]
    is_deep = any(m[3] == "3" for m in blocks)
    for name, builder in BACKBONES.items():
        if not isinstance(builder, partial):
            continue
        args = builder.keywords
        groups = args.get("groups", 1)
        same = args["stages"] == stages and args["bottleneck"] == is_deep
        if same and width[0] == groups * width[1]:
            return name
    rule = f"has a ResNet of {stages} blocks, known are {', '.join(BACKBONES)}"
    raise InputError(path, "", rule)


def shapes(
    settings: Mapping[str, Any], classes: int
) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Return the shapes of a model's parameters and statistics by path."""

    def make():
        return build(num_classes=classes, **settings, rngs=nnx.Rngs(0))

    _, arrays = parameters.split(nnx.eval_shape(make))
    params, statistics = (
        {path: tuple(x.shape) for path, x in parameters.by_path(side).items()}
        for side in arrays
    )
    return params, statistics


def class_list(choice: str, found: Imported) -> list[str]:
    """Return the names of the classes of a file.

    choice: key of `class_names.LISTS`, annotations of a dataset, or "auto": those in
    the file, else the list of that length.
    Raises: InputError where the list has another length.
    """
    lists, number = class_names.LISTS, found.classes
    if choice == "auto":
        fits = [names_ for names_ in lists.values() if len(names_) == number]
        fits += [tuple(f"class {i + 1}" for i in range(number))]
        chosen = found.categories or fits[0]
    elif choice in lists:
        chosen = lists[choice]
    elif Path(choice).suffix == ".json":
        dataset = youtube_vis.load(choice, Path(choice).parent)
        chosen = [category.name for category in dataset.categories]
    else:
        rule = f"must be auto, {', '.join(lists)} or a .json file, is '{choice}'"
        raise InputError("classes", "", rule)
    if len(chosen) != number:
        rule = f"names {len(chosen)} classes, the weights have {number}"
        raise InputError("classes", choice, rule)
    return list(chosen)
