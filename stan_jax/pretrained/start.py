"""Start the parameters of a model: from a seed, a folder or a published file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stan_jax import presets
from stan_jax.annotations.classes import plain
from stan_jax.errors import InputError
from stan_jax.model import parameters
from stan_jax.model.parameters import Parameters
from stan_jax.pretrained import checkpoint, record
from stan_jax.pretrained.record import Record
from stan_jax.published import detectors

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


def start(
    source: str | Path,
    fresh: Parameters,
    ours: Record,
    *,
    only: str = "",
    force: bool = False,
) -> tuple[Parameters, list[str]]:
    """Return the parameters that a training starts from, and what was done, in lines.

    Heads with other classes take the columns of those that both sides name, and stay
    fresh in the others. Parts that the source does not hold stay fresh: a baseline may
    start a STAN, whose attention then begins with gamma = 0.

    Args:
      source: a workdir, a folder of `stan import`, a published file of any family that
        `detectors` knows; "" for the seed.
      fresh: of the untrained model.
      ours: the record of that model.
      only: "backbone" takes nothing else.
      force: also weights that were trained to be read otherwise.
    Raises: InputError where the source cannot be read or does not fit.
    """
    if only not in ("", "backbone"):
        raise InputError("init_only", "", f"must be '' or 'backbone', is '{only}'")
    if not source:
        if ours.model["norm"] == "frozen_batch":
            advice = (
                "'frozen_batch' stands on a trained backbone: name init_from, or train"
                " from scratch with --config=configs/NAME.py:scratch"
            )
            raise InputError("model.norm", "", advice)
        return fresh, []
    theirs, saved = open_source(source)
    if only:
        saved = {path: x for path, x in saved.items() if _part(path) == only}
        if not saved:
            raise InputError(source, "", f"holds no {only}")
    parts = {_part(path) for path in saved}
    if not force:
        _require_same_reading(source, theirs, ours, whole=parts != {"backbone"})
    return _taken(source, saved, fresh, theirs.categories, ours.categories)


def open_source(source: str | Path) -> tuple[Record, dict[str, Any]]:
    """Return the record and the arrays, by path, of a folder or a published file."""
    path = Path(source)
    if path.is_dir():
        return open_folder(path)
    imported = detectors.load(path)
    names = detectors.class_list("auto", imported)
    arrays = {
        f"{side}/{name}": array
        for side in ("params", "statistics")
        for name, array in getattr(imported, side).items()
    }
    return record_of(path, imported, names), arrays


def open_folder(
    folder: str | Path,
    step: int | None = None,
    prefixes: tuple[str, ...] = ("params", "statistics", "average"),
) -> tuple[Record, dict[str, Any]]:
    """Return the record and the arrays of a checkpoint of a folder of ours.

    Where training kept a mean of the parameters, they are that.

    Args:
      folder: a workdir, an import, or the `checkpoints` in one.
      step: default the newest.
      prefixes: which parts of the saved state.
    """
    folder = Path(folder)
    inner = folder / "checkpoints"
    inner, outer = (inner, folder) if inner.is_dir() else (folder, folder.parent)
    step = checkpoint.find_step(inner) if step is None else step
    content, arrays = checkpoint.read(inner, step=step, prefixes=prefixes)
    means = {path for path in arrays if path.startswith("average/")}
    arrays |= {"params/" + p.partition("/")[2]: arrays.pop(p) for p in means}
    return record.read(outer, content), arrays


def record_of(
    source: str | Path, imported: detectors.Imported, categories: Sequence[str]
) -> Record:
    """Return the record of published weights."""
    origin = f"{Path(source).name}, {imported.family}"
    names = categories if imported.classes else ()
    return record.from_preset(imported.settings, imported.preset, names, origin)


def _taken(
    source: str | Path,
    saved: Mapping[str, Any],
    fresh: Parameters,
    old: Sequence[str],
    new: Sequence[str],
) -> tuple[Parameters, list[str]]:
    parts = {_part(path) for path in saved}
    result, wrong, untouched = {}, [], set()
    table = parameters.by_path(fresh)
    for path, array in table.items():
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
    # A norm of another kind leaves arrays over, which nothing here would miss.
    of_ours = {_part(path) for path in table}
    wrong += [
        f"{path} is absent here"
        for path in saved
        if _part(path) in of_ours and path not in table
    ]
    if wrong:
        more = f"; and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise InputError(source, "", "; ".join(wrong[:4]) + more)
    lines = [f"started from {source}"]
    if list(old) != list(new) and "box_head" in parts:
        known = {plain(name) for name in old} & {plain(name) for name in new}
        lines.append(f"classes that both name: {len(known)} of {len(new)}; others anew")
    if untouched:
        lines.append(f"begin anew: {', '.join(sorted(untouched))}")
    if left := parts - of_ours:
        lines.append(f"left out: {', '.join(sorted(left))}")
    return parameters.nested(result, fresh), lines


def _require_same_reading(
    source: str | Path, theirs: Record, ours: Record, whole: bool
) -> None:
    keys, wrong = BACKBONE_READINGS, []
    if whole:
        wrong = presets.difference(theirs.conventions, ours.conventions)
        keys = (*keys, "anchor_scale")
        if theirs.model.get("sta") and ours.model.get("sta"):
            keys = (*keys, "sta")
    for key in keys:
        sides = (side.model.get(key) for side in (theirs, ours))
        wrong += record.differences(*sides, f"model.{key}")
    if wrong:
        name = presets.name_of(theirs.conventions)
        advice = "set it so"
        if wrong[0].startswith("conventions") and name in presets.PRESETS:
            advice = (
                f"preset {name}: --config=configs/ytvis19_r50.py:{name} or the like"
            )
        rule = f"{'; '.join(wrong)} ({advice}, or --config.init_force=True)"
        raise InputError(source, "", rule)


def _by_class(
    fresh: Any, saved: Any, per_class: int, old: Sequence[str], new: Sequence[str]
) -> np.ndarray:
    """The fresh array with the columns of the classes that both sides name."""
    result = np.array(fresh)
    there = {plain(name): i for i, name in enumerate(old)}
    pairs = [(i, there[plain(n)]) for i, n in enumerate(new) if plain(n) in there]
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


def _part(path: str) -> str:
    return path.split("/")[1]
