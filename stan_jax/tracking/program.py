"""The tracker's program in JAX: the walk over frames, compiled for each canvas."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from stan_jax import compiling
from stan_jax.errors import InputError
from stan_jax.model import parameters
from stan_jax.model.parameters import Parameters
from stan_jax.model.stan import Thresholds
from stan_jax.ops import canvas as canvases
from stan_jax.tracking import rollout
from stan_jax.tracking.memory import Association
from stan_jax.tracking.tracker import TICKS, Tracker
from stan_jax.types import MemoryQueue


class Settings(NamedTuple):
    """Settings that a trained model tracks with; none changes its parameters.

    Args:
      canvas: landscape (height, width) in pixels that frames are padded to; portrait
        videos get its transpose.
      scale_hw: bounds of the sides of a frame inside it.
      clip_length: frames that go through the model at once in `Tracker.track`.
      slots: tracks that the memory holds.
      first_frame: see `rollout.clip`.
      legacy_paste: see `masks.paste`.
      dtype: of the computation, "float32" or "bfloat16".
      association: how detections are matched to tracks.
      thresholds: which detections are kept.
    """

    canvas: tuple[int, int]
    scale_hw: tuple[int, int]
    clip_length: int
    slots: int
    first_frame: str
    legacy_paste: bool
    dtype: str
    association: Association
    thresholds: Thresholds


class Program:
    """The compiled walk over frames; parameters are an argument.

    One program is traced for each canvas orientation and number of frames.
    Raises: InputError where the settings do not suit the model or one another; found
    here, not after hours of training.
    """

    def __init__(self, structure: Any, like: Parameters, settings: Settings):
        """structure, like: of the model, see `parameters.split`; no value is kept."""
        canvases.check(settings.canvas, [settings.scale_hw])
        parameters.check_dtype(settings.dtype)
        for name in ("clip_length", "slots"):
            if (value := getattr(settings, name)) < 1:
                raise InputError(name, "", f"must be above 0, is {value}")
        self.settings = settings
        self.traces = 0
        self.ran = False  # else it is compiled when the first frames come
        self._structure = structure
        self.like = like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), like
        )
        self._empty: dict[tuple[int, int], MemoryQueue] = {}  # by canvas
        association = settings.association
        if association.expire_after is not None:
            if (value := association.expire_after) < 1:
                raise InputError("expire_after", "", f"must be above 0, is {value}")
            association = association._replace(expire_after=TICKS * value)

        def clip(values, memory, frames, size_hw, valid, clock):
            self.traces += 1  # runs while tracing only
            return rollout.clip(
                self.model(values),
                memory,
                frames,
                size_hw,
                valid,
                thresholds=settings.thresholds,
                association=association,
                first_frame=settings.first_frame,
                clock=clock,
            )

        # Two: one that others may trace into theirs, one with options of the compiler.
        self.traced = traced = jax.jit(clip)
        self.clip = compiling.jit_for_frames(lambda *given: traced(*given))
        # The trace is kept for the first landscape video.
        jax.eval_shape(
            self.traced, like, *self.shapes(settings.clip_length, settings.canvas)
        )

    @property
    def paths(self) -> list[str]:
        """Paths of the parameters that it reads."""
        return sorted(parameters.by_path(self.like))

    def model(self, values: Parameters) -> Any:
        """Return the model itself with these parameters, for a look inside."""
        return parameters.merge(self._structure, values, self.settings.dtype)

    def shapes(self, length: int, canvas_hw: tuple[int, int]) -> tuple[Any, ...]:
        """Return what `clip` takes behind the parameters, as shapes."""
        return (
            jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self.empty(canvas_hw)
            ),
            jax.ShapeDtypeStruct((length, *canvas_hw, 3), jnp.uint8),
            jax.ShapeDtypeStruct((2,), jnp.int32),
            jax.ShapeDtypeStruct((length,), bool),
            jax.ShapeDtypeStruct((length,), jnp.int32),
        )

    def empty(self, canvas_hw: tuple[int, int]) -> MemoryQueue:
        """Return the memory of a video that has not begun."""
        if canvas_hw not in self._empty:

            def start(values):
                model = self.model(values)
                return rollout.start(model, canvas_hw, slots=self.settings.slots)

            self._empty[canvas_hw] = zeros(jax.eval_shape(start, self.like))
        return self._empty[canvas_hw]


def zeros(shapes: MemoryQueue) -> MemoryQueue:
    """Return a memory of zeros; of NumPy, which needs no compiling."""
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)


class _Placed:
    """A program whose videos begin on a device."""

    def __init__(self, program: Any, device: jax.Device):
        self._program, self._device = program, device
        self.ran = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._program, name)

    def empty(self, canvas_hw: tuple[int, int]) -> MemoryQueue:
        return jax.device_put(self._program.empty(canvas_hw), self._device)


def on_device(tracker: Tracker, device: jax.Device) -> Tracker:
    """Return the same tracker on a device, with parameters of its own there."""
    values = jax.device_put(tracker.parameters, device)
    return Tracker(_Placed(tracker.program, device), values, tracker.categories)
