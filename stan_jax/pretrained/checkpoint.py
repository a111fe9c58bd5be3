"""Atomic checkpoints of a run, and how to read them back.

Orbax's V1 interface is still moving; this is the one file that knows it. A state is
handed to it as a flat table "params/sta/gamma" -> array, so that no container type
(NamedTuple, empty optimizer state) has to survive the disk. Everything that is not
an array is JSON in the metadata of the same atomically renamed folder: the position of
the input, and the record of the model (`record.py`), which is not looked into here.
"""

import base64
import contextlib
import errno
import json
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree
from orbax.checkpoint import v1

from stan_jax.errors import InputError
from stan_jax.model import parameters

SPARE_BYTES = 1 << 20  # metadata and index files beside the arrays
OLD_PARTS = {"frozen": "statistics"}  # names of parts until November 2026


class Saved(NamedTuple):
    """Index of a checkpoint, known before any array is loaded.

    Args:
      arrays: shape and dtype by path.
      names: the paths on disk.
      record: of the model, or its "fingerprint" until November 2026.
      data: position of the input.
    """

    arrays: dict[str, Any]
    names: dict[str, str]
    record: dict[str, Any]
    data: Any


class Checkpoints:
    """The checkpoints of one run: writes new ones, keeps the right ones, restores.

    Removes what an earlier, killed process left unfinished; so open this only from
    the one process that trains. Readers use `read`.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        keep_last: int = 3,
        best: str | None = None,
        record: dict[str, Any] | None = None,
    ):
        """best: metric whose highest value is kept beside the `keep_last` newest.

        record: of the model, saved with every step; its key "step" is set to that.
        """
        self.folder = Path(folder).resolve()
        self._keep_last, self._best = keep_last, best
        self._record = _plain(record or {})
        self._orbax = self._open()

    @property
    def latest(self) -> int | None:
        """Step of the newest complete checkpoint, None if there is none."""
        return max(self.steps, default=None)

    @property
    def best(self) -> int | None:
        """Step with the highest value of the metric `best`; ties: the newest."""
        return _best_step(self._orbax, self._best)

    @property
    def steps(self) -> list[int]:
        """Steps of all complete checkpoints, rising."""
        return [c.step for c in self._orbax.checkpoints]

    def save(
        self,
        step: int,
        state: PyTree,
        data_state: dict[str, Any] | bytes,
        metrics: dict[str, float] | None = None,
    ) -> bool:
        """Write a checkpoint; return false where `step` is on disk already.

        Returns when the checkpoint is complete, so `state` may be donated afterwards.

        Args:
          state: any pytree of arrays.
          data_state: position of the input, JSON and bytes.
          metrics: of an evaluation at this step.
        Raises: InputError for a full disk or a step older than the newest one; what
        was on disk before stays as it was.
        """
        if step in self.steps:
            return False
        if self.latest is not None and step < self.latest:
            rule = f"a newer one, step {self.latest}, is there already"
            raise InputError(self.folder, f"step {step}", rule)
        table = {path: _one_copy(x) for path, x in parameters.by_path(state).items()}
        needed = sum(x.nbytes for x in table.values()) + SPARE_BYTES
        if _free(self.folder) < needed:
            raise self._full(step, needed)
        about = {
            "record": self._record | {"step": step},
            "data": _plain(data_state),
        }
        scores: dict[str, Any] = {k: float(v) for k, v in (metrics or {}).items()}
        try:
            self._orbax.save_checkpointables(
                step,
                {"state": table},
                force=True,
                metrics=scores or None,
                custom_metadata=about,
            )
        except Exception as error:
            self._forget(step)
            if _is_disk_full(error):
                raise self._full(step, needed) from error
            raise
        return True

    def restore(
        self,
        like: PyTree,
        step: int | None = None,
        *,
        check: Callable[[dict[str, Any]], dict[str, Any] | None] = lambda record: None,
    ) -> tuple[PyTree, Any, int] | None:
        """Return (state, data_state, step) of the newest checkpoint; None without one.

        Args:
          like: the state, or its ShapeDtypeStructs; gives structure and shardings.
          step: default the newest.
          check: called with the record, to refuse it before anything is loaded; may
            return the one that is saved from here on.
        Raises: InputError, before anything is loaded, where a path, shape or dtype
          differs.
        """
        step = self.latest if step is None else step
        if step is None:
            return None
        saved = _saved(self._orbax, self.folder, step)
        self._record = _plain(check(saved.record) or self._record)
        wanted = parameters.by_path(like)
        _require_equal(self.folder, f"step {step}", saved.arrays, wanted)
        table = _load(self._orbax, self.folder, step, wanted, saved.names)
        return parameters.nested(table, like), _unplain(saved.data), step

    def close(self) -> None:
        """End Orbax's threads. The object may not be used afterwards."""
        self._orbax.close()

    def _open(self) -> v1.training.Checkpointer:
        policies = v1.training.preservation_policies
        keep = [policies.LatestN(self._keep_last)]
        if self._best is not None:
            keep.append(
                policies.BestN(
                    get_metric_fn=lambda m: _score(m, self._best),
                    n=1,
                    keep_checkpoints_without_metrics=False,
                )
            )
        return _open(
            self.folder,
            preservation_policy=policies.AnyPreservationPolicy(keep),
            cleanup_tmp_directories=True,
        )

    def _forget(self, step: int) -> None:
        if jax.process_count() > 1:  # the others are still saving; this one leaves
            return
        with contextlib.suppress(Exception):
            self._orbax.close()  # raises the error of the save once more
        # Threads of the failed save may still be writing into what is removed here.
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            for rest in self.folder.glob(f"{step}.orbax-checkpoint-tmp*"):
                shutil.rmtree(rest, ignore_errors=True)
            time.sleep(0.1)
        self._orbax = self._open()

    def _full(self, step: int, needed: int) -> InputError:
        rule = f"disk full: needs {needed} bytes, {_free(self.folder)} are free"
        return InputError(self.folder, f"step {step}", rule)


def find_step(folder: str | Path, *, best: str | None = None) -> int:
    """Return the newest step of a folder, or the one with the best such metric.

    Raises: InputError where there is no checkpoint, or none that has the metric.
    """
    folder = Path(folder).resolve()
    orbax = _open(folder) if folder.is_dir() else None
    if orbax is None or not orbax.checkpoints:
        raise InputError(folder, "", "holds no complete checkpoint")
    step = _best_step(orbax, best) if best else orbax.checkpoints[-1].step
    orbax.close()
    if step is None:
        rule = f"holds no checkpoint with '{best}': none was made with an evaluation"
        raise InputError(folder, "", rule)
    return step


def read(
    folder: str | Path,
    *,
    step: int | None = None,
    prefixes: tuple[str, ...] = ("params", "statistics"),
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the record and the arrays, by path, of a checkpoint of a folder.

    Args:
      folder: that holds the checkpoints.
      step: default the newest.
      prefixes: which parts of the saved state.
    Raises: InputError where there is no checkpoint, or it is damaged.
    """
    folder = Path(folder).resolve()
    step = find_step(folder) if step is None else step
    orbax = _open(folder)
    saved = _saved(orbax, folder, step)
    asked = {
        path: jax.ShapeDtypeStruct(x.shape, x.dtype)
        for path, x in saved.arrays.items()
        if path.split("/")[0] in prefixes
    }
    table = _load(orbax, folder, step, asked, saved.names)
    orbax.close()
    return saved.record, {k: x.addressable_data(0) for k, x in table.items()}


def read_record(folder: str | Path, step: int | None = None) -> dict[str, Any]:
    """Return the record of a checkpoint, default the newest, without its arrays."""
    return read(folder, step=step, prefixes=())[0]


def _open(folder: Path, **options: Any) -> v1.training.Checkpointer:
    # Orbax logs a dozen lines for each save, and hundreds for an error that it raises.
    logging.getLogger("absl").addFilter(_is_not_orbax)
    return v1.training.Checkpointer(str(folder), **options)


def _is_not_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in Path(record.pathname).parts


def _load(
    orbax, folder: Path, step: int, wanted: dict[str, Any], names: dict[str, str]
) -> dict[str, Any]:
    if not wanted:  # a model without statistics; Orbax knows no empty table
        return {}
    # Of several processes each reads all: Orbax knows no arrays of one of them alone.
    devices = jax.devices() if jax.process_count() > 1 else jax.devices()[:1]
    default = NamedSharding(Mesh(np.array(devices), ("data",)), PartitionSpec())
    abstract = {
        names[k]: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=getattr(x, "sharding", None) or default
        )
        for k, x in wanted.items()
    }
    context = v1.Context()
    context.pytree.loading.partial_load = True  # leaves outside `wanted` stay on disk
    try:
        with context:
            loaded = orbax.load_checkpointables(step, {"state": abstract})["state"]
    except Exception as error:
        rule = f"cannot be read: {error}"[:500]
        raise InputError(folder, f"step {step}", rule) from error
    return {k: loaded[names[k]] for k in wanted}


def _saved(orbax, folder: Path, step: int) -> Saved:
    try:
        found = orbax.checkpointables_metadata(step)
        state, about = found.metadata["state"], found.custom_metadata
        names = {_present_name(path): path for path in state}
        arrays = {path: state[name] for path, name in names.items()}
        record = about.get("record") or {
            "fingerprint": about.get("fingerprint") or {},
            "step": step,
        }
        if arrays:
            return Saved(arrays, names, dict(record), about["data"])
        reason = "its index is damaged or of another program"
    except Exception as error:
        reason = str(error) or "its index is damaged or of another program"
    there = [c.step for c in orbax.checkpoints]
    rule = f"cannot be read (steps here: {there}): {reason}"
    raise InputError(folder, f"step {step}", rule[:500])


def _present_name(path: str) -> str:
    part, slash, rest = path.partition("/")
    return f"{OLD_PARTS.get(part, part)}{slash}{rest}"


def _require_equal(
    folder: Path, record: str, saved: dict[str, Any], wanted: dict[str, Any]
) -> None:
    """Raise InputError for the first leaf that is not the same on both sides."""
    for path in [*wanted, *(p for p in saved if p not in wanted)]:
        here, there = (
            f"{tuple(t[path].shape)} {jnp.dtype(t[path].dtype).name}"
            if path in t
            else "absent"
            for t in (wanted, saved)
        )
        if here != there:
            rule = f"{path} is {there} in the checkpoint, {here} in the model"
            raise InputError(folder, record, rule)


def _best_step(orbax, metric: str | None) -> int | None:
    scored = [c for c in orbax.checkpoints if metric in (c.metrics or {})]
    best = max(scored, key=lambda c: (_score(c.metrics, metric), c.step), default=None)
    return None if best is None else best.step


def _score(metrics: dict[str, float], name: str | None) -> float:
    value = metrics.get(name or "", float("-inf"))
    return float("-inf") if value != value else value


def _plain(value: Any) -> Any:
    def encode(x):
        if isinstance(x, bytes):
            return {"base64": base64.b64encode(x).decode()}
        return x.item() if hasattr(x, "item") else str(x)

    return json.loads(json.dumps(value, default=encode))


def _unplain(value: Any) -> Any:
    def decode(x):
        return base64.b64decode(x["base64"]) if x.keys() == {"base64"} else x

    return json.loads(json.dumps(value), object_hook=decode)


def _one_copy(x) -> jax.Array:
    """An array, without the copies that other devices of this process hold.

    Of those Orbax would have each device write a part, and compile how to cut it. Those
    of other processes it has to know of.
    """
    x = jnp.asarray(x)
    whole = x.is_fully_replicated and x.is_fully_addressable
    return x.addressable_data(0) if whole else x


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _is_disk_full(error: BaseException | None) -> bool:
    while error is not None:
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        if full or "No space left" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
