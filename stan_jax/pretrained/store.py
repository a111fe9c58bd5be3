"""Write imported weights into a folder of ours, and ours under the names of others."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from stan_jax.errors import InputError
from stan_jax.pretrained import record, start
from stan_jax.pretrained.checkpoint import Checkpoints
from stan_jax.published import detectors, names, tensors
from stan_jax.published.detectors import Imported

EXPORTS = ("mmdet", "torchvision")


def save(
    out: str | Path, source: str | Path, found: Imported, names_: Sequence[str]
) -> None:
    """Write a folder that `stan_jax.load` opens: one checkpoint with its record.

    Raises: InputError where there is a checkpoint already, or the disk is full.
    """
    folder = Path(out) / "checkpoints"
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(folder, "", "holds checkpoints already; name a new folder")
    about = record.to_json(start.record_of(source, found, names_))
    checkpoints = Checkpoints(folder, record=about)
    state = {"params": found.params, "statistics": found.statistics}
    checkpoints.save(0, state, {}, None)
    checkpoints.close()


def report(found: Imported, names_: Sequence[str]) -> list[str]:
    """Return what a person should know of an import, line by line."""
    used = sum(x.size for x in (*found.params.values(), *found.statistics.values()))
    reasons = sorted(set(found.skipped.values()))
    backbone = found.settings["backbone"]
    lines = [
        f"family {found.family}, {backbone}, preset {found.preset}",
        f"used: {len(found.params) + len(found.statistics)} arrays, {used:,} values",
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


def export(workdir: str | Path, out: str | Path, family: str) -> list[str]:
    """Return lines on what was written: the weights of a folder in another's names.

    Raises: InputError for another family than EXPORTS, and where that family has no
    such model.
    """
    if family not in EXPORTS:
        rule = f"must be one of {', '.join(EXPORTS)}, is '{family}'"
        raise InputError("family", "", rule)
    about, saved = start.open_folder(workdir)
    model, caffe = about.model, about.model["backbone_args"].get("caffe", False)
    if model["norm"] != "frozen_batch":
        rule = f"has model.norm={model['norm']}, which {family} cannot name"
        raise InputError(workdir, "", rule)
    if caffe and family == "torchvision":
        rule = f"has model.backbone_args.caffe=True, which {family} cannot name"
        raise InputError(workdir, "", rule)
    arrays = {path.split("/", 1)[1]: np.asarray(x) for path, x in saved.items()}
    if absent := [k for k in detectors.WIDTHS.values() if k not in arrays]:
        rule = f"holds no whole detector, which {family} means: no {absent[0]}"
        raise InputError(workdir, "", rule)
    lines = []
    if model["background_columns"]:
        count = len(about.categories)
        for path, per_class in start.CLASSWISE.items():
            if path in arrays and not path.startswith("box_head/logits"):
                arrays[path] = arrays[path][..., : count * per_class]
        lines.append("left out: boxes and masks of the background, which nobody reads")
    renames = detectors.FAMILIES[family].renames
    result, own = names.back(arrays, renames)
    # How the weights were trained to be read goes with them, whatever their names.
    note = {k: model[k] for k in ("sta", "conventions")}
    note["categories"] = list(about.categories)
    tensors.write(out, result, note)
    if own:
        parts = sorted({path.split("/")[0] for path in own})
        lines.append(f"under our own names, after {names.OWN}: {', '.join(parts)}")
    return [f"{len(result)} arrays written to {out}", *lines]
