"""A tracker for frames from anywhere: arrays in, tracks with masks of true size out."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from stan_jax.errors import InputError
from stan_jax.masks import codec
from stan_jax.masks.codec import RLE
from stan_jax.model import parameters
from stan_jax.model.parameters import Parameters
from stan_jax.model.stan import Thresholds
from stan_jax.ops import canvas as canvases
from stan_jax.ops import masks
from stan_jax.tracking import rollout
from stan_jax.tracking.memory import Association
from stan_jax.types import MemoryQueue, Tracks

PIECE = 1 << 24  # pixels of masks that are pasted at once: 64 MB as probabilities


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


class State(NamedTuple):
    """Everything a video leaves behind for its next frame: save it, resume it."""

    memory: MemoryQueue
    size_hw: tuple[int, int]  # of the frames, in pixels


class FrameTracks(NamedTuple):
    """The tracks in one frame, in its own pixels; one row a track, best score first.

    Masks are kept as run lengths, so that a frame of any size takes little memory.
    """

    index: int  # of the frame in its video
    size_hw: tuple[int, int]
    ids: Int[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]
    scores: Float[np.ndarray, " n"]
    boxes: Float[np.ndarray, "n 4"]  # half-open xyxy
    segmentations: tuple[RLE, ...]
    evicted: int  # tracks of this video that a full memory has dropped so far

    @property
    def masks(self) -> Bool[np.ndarray, "n h w"]:
        """The masks as pixels, decoded anew at each call."""
        decoded = [codec.decode(rle) for rle in self.segmentations]
        return np.array(decoded, bool).reshape(len(decoded), *self.size_hw)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return ids, labels, scores, boxes and masks by name."""
        names = ("ids", "labels", "scores", "boxes", "masks")
        return {name: getattr(self, name) for name in names}

    def above(self, score: float) -> "FrameTracks":
        """Return the rows with at least this score."""
        rows = np.flatnonzero(self.scores >= score)
        return self._replace(
            **{k: getattr(self, k)[rows] for k in ("ids", "labels", "scores", "boxes")},
            segmentations=tuple(self.segmentations[row] for row in rows),
        )


class Program:
    """The compiled walk over frames; parameters are an argument.

    One program is traced for each canvas orientation and number of frames.
    Raises: InputError where the settings do not suit the model or one another; found
    here, not after hours of training.
    """

    def __init__(self, structure: Any, like: Parameters, settings: Settings):
        """structure, like: of the model, see `parameters.split`; no value is read."""
        canvases.check(settings.canvas, [settings.scale_hw])
        parameters.check_dtype(settings.dtype)
        for name in ("clip_length", "slots"):
            if (value := getattr(settings, name)) < 1:
                raise InputError(name, "", f"must be above 0, is {value}")
        self.settings = settings
        self.traces = 0
        self._structure, self._like = structure, like
        self._empty: dict[tuple[int, int], MemoryQueue] = {}  # by canvas

        def clip(values, memory, frames, size_hw, valid):
            self.traces += 1  # runs while tracing only
            return rollout.clip(
                parameters.merge(structure, values, settings.dtype),
                memory,
                frames,
                size_hw,
                valid,
                thresholds=settings.thresholds,
                association=settings.association,
                first_frame=settings.first_frame,
            )

        self.clip = jax.jit(clip)
        # The trace is kept for the first landscape video.
        length = settings.clip_length
        jax.eval_shape(
            self.clip,
            like,
            self.empty(settings.canvas),
            jax.ShapeDtypeStruct((length, *settings.canvas, 3), jnp.uint8),
            jax.ShapeDtypeStruct((2,), jnp.int32),
            jax.ShapeDtypeStruct((length,), bool),
        )

    def empty(self, canvas_hw: tuple[int, int]) -> MemoryQueue:
        """Return the memory of a video that has not begun."""
        if canvas_hw not in self._empty:

            def start(values):
                model = parameters.merge(self._structure, values, self.settings.dtype)
                return rollout.start(model, canvas_hw, slots=self.settings.slots)

            shapes = jax.eval_shape(start, self._like)
            self._empty[canvas_hw] = jax.tree.map(
                lambda x: jnp.zeros(x.shape, x.dtype), shapes
            )
        return self._empty[canvas_hw]


class Tracker:
    """A program with parameters: tracks the objects of any frames.

        state = tracker.start((height, width))
        state, tracks = tracker.step(state, frame)      # one frame after another
        for tracks in tracker.track(frames): ...        # or a clip at a time

    Frames are RGB, uint8 [height width 3], and need not fit the canvas: they are scaled
    to it, and the masks back. Both ways give the same tracks; memory does not grow.

    categories: names of the classes by label.
    """

    def __init__(
        self, program: Program, values: Parameters, categories: Sequence[str] = ()
    ):
        self.program, self.parameters = program, values
        self.categories = tuple(categories)

    @property
    def settings(self) -> Settings:
        """Settings of its program."""
        return self.program.settings

    # What users hand in has no type here, so that their mistakes get our own words.
    def start(self, size_hw: Any) -> State:
        """Return the state before the first frame of a video.

        size_hw: (height, width) of its frames in pixels.
        Raises: InputError for anything else.
        """
        size_hw = _checked_size(size_hw)
        canvas_hw = canvases.canvas_of(*size_hw, self.settings.canvas)
        return State(self.program.empty(canvas_hw), size_hw)

    def fitted_hw(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """Return the height and width at which the model sees frames of this size."""
        canvas_hw = canvases.canvas_of(*size_hw, self.settings.canvas)
        return canvases.fit(*size_hw, canvas_hw, self.settings.scale_hw)[1:]

    def step(self, state: Any, frame: Any) -> tuple[State, FrameTracks]:
        """Return the state after one more frame, and the tracks in it.

        state: what `start` or `step` returned. frame: RGB, uint8 [height width 3].
        Raises: InputError for a frame that is no RGB picture of the size that the state
        was started for, or a state of another tracker.
        """
        self._check_state(state)
        index = int(state.memory.frame)
        checked = _checked_frame(frame, [state.size_hw], f"frame {index}")
        memory, tracks = self._clip(state, [checked], 1)
        return State(memory, state.size_hw), next(self._shown(state, tracks, 1))

    def track(
        self,
        frames: Any,
        *,
        size_hw: Any = None,
    ) -> Iterator[FrameTracks]:
        """Return an iterator over the tracks in each frame of a video, clip by clip.

        Args:
          frames: any iterable of RGB frames, uint8 [height width 3], of any length.
          size_hw: true size of the video, where frames may also come as small as
            `fitted_hw`; default: that of the first frame.
        Raises: InputError for frames that are no RGB pictures of one size.
        """
        _check_iterable(frames)  # at once, not when the first frame is asked for
        start = None if size_hw is None else self.start(size_hw)
        return self._tracked(iter(frames), start)

    def _tracked(self, rest: Iterator, state: State | None) -> Iterator[FrameTracks]:
        sizes = []
        if state is not None:
            sizes = [state.size_hw, self.fitted_hw(state.size_hw)]
        index, length = 0, self.settings.clip_length
        while clip := list(itertools.islice(rest, length)):
            if state is None:
                first = _checked_frame(clip[0], None, "frame 0")
                state = self.start(first.shape[:2])
                sizes = [state.size_hw]
            checked = [
                _checked_frame(frame, sizes, f"frame {index + i}")
                for i, frame in enumerate(clip)
            ]
            memory, tracks = self._clip(state, checked, length)
            yield from self._shown(state, tracks, len(clip))
            state = State(memory, state.size_hw)
            index += len(clip)

    def _clip(
        self, state: State, frames: list[np.ndarray], length: int
    ) -> tuple[MemoryQueue, Tracks]:
        """Run the program on frames of the canvas, filled up to `length`."""
        canvas_hw = canvases.canvas_of(*state.size_hw, self.settings.canvas)
        h, w = self.fitted_hw(state.size_hw)
        padded = np.zeros((length, *canvas_hw, 3), np.uint8)
        for row, frame in zip(padded, frames, strict=False):
            row[:h, :w] = canvases.resize_frame(frame, (h, w))
        valid = np.arange(length) < len(frames)
        size = np.array([h, w], np.int32)
        return self.program.clip(self.parameters, state.memory, padded, size, valid)

    def _shown(
        self, before: State, tracks: Tracks, count: int
    ) -> Iterator[FrameTracks]:
        """Yield what the first `count` frames of a clip show."""
        size = np.array(self.fitted_hw(before.size_hw), np.int32)
        paste = partial(
            _paste,
            size_hw=size,
            frame_hw=before.size_hw,
            legacy=self.settings.legacy_paste,
        )
        ids, labels, scores, evicted = map(
            np.asarray, (tracks.ids, tracks.labels, tracks.scores, tracks.evicted)
        )
        valid = np.asarray(tracks.valid)
        kept = [_last_of_each_id(i, v) for i, v in zip(ids, valid, strict=True)]
        rows = [(t, n) for t in range(count) for n in np.flatnonzero(kept[t]).tolist()]
        pasted = _in_pieces(tracks, rows, paste, before.size_hw)
        first = int(before.memory.frame)
        for t in range(count):
            number = np.flatnonzero(kept[t])
            boxes, codes = [], []
            for box, code in itertools.islice(pasted, len(number)):
                boxes.append(box)
                codes.append(code)
            yield FrameTracks(
                first + t,
                before.size_hw,
                ids[t][number],
                labels[t][number],
                scores[t][number],
                np.array(boxes, np.float32).reshape(-1, 4),
                tuple(codes),
                int(evicted[t]),
            )

    def _check_state(self, state: Any) -> None:
        if not isinstance(state, State):
            rule = "must be what start or step returned"
            raise InputError("state", "", f"{rule}, is a {type(state).__name__}")
        wanted = self.start(state.size_hw).memory
        sides = [
            [(x.shape, x.dtype) for x in jax.tree.leaves(memory)]
            for memory in (wanted, state.memory)
        ]
        if sides[0] != sides[1]:
            rule = "is of another tracker or canvas; begin with tracker.start(size_hw)"
            raise InputError("state", "", rule)


def _in_pieces(
    tracks: Tracks, rows: list[tuple[int, int]], paste, frame_hw: tuple[int, int]
) -> Iterator[tuple[np.ndarray, RLE]]:
    """Yield box and mask of each row, few masks as pixels at any time."""
    if not rows:
        return
    total = tracks.valid.size
    size = max(1, min(total, PIECE // (frame_hw[0] * frame_hw[1])))
    probs, boxes = np.asarray(tracks.masks), np.asarray(tracks.boxes)
    for begin in range(0, len(rows), size):
        t, n = np.array(rows[begin : begin + size]).T
        rest = size - len(t)  # rows of the last piece without area, which stay empty
        piece = (
            np.pad(probs[t, n], ((0, rest), (0, 0), (0, 0))),
            np.pad(boxes[t, n], ((0, rest), (0, 0))),
        )
        scaled, drawn = map(np.asarray, paste(*piece))
        for row in range(len(t)):
            yield scaled[row], codec.encode(drawn[row])


@partial(jax.jit, static_argnames=("frame_hw", "legacy"))
def _paste(
    probs: Float[jax.Array, "n p p"],
    boxes: Float[jax.Array, "n 4"],
    *,
    size_hw: Int[jax.Array, "2"],
    frame_hw: tuple[int, int],
    legacy: bool,
) -> tuple[jax.Array, jax.Array]:
    """Return boxes [n 4] in pixels of the frame, and masks [n h w].

    size_hw: size at which the model saw the frame. legacy: as the original code does
    it, which takes the last pixel of a box to the larger frame.
    """
    scale_yx = jnp.asarray(frame_hw, jnp.float32) / size_hw
    last = jnp.array([0, 0, 1, 1]) * float(legacy)
    boxes = boxes - last[None]
    boxes = boxes * jnp.tile(scale_yx[::-1], 2)[None] + last[None]
    soft = masks.paste(probs, boxes, frame_hw, legacy=legacy)
    return boxes, soft > 0.5 if legacy else soft >= 0.5


def _last_of_each_id(
    ids: Int[np.ndarray, " n"], valid: Bool[np.ndarray, " n"]
) -> Bool[np.ndarray, " n"]:
    """Valid rows that have no later valid row of the same id."""
    last = {int(ids[n]): n for n in np.flatnonzero(valid)}
    return np.isin(np.arange(len(ids)), list(last.values()))


def _check_iterable(frames: Any) -> None:
    if isinstance(frames, str | bytes) or not isinstance(frames, Iterable):
        rule = "must be an iterable of RGB pictures, uint8 [height width 3]"
        raise InputError("frames", "", f"{rule}, is a {type(frames).__name__}")
    if isinstance(frames, np.ndarray) and frames.ndim == 3:
        rule = f"is one picture {list(frames.shape)}: use [frame], or tracker.step"
        raise InputError("frames", "", rule)


def _checked_size(size_hw: Any) -> tuple[int, int]:
    try:
        height, width = (int(x) for x in size_hw)
        whole = (height, width) == tuple(size_hw)
    except (TypeError, ValueError):
        whole = False
    if not whole:
        rule = f"must be two whole numbers, (height, width), is {size_hw!r:.40}"
        raise InputError("size_hw", "", rule)
    if height < 1 or width < 1:
        rule = f"height and width must be at least 1, are {height} and {width}"
        raise InputError("size_hw", "", rule)
    return height, width


def _checked_frame(
    frame: Any, sizes: Sequence[tuple[int, int]] | None, record: str
) -> UInt8[np.ndarray, "h w 3"]:
    """The frame as an array. Raises: InputError for what is no RGB picture."""
    if not (hasattr(frame, "shape") and hasattr(frame, "dtype")):
        rule = "must be an array uint8 [height width 3]"
        rule = f"{rule}, is a {type(frame).__name__}: np.asarray(picture) of a picture"
        raise InputError("frames", record, rule)
    shape = tuple(frame.shape)
    if len(shape) != 3 or shape[2] != 3 or 0 in shape:
        advice = ""
        if len(shape) == 3 and shape[2] == 4:
            advice = ": leave out alpha, frame[..., :3]"
        elif len(shape) == 2 or (len(shape) == 3 and shape[2] == 1):
            advice = ": a grey picture needs its channel three times"
        elif len(shape) == 3 and shape[0] == 3:
            advice = ": channels come last, frame.transpose(1, 2, 0)"
        elif len(shape) == 4:
            advice = ": pass frames one at a time"
        rule = f"must be [height width 3], is {list(shape)}{advice}"
        raise InputError("frames", record, rule)
    if frame.dtype != np.uint8:
        advice = "np.uint8(255 * frame) if it lies in 0..1"
        rule = f"must be uint8 in 0..255, is {frame.dtype}: {advice}"
        raise InputError("frames", record, rule)
    if sizes is not None and shape[:2] not in sizes:
        wanted = " or ".join(f"{h} x {w}" for h, w in dict.fromkeys(sizes))
        rule = f"must be {wanted} (height x width), is {shape[0]} x {shape[1]}"
        if shape[1::-1] in sizes:
            rule += ": are height and width swapped?"
        raise InputError("frames", record, rule)
    return np.asarray(frame)
