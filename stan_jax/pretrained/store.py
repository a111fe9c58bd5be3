"""Imported weights on disk: how they get there, and how a training starts from them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stan_jax import presets
from stan_jax.annotations import youtube_vis
from stan_jax.errors import InputError
from stan_jax.files import replacing
from stan_jax.model.stan import architecture
from stan_jax.pretrained import checkpoint, class_names, detectors, names, tensors
from stan_jax.pretrained.checkpoint import Checkpoints
from stan_jax.pretrained.detectors import Imported

EXPORTS = ("mmdet", "torchvision")
# Arrays with columns by class on their last axis, and how many of them a class has.
CLASSWISE = {
    f"{head}/{part}": columns
    for head, columns in (
        ("box_head/logits", 1),
        ("box_head/deltas", 4),
        ("mask_head/logits", 1),
    )
    for part in ("kernel", "bias")
}
# What decides how parameters are read and does not show in their shapes.
BACKBONE_READINGS = ("backbone", "backbone_args", "norm")


def categories(choice: str, found: Imported) -> list[str]:
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


def save(
    out: str | Path, source: str | Path, found: Imported, names_: Sequence[str]
) -> None:
    """Nothing; `out` holds checkpoints/, weights.safetensors and import.json.

    Raises: InputError where there is a checkpoint already, or the disk is full.
    """
    out = Path(out)
    folder = out / "checkpoints"
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(folder, "", "holds checkpoints already; name a new folder")
    fingerprint = architecture(found.settings, names_)
    checkpoints = Checkpoints(folder, fingerprint=fingerprint)
    checkpoints.save(0, {"params": found.params, "frozen": found.frozen}, {}, None)
    checkpoints.close()
    tensors.write(out / "weights.safetensors", found.params | found.frozen)
    about = dict(
        source=Path(source).name,
        family=found.family,
        preset=found.preset,
        categories=list(names_),
        model=found.settings,
    )
    with replacing(out / "import.json") as partial:
        partial.write_text(json.dumps(about, indent=2) + "\n")


def report(found: Imported, names_: Sequence[str]) -> list[str]:
    """Return what a person should know of an import, line by line."""
    used = sum(x.size for x in (*found.params.values(), *found.frozen.values()))
    reasons = sorted(set(found.skipped.values()))
    backbone = found.settings["backbone"]
    lines = [
        f"family {found.family}, {backbone}, preset {found.preset}",
        f"used: {len(found.params) + len(found.frozen)} arrays, {used:,} values",
        *(f"skipped, {why}: {_some(found.skipped, why)}" for why in reasons),
    ]
    if found.classes:
        shown = ", ".join(names_[:3])
        lines.append(f"classes: {len(names_)} ({shown}, ...), see --classes")
    if found.missing:
        lines.append(f"missing, begin anew in training: {', '.join(found.missing)}")
    return lines


def _some(skipped: Mapping[str, str], why: str) -> str:
    found = [name for name, reason in skipped.items() if reason == why]
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return ", ".join(found[:3]) + more


def begin(
    folder: str | Path,
    fresh: Mapping[str, Any],
    fingerprint: Mapping[str, Any],
    *,
    force: bool = False,
) -> tuple[dict[str, Any], list[str]]:
    """Return arrays to start from, by path, and what was done, line by line.

    folder: made by `save`, or the workdir of a training run. fresh: the arrays of an
    untrained model by path "params/..." and "frozen/...". fingerprint: of that model,
    see `architecture`. Heads with other classes take the columns of those that both
    name, and stay fresh in the others. Parts that the folder does not hold stay fresh.
    Raises: InputError where the weights were trained to be read otherwise, unless
    forced, and where shapes differ.
    """
    folder = _checkpoints_in(folder)
    theirs, saved = checkpoint.read(folder)
    fingerprint = json.loads(json.dumps(fingerprint))  # as theirs was: tuples are lists
    parts = {_part(path) for path in saved}
    if not force:
        _check_readings(folder, theirs, fingerprint, whole=parts != {"backbone"})
    old, new = (list(side.get("categories", [])) for side in (theirs, fingerprint))
    result, wrong, untouched = {}, [], set()
    for path, array in fresh.items():
        bare = path.split("/", 1)[1]
        if path not in saved and _part(path) not in parts:
            untouched.add(_part(path))
            result[path] = array
        elif path not in saved:
            wrong.append(f"{path} is absent")
        elif bare in CLASSWISE and saved[path].shape[:-1] == array.shape[:-1]:
            result[path] = _by_class(array, saved[path], CLASSWISE[bare], old, new)
        elif saved[path].shape != array.shape:
            wrong.append(f"{path} is {saved[path].shape} there, {array.shape} here")
        else:
            result[path] = saved[path]
    if wrong:
        more = f"; and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise InputError(folder, "", "; ".join(wrong[:4]) + more)
    known = {_plain(name) for name in old} & {_plain(name) for name in new}
    lines = [f"started from {folder}"]
    if old != new and "box_head" in parts:
        lines.append(f"classes that both name: {len(known)} of {len(new)}; others anew")
    if untouched:
        lines.append(f"begin anew: {', '.join(sorted(untouched))}")
    left = parts - {_part(path) for path in fresh}
    if left:
        lines.append(f"left out: {', '.join(sorted(left))}")
    return result, lines


def _checkpoints_in(folder: str | Path) -> Path:
    folder = Path(folder)
    if folder.is_file():
        rule = f"must be a folder; `stan import {folder} FOLDER` makes one of it"
        raise InputError(folder, "", rule)
    return folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder


def _check_readings(folder: Path, theirs: Mapping, ours: Mapping, whole: bool) -> None:
    keys, wrong = BACKBONE_READINGS, []
    if whole:
        keys = (*keys, "anchor_scale")
        wrong = presets.difference(theirs.get("conventions"), ours.get("conventions"))
        if theirs.get("sta") and ours.get("sta"):
            keys = (*keys, "sta")
    for key in keys:
        if key in theirs and theirs[key] != ours.get(key):
            wrong.append(f"{key} was {theirs[key]}, is {ours.get(key)}")
    if wrong:
        name = presets.name_of(theirs.get("conventions"))
        advice = "set model so"
        if wrong[0].startswith("conventions") and name in presets.PRESETS:
            advice = (
                f"preset {name}: --config=configs/ytvis19_r50.py:{name} or the like"
            )
        rule = f"{'; '.join(wrong)} ({advice}, or --config.init_force=True)"
        raise InputError(folder, "", rule)


def _by_class(fresh, saved, per_class: int, old: list[str], new: list[str]):
    """The fresh array with the columns of the classes that both sides name."""
    result = np.array(fresh)
    there = {_plain(name): i for i, name in enumerate(old)}
    pairs = [(i, there[_plain(n)]) for i, n in enumerate(new) if _plain(n) in there]
    # Behind the last class stands the background, on both sides or not.
    ends = (
        result.shape[-1] > len(new) * per_class,
        saved.shape[-1] > len(old) * per_class,
    )
    if all(ends):
        pairs.append((len(new), len(old)))
    for here, other in pairs:
        columns, source = (
            slice(i * per_class, (i + 1) * per_class) for i in (here, other)
        )
        result[..., columns] = saved[..., source]
    return result


def export(workdir: str | Path, out: str | Path, family: str) -> list[str]:
    """Return lines on what was written: the weights of a folder in another's names.

    Raises: InputError for another family than EXPORTS, and where that family has no
    such model.
    """
    if family not in EXPORTS:
        rule = f"must be one of {', '.join(EXPORTS)}, is '{family}'"
        raise InputError("family", "", rule)
    folder = _checkpoints_in(workdir)
    about, saved = checkpoint.read(folder)
    for key, wanted in (("norm", "frozen_batch"), ("backbone_args.caffe", False)):
        value = about.get("backbone_args", {}).get("caffe", False)
        value = value if "." in key else about.get(key)
        if value != wanted and (family == "torchvision" or "." not in key):
            rule = f"has model.{key}={value}, which {family} cannot name"
            raise InputError(folder, "", rule)
    arrays = {path.split("/", 1)[1]: np.asarray(x) for path, x in saved.items()}
    if absent := [k for k in detectors.WIDTHS.values() if k not in arrays]:
        rule = f"holds no whole detector, which {family} means: no {absent[0]}"
        raise InputError(folder, "", rule)
    lines = []
    if about.get("background_columns"):
        count = len(about["categories"])
        for path, per_class in CLASSWISE.items():
            if path in arrays and not path.startswith("box_head/logits"):
                arrays[path] = arrays[path][..., : count * per_class]
        lines.append("left out: boxes and masks of the background, which nobody reads")
    renames = detectors.FAMILIES[family].renames
    result, own = names.back(arrays, renames)
    # How the weights were trained to be read goes with them, whatever their names.
    note = {k: about.get(k) for k in ("sta", "categories", "conventions")}
    tensors.write(out, result, note)
    if own:
        parts = sorted({path.split("/")[0] for path in own})
        lines.append(f"under our own names, after {names.OWN}: {', '.join(parts)}")
    return [f"{len(result)} arrays written to {out}", *lines]


def _part(path: str) -> str:
    return path.split("/")[1]


def _plain(name: str) -> str:
    return name.lower().replace(" ", "_").replace("-", "_")
