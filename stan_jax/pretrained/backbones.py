"""The backbone alone of a published file, of any family that `detectors` knows."""

from collections.abc import Mapping
from pathlib import Path

from stan_jax.errors import InputError
from stan_jax.pretrained import detectors
from stan_jax.pretrained.detectors import flat, nested


def load(
    path: str | Path, params: Mapping, frozen: Mapping, *, kind: str, caffe: bool
) -> tuple[dict, dict]:
    """Return the backbone's parameters and statistics with the values of a file.

    params, frozen: the present ones, as nested dicts; they give the shapes.
    kind: key of `stan.BACKBONES`. caffe: whether the model's bottlenecks stride in
    their first 1x1.
    Raises: InputError as `detectors.load`, and for a file that does not go with
    `kind` and `caffe`, or with the shapes.
    """
    found = detectors.load(path)
    if found.settings["backbone"] != kind:
        rule = f"holds a backbone {found.settings['backbone']}, the model's is {kind}"
        raise InputError(path, "", rule)
    if found.settings["backbone_args"].get("caffe", False) != caffe:
        rule = f"needs model.backbone_args.caffe={not caffe}, as all of {found.family}"
        raise InputError(path, "", rule)
    arrays = found.params | found.frozen
    there = {k: x.shape for k, x in arrays.items() if k.startswith("backbone/")}
    here = {k: x.shape for k, x in flat({"backbone": params}).items()}
    here |= {k: x.shape for k, x in flat({"backbone": frozen}).items()}
    for name in sorted(there.keys() | here.keys()):
        sides = [side.get(name, "absent") for side in (there, here)]
        if sides[0] != sides[1]:
            rule = f"{name} is {sides[0]} there, {sides[1]} in the model"
            raise InputError(path, "", rule)
    return nested(arrays, params, "backbone/"), nested(arrays, frozen, "backbone/")
