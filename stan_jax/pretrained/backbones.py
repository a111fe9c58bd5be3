"""Which published backbone a file holds, and how it becomes one of ours."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stan_jax.errors import InputError
from stan_jax.pretrained import detectron2, mobilenet_v2, names, tensors, torchvision
from stan_jax.pretrained.names import Rule


class Family(NamedTuple):
    """One way to name the tensors of a backbone.

    kinds: keys of `stan.BACKBONES` start so. caffe: where its bottlenecks stride.
    """

    rules: Sequence[Rule]
    kinds: str
    caffe: bool = False
    defaults: Mapping[str, float] = {}


FAMILIES = {
    "torchvision": Family(torchvision.RESNET, "resne"),
    "detectron2": Family(
        detectron2.MSRA, "resne", caffe=True, defaults=detectron2.MSRA_DEFAULTS
    ),
    "MobileNetV2": Family(mobilenet_v2.RULES, "mobilenet"),
}


def load(
    path: str | Path, params: Mapping, frozen: Mapping, *, kind: str, caffe: bool
) -> tuple[dict, dict]:
    """Return the backbone's parameters and statistics with the values of a file.

    path: of any kind that `tensors.read` knows. params, frozen: the present ones, as
    nested dicts; they give the shapes. kind: key of `stan.BACKBONES`. caffe: whether
    the model's bottlenecks stride in their first 1x1.
    Raises: InputError as `tensors.read` and `names.translate`, for a file of no known
    family, and for one that does not go with `kind` and `caffe`.
    """
    found = tensors.read(path)
    fits = {name: names.count(found, f.rules) for name, f in FAMILIES.items()}
    name = max(fits, key=lambda name: fits[name])
    family = FAMILIES[name]
    if not fits[name]:
        some = ", ".join(sorted(found)[:3])
        rule = f"must be one of {', '.join(FAMILIES)}; it holds {some}"
        raise InputError(path, "", rule)
    if not kind.startswith(family.kinds):
        rule = f"holds a backbone of {name}, the model's is {kind}"
        raise InputError(path, "", rule)
    if family.caffe != caffe:
        rule = f"needs model.backbone_args.caffe={family.caffe}, as all of {name}"
        raise InputError(path, "", rule)
    wanted = {k: np.shape(x) for k, x in (_flat(params) | _flat(frozen)).items()}
    arrays = names.translate(
        path, found, family.rules, wanted, defaults=family.defaults
    ).arrays
    return _fill(params, arrays), _fill(frozen, arrays)


def _flat(tree: Mapping, prefix: str = "") -> dict:
    flat = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        flat |= (
            _flat(value, f"{path}/") if isinstance(value, Mapping) else {path: value}
        )
    return flat


def _fill(tree: Mapping, values: Mapping, prefix: str = "") -> dict:
    return {
        key: _fill(value, values, f"{prefix}{key}/")
        if isinstance(value, Mapping)
        else values[f"{prefix}{key}"]
        for key, value in tree.items()
    }
