"""The one door to a trained model: a folder or file becomes a tracker."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import nnx

from stan_jax.errors import InputError
from stan_jax.model import parameters
from stan_jax.model.build import build
from stan_jax.model.parameters import Parameters
from stan_jax.pretrained import checkpoint, programs, start
from stan_jax.pretrained.programs import KeptProgram
from stan_jax.pretrained.record import Record
from stan_jax.runtimes.exported import SUFFIX, open_exported
from stan_jax.tracking.program import Program
from stan_jax.tracking.tracker import Tracker


def load(
    source: str | Path, *, step: int | None = None, best: bool = False, **changes: Any
) -> Tracker:
    """Return a tracker with the parameters of a trained model.

        tracker = stan_jax.load("runs/mine", score_threshold=0.3)

    Args:
      source: a workdir of train.py, a folder of `stan import`, a published file, or one
        of `stan export --format onnx`, which `open_exported` opens without JAX.
      step: of a checkpoint; default the newest.
      best: take the checkpoint with the best AP.
      changes: fields of `Settings`, `Association` or `Thresholds` that are to differ
        from those it was trained with.
    Raises: InputError where nothing there can be read, for a backbone alone, and for a
      name or value of `changes` that does not suit the model, or any for an exported
      one.
    """
    if Path(source).suffix.lower() == SUFFIX:
        if step is not None or best or changes:
            rule = "was fixed when it was exported: nothing can be chosen"
            raise InputError(source, "", rule, "export it anew with what is to differ")
        return open_exported(source)
    found, arrays = read(source, step=step, best=best)
    return tracker_of(source, found, arrays, **changes)


def read(
    source: str | Path, *, step: int | None = None, best: bool = False
) -> tuple[Record, dict[str, Any]]:
    """Return record and arrays, by path, of a model that can track.

    Arguments and errors as of `load`.
    """
    source = Path(source)
    if source.is_dir():
        found, arrays = start.open_folder(source, _step_of(source, step, best))
    elif step is not None or best:
        raise InputError(source, "", "is a file: it has no steps to choose from")
    else:
        found, arrays = start.open_source(source)
    if not found.categories:
        rule = "holds a backbone alone, which cannot track: train with it as init_from"
        raise InputError(source, "", rule)
    return found, dict(arrays)


def tracker_of(
    source: str | Path, found: Record, arrays: dict[str, Any], **changes: Any
) -> Tracker:
    """Return the tracker of what `read` gave; arguments and errors as of `load`."""
    found = found._replace(settings=changed(found.settings, changes))

    def make() -> Program:
        return Program(*blueprint(found), found.settings)

    place = programs.folder()
    program = make() if place is None else KeptProgram(found, make, place)
    require(source, program.paths, arrays)
    values = {path: jnp.asarray(arrays[path]) for path in program.paths}
    return Tracker(program, parameters.from_paths(values), found.categories)


def require(
    source: str | Path, paths: Sequence[str], arrays: Mapping[str, Any]
) -> None:
    """Raise InputError unless all these paths of a model have arrays."""
    absent = [path for path in paths if path not in arrays]
    if absent:
        parts = sorted({path.split("/")[1] for path in absent})
        rule = f"holds no {', '.join(parts)}: train with it as init_from"
        raise InputError(source, "", rule)


def read_record(source: str | Path, *, best: bool = False) -> Record:
    """Return the record of a folder of ours, without its arrays."""
    source = Path(source)
    step = _step_of(source, None, best)
    return start.open_folder(source, step, prefixes=())[0]


def blueprint(found: Record) -> tuple[Any, Parameters]:
    """Return structure and shapes of the model that a record describes."""

    def make():
        classes = max(len(found.categories), 1)
        return build(num_classes=classes, **found.model, rngs=nnx.Rngs(0))

    return parameters.split(nnx.eval_shape(make))


def changed(settings: Any, changes: dict[str, Any]) -> Any:
    """Return the settings with some fields of theirs, at any depth, replaced.

    Raises: InputError for a name that none of them has.
    """
    rest = dict(changes)
    own = {k: rest.pop(k) for k in settings._fields if k in rest}
    for name in ("association", "thresholds"):
        record = own.get(name, getattr(settings, name))
        inner = {k: rest.pop(k) for k in record._fields if k in rest}
        own[name] = record._replace(**inner)
    if rest:
        known = (*settings._fields, *settings.thresholds._fields)
        known += settings.association._fields
        rule = f"is no setting; there are {', '.join(sorted(known))}"
        raise InputError(next(iter(rest)), "", rule)
    return settings._replace(**own)


def _step_of(source: Path, step: int | None, best: bool) -> int:
    folder = source / "checkpoints"
    folder = folder if folder.is_dir() else source
    there = checkpoint.find_step(folder, best="AP" if best else None)
    return there if step is None else step
