"""A STAN built from the settings of a config, and those settings in full."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from flax import nnx

from stan_jax.errors import InputError
from stan_jax.model.backbone import Backbone
from stan_jax.model.fpn import FeaturePyramid
from stan_jax.model.heads import BoxHead, MaskHead, RpnHead, TrackHead
from stan_jax.model.layers import NORMS
from stan_jax.model.mobilenet_v2 import MobileNetV2
from stan_jax.model.resnet import ResNet
from stan_jax.model.sta import SpatioTemporalAttention
from stan_jax.model.stan import BOX_CELLS, STAN, Conventions

BACKBONES: dict[str, Callable[..., Backbone]] = {
    "resnet18": partial(ResNet, stages=(2, 2, 2, 2), bottleneck=False),
    "resnet34": partial(ResNet, stages=(3, 4, 6, 3), bottleneck=False),
    "resnet50": partial(ResNet, stages=(3, 4, 6, 3), bottleneck=True),
    "resnet101": partial(ResNet, stages=(3, 4, 23, 3), bottleneck=True),
    "resnext101_64x4d": partial(
        ResNet, stages=(3, 4, 23, 3), bottleneck=True, groups=64, group_width=4
    ),
    "mobilenet_v2": MobileNetV2,
}


def build(
    *,
    num_classes: int,
    backbone: str,
    backbone_args: Mapping[str, Any],
    norm: str,
    rngs: nnx.Rngs,
    **settings: Any,
) -> STAN:
    """Return a model whose backbone has a name.

    Args:
      num_classes: without background.
      backbone: key of BACKBONES.
      backbone_args: further arguments of that backbone.
      norm: key of NORMS, the norm of the backbone.
      settings: see `assemble`.
    Raises: InputError for a backbone or norm that is not known, and as the parts.
    """
    for name, value, table in (
        ("backbone", backbone, BACKBONES),
        ("norm", norm, NORMS),
    ):
        if value not in table:
            rule = f"must be one of {', '.join(table)}, is '{value}'"
            raise InputError(name, "", rule)
    built = BACKBONES[backbone](**backbone_args, norm=NORMS[norm], rngs=rngs)
    return assemble(built, num_classes=num_classes, rngs=rngs, **settings)


def assemble(
    backbone: Backbone,
    *,
    num_classes: int,
    channels: int,
    anchor_scale: float,
    sta: Mapping[str, Any] | None,
    box_channels: int,
    mask_channels: int,
    mask_depth: int,
    embed_channels: int,
    background_columns: bool = False,
    conventions: Mapping[str, Any] | None = None,
    rngs: nnx.Rngs,
) -> STAN:
    """Return a model on a backbone of any make.

    Args:
      num_classes: without background.
      channels: of the pyramid.
      anchor_scale: side of an anchor in cells of its level.
      sta: arguments of SpatioTemporalAttention; None gives the plain baseline.
      box_channels, mask_channels, embed_channels: width of the heads.
      mask_depth: convolutions of the mask head.
      background_columns: boxes and masks get a column for the background as well, as
        in weights of the original code.
      conventions: fields of `Conventions` that are not as its defaults.
    """
    reading = Conventions(**(conventions or {}))
    columns = num_classes + background_columns
    features = BOX_CELLS**2 * channels
    # The order of the parts is the order in which they draw from `rngs`.
    return STAN(
        backbone=backbone,
        fpn=FeaturePyramid(
            backbone.channels, channels, strides=backbone.strides, rngs=rngs
        ),
        sta=None
        if sta is None
        else SpatioTemporalAttention(channels, **sta, rngs=rngs),
        rpn=RpnHead(channels, 3, rngs=rngs),
        box_head=BoxHead(
            features, num_classes, channels=box_channels, regressed=columns, rngs=rngs
        ),
        mask_head=MaskHead(
            channels, columns, channels=mask_channels, depth=mask_depth, rngs=rngs
        ),
        track_head=TrackHead(
            features,
            channels=embed_channels,
            last_relu=reading.embed_relu,
            rngs=rngs,
        ),
        anchor_scale=anchor_scale,
        conventions=reading,
    )


def architecture(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of `build` in full, without what is of training alone.

    Defaults are filled in from the signatures, so that two spellings of one function
    compare equal, and a setting that is added later with a default changes nothing.
    """
    full = _defaults(assemble) | _defaults(build) | dict(settings)
    full.pop("num_classes", None)
    kind = BACKBONES.get(full.get("backbone", ""))
    args = (_defaults(kind) if kind else {}) | dict(full.get("backbone_args") or {})
    of_training = "frozen_", "recompute_"
    full["backbone_args"] = {
        k: v for k, v in args.items() if not k.startswith(of_training)
    }
    if full.get("sta") is not None:
        full["sta"] = _defaults(SpatioTemporalAttention) | dict(full["sta"])
    full["conventions"] = Conventions(**(full["conventions"] or {}))._asdict()
    return full


def _defaults(function: Callable) -> dict[str, Any]:
    """The default of each argument of a function, class or partial that has one."""
    given = function.keywords if isinstance(function, partial) else {}
    function = function.func if isinstance(function, partial) else function
    # Of a module the signature of the class says nothing: its metaclass takes anything.
    signed = function.__init__ if inspect.isclass(function) else function
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(signed).parameters.items()
        if parameter.default is not parameter.empty
    }
    return defaults | given
