"""Metrics that a run writes down: scalars as JSON lines, images as PNG.

With tensorboardX installed (extra `tb`) the same goes into TensorBoard events.
"""

import importlib.util
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from stan_jax.errors import InputError
from stan_jax.files import replacing


class MetricWriter:
    """Writer of `metrics.jsonl`, `images/` and `events/` in one workdir.

    first_step: the first step this process will write. Lines of that step and later
    ones, left by a killed process that got further than its last checkpoint, are
    dropped, so that no step stands twice; so is a half-written last line. 0 starts
    the record anew.
    """

    def __init__(self, workdir: str | Path, *, first_step: int = 0):
        self.workdir = Path(workdir)
        self.workdir.mkdir(parents=True, exist_ok=True)
        path = self.workdir / "metrics.jsonl"
        _drop(path, first_step)
        self._lines = path.open("ab", buffering=0)  # nothing is left for `close`
        self._events = _events(self.workdir / "events", first_step)

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """One line {"step": step, name: value, ...}, on disk when this returns.

        values: numbers or arrays of one element; a non-finite one is written as null.
        Raises: InputError where the disk is full.
        """
        numbers = {k: float(np.asarray(v)) for k, v in values.items()}
        plain = {k: v if math.isfinite(v) else None for k, v in numbers.items()}
        line = json.dumps({"step": int(step)} | plain) + "\n"
        try:
            self._lines.write(line.encode())
        except OSError as error:
            rule = f"cannot be written: {error.strerror or error}"
            raise InputError(self._lines.name, f"step {step}", rule) from error
        if self._events:
            for name in (k for k, v in plain.items() if v is not None):
                self._events.add_scalar(name, numbers[name], step)
            self._events.flush()

    def images(
        self, step: int, images: Mapping[str, UInt8[np.ndarray, "h w 3"]]
    ) -> None:
        """One file images/<name>/<step>.png each; a slash in a name makes a folder."""
        for name, image in images.items():
            path = self.workdir / "images" / name / f"{step:07d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as new:
                Image.fromarray(image).save(new)
            if self._events:
                self._events.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """Close the files; everything written is complete afterwards."""
        self._lines.close()
        if self._events:
            self._events.close()

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read(workdir: str | Path) -> list[dict[str, Any]]:
    """All complete lines of a workdir's `metrics.jsonl`, in the order written."""
    path = Path(workdir) / "metrics.jsonl"
    return [line for line in map(_parse, _raw_lines(path)) if line is not None]


def _drop(path: Path, first_step: int) -> None:
    lines = _raw_lines(path)
    kept = [raw for raw in lines if (line := _parse(raw)) and line["step"] < first_step]
    if kept == lines:
        return
    with replacing(path) as new:
        new.write_text("".join(kept), encoding="utf-8")


def _raw_lines(path: Path) -> list[str]:
    if not path.is_file():
        return []
    return path.read_text(encoding="utf-8").splitlines(keepends=True)


def _parse(raw: str) -> dict[str, Any] | None:
    if not raw.endswith("\n"):
        return None
    try:
        line = json.loads(raw)
    except json.JSONDecodeError:
        return None
    return line if isinstance(line, dict) and "step" in line else None


def _events(folder: Path, first_step: int):
    if importlib.util.find_spec("tensorboardX") is None:
        return None
    from tensorboardX import SummaryWriter

    # TensorBoard itself hides the events of an earlier process from that step on.
    return SummaryWriter(str(folder), purge_step=first_step)
