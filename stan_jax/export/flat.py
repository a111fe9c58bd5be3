"""A tracker as one function of arrays by name, for runtimes that know no pytrees."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from stan_jax import __version__, presets
from stan_jax.errors import InputError
from stan_jax.model import parameters
from stan_jax.pretrained import load, record
from stan_jax.pretrained.record import Record
from stan_jax.runtimes import names
from stan_jax.tracking.program import Program
from stan_jax.tracking.tracker import FRAMES_PER_S, TICKS
from stan_jax.types import Tracks


class FlatTracker:
    """The walk of a tracker over one frame, or a clip of them, without any record.

    Inputs are `frame` or `frames`, `size_hw`, `clock`, for a clip `frames_valid`, and
    the parts of the memory as `memory_*`. Results are the fields of `Tracks`, in rows
    that are not valid 0 (ids -1), and the memory for the next call as `new_memory_*`.

    Args:
      found: the model and how it tracks; it computes in float32, whatever that says.
      weights: arrays of the model by path; others are left out.
      canvas_hw: of the frames; default that of the model. Frames are fitted to all of
        another one.
      length: frames of a clip; None: one frame, without that axis.
    Raises: InputError where the settings do not suit the model or one another.
    """

    def __init__(
        self,
        found: Record,
        weights: Mapping[str, Any],
        *,
        canvas_hw: tuple[int, int] | None = None,
        length: int | None = None,
    ):
        if length is not None and length < 1:
            raise InputError("clip", "", f"must be above 0, is {length}")
        settings = found.settings._replace(dtype="float32", clip_length=length or 1)
        self.canvas_hw = canvas_hw or settings.canvas
        landscape = min(self.canvas_hw), max(self.canvas_hw)
        if landscape != settings.canvas:
            settings = settings._replace(canvas=landscape, scale_hw=landscape)
        self.length, self.record = length, found._replace(settings=settings)
        self._program = Program(*load.blueprint(found), settings)
        self.weights = {path: np.asarray(weights[path]) for path in self._program.paths}
        self.memory = names.flat(self._program.empty(self.canvas_hw))

    @property
    def inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of the inputs, in the order of the models."""
        _, frames, size_hw, valid, clock = self._program.shapes(
            self.length or 1, self.canvas_hw
        )
        table = {
            names.FRAMES: frames,
            names.SIZE: size_hw,
            names.SEEN: valid,
            names.CLOCK: clock,
        }
        if self.length is None:
            frame = jax.ShapeDtypeStruct(frames.shape[1:], frames.dtype)
            now = jax.ShapeDtypeStruct((), clock.dtype)
            table = {names.FRAME: frame, names.SIZE: size_hw, names.CLOCK: now}
        return table | {
            names.MEMORY + name: jax.ShapeDtypeStruct(x.shape, x.dtype)
            for name, x in self.memory.items()
        }

    @property
    def outputs(self) -> list[str]:
        """Names of the results, in the order of the models."""
        return [*Tracks._fields, *(names.NEW + name for name in self.memory)]

    def __call__(
        self, weights: Mapping[str, Any], inputs: Mapping[str, Any]
    ) -> dict[str, Array]:
        """Return the results by name, given weights by path and inputs by name."""
        rest = dict(inputs)
        if self.length is None:
            rest[names.FRAMES] = rest.pop(names.FRAME)[None]
            rest[names.CLOCK] = rest[names.CLOCK][None]
            rest[names.SEEN] = jnp.ones(1, bool)
        memory = names.nested({k: rest[names.MEMORY + k] for k in self.memory})
        order = names.FRAMES, names.SIZE, names.SEEN, names.CLOCK
        new, tracks = self._program.traced(
            parameters.nested(weights, self._program.like),
            memory,
            *(rest[name] for name in order),
        )
        if self.length is None:
            tracks = jax.tree.map(lambda x: x[0], tracks)
        results = _blank(tracks)._asdict()
        return results | {names.NEW + name: x for name, x in names.flat(new).items()}

    def metadata(self) -> dict[str, str]:
        """Return what a program needs to know of the model beside it, as json texts."""
        about = record.to_json(self.record)
        about.pop("origin")  # may be a path of whoever trained it
        classes = about.pop("categories")
        values = about | {
            "format": names.FORMAT,
            "canvas": list(self.canvas_hw),
            "clip": self.length,
            "classes": classes,
            "preset": presets.name_of(self.record.conventions),
            "input": "RGB, uint8, upper left; mean and deviation are taken off inside",
            "clock_per_frame": TICKS,
            "clock_per_second": TICKS * FRAMES_PER_S,
            "stan_jax": __version__,
            "jax": jax.__version__,
        }
        return {
            name: value if isinstance(value, str) else json.dumps(value)
            for name, value in values.items()
        }


def tracker_of(
    source: str | Path, found: Record, arrays: Mapping[str, Any], **options: Any
) -> FlatTracker:
    """Return the tracker of what `load.read` gave; options: see `FlatTracker`.

    Raises: InputError for a source without some of the arrays, and as `FlatTracker`.
    """
    paths = parameters.by_path(load.blueprint(found)[1])
    load.require(source, list(paths), arrays)
    return FlatTracker(found, arrays, **options)


def _blank(tracks: Tracks) -> Tracks:
    """Tracks with nothing in rows that are not valid, where runtimes differ."""

    def kept(x, other):
        sides = tracks.valid.ndim, x.ndim
        valid = tracks.valid.reshape(*tracks.valid.shape, *[1] * (sides[1] - sides[0]))
        return jnp.where(valid, x, other)

    shown = ("boxes", "labels", "scores", "masks")
    values = {name: kept(getattr(tracks, name), 0) for name in shown}
    return tracks._replace(**values, ids=kept(tracks.ids, -1))
