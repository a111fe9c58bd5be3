"""A tracker that `stan export` wrote as one file, in a runtime without JAX."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stan_jax.errors import InputError
from stan_jax.runtimes import names, seal, sessions
from stan_jax.runtimes.sessions import Session
from stan_jax.tracking.tracker import Tracker
from stan_jax.types import MemoryQueue, Tracks

SUFFIX = ".onnx"


class ExportedSettings(NamedTuple):
    """What a file was exported with, as far as a tracker must know it.

    Args:
      canvas: landscape (height, width), whichever the file is for.
      scale_hw: bounds of the sides of a frame inside it.
      clip_length: frames of a call.
      legacy_paste: see `masks.paste`.
      score_threshold: of a detection.
    """

    canvas: tuple[int, int]
    scale_hw: tuple[int, int]
    clip_length: int
    legacy_paste: bool
    score_threshold: float


class ExportedProgram:
    """The walk over frames that a file holds, with its parameters.

    session: of the file. path: what errors call it.
    """

    def __init__(self, session: Session, path: Path):
        about = session.metadata
        if about.get("format") != names.FORMAT:
            rule = f"is no tracker of stan export, format {names.FORMAT}"
            raise InputError(path, "", rule, "export it anew")
        self._session, self._path = session, path
        height, width = json.loads(about["canvas"])
        self._canvas_hw, length = (height, width), json.loads(about["clip"])
        self._length: int | None = length
        self.settings = ExportedSettings(
            canvas=(min(height, width), max(height, width)),
            scale_hw=tuple(json.loads(about["scale_hw"])),
            clip_length=length or 1,
            legacy_paste=json.loads(about["tracking"])["legacy_paste"],
            score_threshold=json.loads(about["thresholds"])["score_threshold"],
        )
        self.categories = tuple(json.loads(about["classes"]))
        self.ran = True  # what had to be compiled was so when the file was opened

    def empty(self, canvas_hw: tuple[int, int]) -> MemoryQueue:
        """Return the memory of a video that has not begun.

        Raises: InputError for a canvas that the file is not for.
        """
        if canvas_hw != self._canvas_hw:
            kinds = [_kind(hw) for hw in (self._canvas_hw, canvas_hw)]
            rule = f"tracks {kinds[0]} videos, not {kinds[1]} ones"
            cure = f"stan export --canvas {canvas_hw[0]},{canvas_hw[1]}"
            raise InputError(self._path, "", rule, cure)
        return names.nested(
            {
                name.removeprefix(names.MEMORY): np.zeros(*given)
                for name, given in self._session.inputs.items()
                if name.startswith(names.MEMORY)
            }
        )

    def clip(
        self,
        values: Any,  # which the file has
        memory: MemoryQueue,
        frames: Any,
        size_hw: Any,
        valid: Any,
        clock: Any,
    ) -> tuple[MemoryQueue, Tracks]:
        """Return the memory after some frames, and their tracks; see `rollout.clip`.

        frames: as many as in a clip of the file, or fewer; there are tracks of as many
        as are in a clip.
        """
        given = {names.SIZE: size_hw}
        if self._length is None:
            given |= {names.FRAME: frames[0], names.CLOCK: clock[0]}
        else:
            missing = self._length - len(frames)
            given |= {
                names.FRAMES: _longer(frames, missing),
                names.SEEN: _longer(valid, missing),
                names.CLOCK: _longer(clock, missing),
            }
        kept = {names.MEMORY + name: x for name, x in names.flat(memory).items()}
        found = self._session.run({k: np.asarray(x) for k, x in (given | kept).items()})
        tracks = Tracks(*(found[name] for name in Tracks._fields))
        if self._length is None:
            tracks = Tracks(*(x[None] for x in tracks))
        new = {name: found[names.NEW + name] for name in names.flat(memory)}
        return names.nested(new), tracks


def open_exported(path: str | Path, runtime: str = "onnxruntime") -> Tracker:
    """Return the tracker of a file that `stan export --format onnx` wrote.

        tracker = stan_jax.open_exported("tracker.onnx", "openvino")

    Needs no JAX. What it detects and how it tracks was fixed when it was exported.
    runtime: onnxruntime or openvino.
    Raises: InputError for a file that is cut or changed or no tracker, for a runtime
    that is not there; when it tracks, for a video of the other orientation.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(path, "", "there is no such file")
    if not path.is_file():
        raise InputError(path, "", "must be a file of stan export --format onnx")
    seal.check(path)
    program = ExportedProgram(sessions.open_session(path, runtime), path)
    return Tracker(program, None, program.categories)


def _kind(canvas_hw: tuple[int, int]) -> str:
    return "portrait" if canvas_hw[0] > canvas_hw[1] else "landscape"


def _longer(rows: Any, missing: int) -> np.ndarray:
    """Rows with zeros behind them."""
    rows = np.asarray(rows)
    return np.concatenate([rows, np.zeros((missing, *rows.shape[1:]), rows.dtype)])
