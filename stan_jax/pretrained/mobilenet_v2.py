"""How the ImageNet weights of a MobileNetV2, a `.npz`, become a backbone of ours."""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from stan_jax.errors import InputError

# Pattern of the file's key -> path in our parameters (or frozen statistics).
# `head`, the 1280-channel layer behind block 16, is not part of the backbone.
NAMES = (
    (r"stem\.(conv|bn)(?:\.(\w+))?", r"stem/\1/\2"),
    (r"block(\d+)\.(expand|project)\.(conv|bn)(?:\.(\w+))?", r"blocks/\1/\2/\3/\4"),
    (r"block(\d+)\.depthwise\.conv", r"blocks/\1/depthwise/kernel"),
    (r"block(\d+)\.depthwise\.bn\.(\w+)", r"blocks/\1/depthwise/bn/\2"),
    (r"head\..*", ""),
)
FIELDS = {"": "kernel", "gamma": "scale", "beta": "bias"}


def load(path: str | Path, params: Mapping, frozen: Mapping) -> tuple[dict, dict]:
    """Return the backbone's parameters and statistics with the values of the file.

    params, frozen: the backbone's present ones, as nested dicts; they give the shapes.
    Raises: InputError if there is no such archive, else one that lists every key
    without a place, every shape that differs and every parameter that it leaves out.
    """
    if not zipfile.is_zipfile(path):
        raise InputError(path, "", "must be an .npz file; absent, other or cut short")
    with np.load(path, allow_pickle=False) as file:
        found = {_path(key): file[key].astype(np.float32) for key in file.files}
    found.pop("", None)
    wanted = {**_flat(params), **_flat(frozen)}
    wrong = [f"{k} has no place" for k in found.keys() - wanted.keys()]
    wrong += [f"{k} is missing" for k in wanted.keys() - found.keys()]
    wrong += [
        f"{k} is {found[k].shape}, needed {np.shape(wanted[k])}"
        for k in found.keys() & wanted.keys()
        if found[k].shape != np.shape(wanted[k])
    ]
    if wrong:
        raise InputError(path, "", "; ".join(sorted(wrong)))
    return _fill(params, found), _fill(frozen, found)


def _path(key: str) -> str:
    for pattern, target in NAMES:
        if match := re.fullmatch(pattern, key):
            parts = [p for p in match.expand(target).split("/") if p]
            if parts and parts[-1] in ("conv", "bn"):
                parts.append(FIELDS[""])
            if parts:
                parts[-1] = FIELDS.get(parts[-1], parts[-1])
            return "/".join(parts)
    return key


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
