"""A tracker for frames from anywhere: arrays in, tracks with masks of true size out.

What computes is handed to it: the program in JAX, or a file in another runtime. Needs
no JAX itself.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from stan_jax.errors import InputError
from stan_jax.masks import codec
from stan_jax.masks.codec import RLE
from stan_jax.masks.paste import paste
from stan_jax.media.open import open_source
from stan_jax.media.source import Frame, Source, Window
from stan_jax.ops import canvas as canvases
from stan_jax.tracking.frame_tracks import FrameTracks
from stan_jax.types import MemoryQueue, Tracks

# `expire_after` counts frames of the sets that models learn from: YouTube-VIS has 6 of
# them a second. Frames with times of their own are counted so, whatever their rate.
FRAMES_PER_S = 6
TICKS = 1000  # of the memory's clock, from one such frame to the next


class State(NamedTuple):
    """Everything a video leaves behind for its next frame: save it, resume it."""

    memory: MemoryQueue
    size_hw: tuple[int, int]  # of the frames, in pixels
    before: int = 0  # frames of the video that the memory has been cleared of

    @property
    def seen(self) -> int:
        """Number of frames of the video so far."""
        return self.before + int(self.memory.frame)


class Tracker:
    """A program with parameters: tracks the objects of any frames.

        state = tracker.start(height, width)
        state, tracks = tracker.step(state, frame)      # one frame after another
        for tracks in tracker.track(frames): ...        # or a clip at a time

    Frames are RGB, uint8 [height width 3], and need not fit the canvas: they are scaled
    to it, and the masks back. Both ways give the same tracks; memory does not grow.

    Args:
      program: that walks over the frames, with `settings`, `empty`, `clip` and `ran`
        of a `Program`; of its settings `canvas`, `scale_hw`, `clip_length` and
        `legacy_paste` are enough.
      values: its parameters.
      categories: names of the classes by label.
    """

    def __init__(self, program: Any, values: Any, categories: Sequence[str] = ()):
        self.program, self.parameters = program, values
        self.categories = tuple(categories)

    @property
    def settings(self) -> Any:
        """Settings of its program."""
        return self.program.settings

    # What users hand in has no type here, so that their mistakes get our own words.
    def start(self, height: Any, width: Any = None) -> State:
        """Return the state before the first frame of a video.

        height, width: of its frames in pixels; one pair will do as well.
        Raises: InputError for anything else.
        """
        size_hw = _checked_size(height if width is None else (height, width))
        canvas_hw = canvases.canvas_of(*size_hw, self.settings.canvas)
        return State(self.program.empty(canvas_hw), size_hw)

    def fitted_hw(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """Return the height and width at which the model sees frames of this size."""
        canvas_hw = canvases.canvas_of(*size_hw, self.settings.canvas)
        return canvases.fit(*size_hw, canvas_hw, self.settings.scale_hw)[1:]

    def on_canvas(
        self,
        images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
        size_hw: tuple[int, int],
        length: int,
    ) -> tuple[UInt8[np.ndarray, "t fh fw 3"], Int[np.ndarray, "2"]]:
        """Return pictures as the model sees them, and their size on the canvas.

        Args:
          images: of one video, in their own size or as small as `fitted_hw`.
          size_hw: true size of the video.
          length: how many there are to be; black ones fill up.
        """
        h, w = self.fitted_hw(size_hw)
        canvas_hw = canvases.canvas_of(*size_hw, self.settings.canvas)
        padded = np.zeros((length, *canvas_hw, 3), np.uint8)
        for i, image in enumerate(images):
            padded[i, :h, :w] = canvases.resize_frame(image, (h, w))
        return padded, np.array([h, w], np.int32)

    def step(
        self, state: Any, frame: Any, *, seconds: float | None = None
    ) -> tuple[State, FrameTracks]:
        """Return the state after one more frame, and the tracks in it.

        Args:
          state: what `start` or `step` returned.
          frame: RGB, uint8 [height width 3].
          seconds: since the video began; tracks expire by it if it is given.
        Raises: InputError for a frame that is no RGB picture of the size that the state
        was started for, or a state of another tracker.
        """
        self._check_state(state)
        image = checked_frame(frame, [state.size_hw], f"frame {state.seen}")
        state, shown = self._clip(state, [Frame(image, seconds)], 1)
        return state, next(shown)

    def track(self, frames: Any, **options: Any) -> Iterator[FrameTracks]:
        """Return an iterator over the tracks in each frame of a video, clip by clip.

            for frame in tracker.track("street.mp4", every=2):
                frame.seconds, frame.ids, frame.classes, frame.masks

        Arguments and errors as of `pairs`.
        """
        return (tracks for _, tracks in self.pairs(frames, **options))

    def pairs(
        self,
        frames: Any,
        *,
        size_hw: Any = None,
        fps: float | int | None = None,
        start: float | int = 0.0,
        end: float | int = float("inf"),
        every: int = 1,
        max_frames: int | None = None,
        new_at_cuts: bool = False,
    ) -> Iterator[tuple[Frame, FrameTracks]]:
        """Return an iterator over each frame of a video and the tracks in it.

        Args:
          frames: a video file, a folder or glob of images, the number of a camera or an
            address as text (see `media.open`), a `Source`, or any iterable of RGB
            frames, uint8 [height width 3], of any length.
          size_hw: true size of the video, where frames may also come as small as
            `fitted_hw`; default: that of the first frame.
          fps: frames a second of images, which have no times.
          start, end, every, max_frames, new_at_cuts: see `Window`; of what is named.
        Raises: InputError for frames that are no RGB pictures of one size.
        """
        window = Window(start, end, every, max_frames, new_at_cuts)
        if isinstance(frames, str | Path):
            rate = {} if fps is None else {"frames_per_s": float(fps)}
            return self._followed(open_source(frames, window, **rate))
        if window != Window():
            rule = "are for files, folders and addresses: choose frames before"
            raise InputError("start, end, every, max_frames, new_at_cuts", "", rule)
        _check_iterable(frames)  # at once, not when the first frame is asked for
        begun = None if size_hw is None else self.start(size_hw)
        return self._tracked(_with_times(frames, fps), begun, self._length(frames))

    def _followed(self, source: Source) -> Iterator[tuple[Frame, FrameTracks]]:
        with source:
            yield from self._tracked(iter(source), None, self._length(source))

    def _length(self, frames: Any) -> int:
        """Frames at once: of a camera each by itself, as soon as it is there."""
        live = isinstance(frames, Source) and frames.live
        return 1 if live else self.settings.clip_length

    def _tracked(
        self, frames: Iterator[Frame], state: State | None, length: int
    ) -> Iterator[tuple[Frame, FrameTracks]]:
        sizes, index = None, 0
        if state is not None:
            sizes = [state.size_hw, self.fitted_hw(state.size_hw)]
        for clip in _clips(frames, length):
            first = f"frame {index}"
            if state is None or (clip[0].fresh and index):
                size = checked_frame(clip[0].image, None, first).shape[:2]
                state, sizes = self._renewed(state, size), [size]
            checked = []
            for i, frame in enumerate(clip):
                image = checked_frame(frame.image, sizes, f"frame {index + i}")
                checked.append(frame._replace(image=image))
            state, shown = self._clip(state, checked, length)
            yield from zip(checked, shown, strict=True)
            index += len(clip)

    def _renewed(self, state: State | None, size_hw: tuple[int, int]) -> State:
        """A state that remembers nothing but which ids and frames have been."""
        new = self.start(size_hw)
        if state is None:
            return new
        kept = {k: getattr(state.memory, k) for k in ("next_id", "evicted")}
        return State(new.memory._replace(**kept), size_hw, state.seen)

    def _clip(
        self, state: State, frames: list[Frame], length: int
    ) -> tuple[State, Iterator[FrameTracks]]:
        """Run the program on frames of the canvas, filled up to `length`."""
        images = [frame.image for frame in frames]
        padded, size = self.on_canvas(images, state.size_hw, length)
        clock = np.zeros(length, np.int32)
        for i, frame in enumerate(frames):
            passed = state.seen + i
            if frame.seconds is not None:
                passed = frame.seconds * FRAMES_PER_S
            # The memory takes differences: one that has run over does no harm.
            clock[i] = np.int64(round(TICKS * passed)).astype(np.int32)
        valid = np.arange(length) < len(frames)
        memory, tracks = self.program.clip(
            self.parameters, state.memory, padded, size, valid, clock
        )
        self.program.ran = True
        shown = self._shown(state, tracks, [frame.seconds for frame in frames])
        return state._replace(memory=memory), shown

    def _shown(
        self, before: State, tracks: Tracks, seconds: list[float | None]
    ) -> Iterator[FrameTracks]:
        """Yield what the frames of a clip show, each with its time."""
        found: Any = Tracks(*map(np.asarray, tracks))
        legacy, fitted_hw = self.settings.legacy_paste, self.fitted_hw(before.size_hw)
        for t, time in enumerate(seconds):
            rows = np.flatnonzero(_last_of_each_id(found.ids[t], found.valid[t]))
            boxes = _scaled(found.boxes[t][rows], fitted_hw, before.size_hw, legacy)
            yield FrameTracks(
                before.seen + t,
                before.size_hw,
                found.ids[t][rows],
                found.labels[t][rows],
                found.scores[t][rows],
                boxes,
                tuple(
                    _pasted(found.masks[t, row], box, before.size_hw, legacy)
                    for row, box in zip(rows.tolist(), boxes, strict=True)
                ),
                int(found.evicted[t]),
                time,
                self.categories,
            )

    def _check_state(self, state: Any) -> None:
        if not isinstance(state, State):
            rule = "must be what start or step returned"
            raise InputError("state", "", f"{rule}, is a {type(state).__name__}")
        wanted = self.start(state.size_hw).memory
        sides = [
            [(x.shape, x.dtype) for x in (*memory.features, *memory[1:])]
            for memory in (wanted, state.memory)
        ]
        if sides[0] != sides[1]:
            rule = "is of another tracker or canvas; begin with tracker.start"
            raise InputError("state", "", rule)


def _with_times(frames: Iterable, fps: float | int | None) -> Iterator[Frame]:
    """Every frame as a `Frame`, with a time where one is known."""
    for i, frame in enumerate(frames):
        if isinstance(frame, Frame):
            yield frame
        else:
            yield Frame(frame, None if fps is None else i / fps)


def _clips(frames: Iterator[Frame], length: int) -> Iterator[list[Frame]]:
    """Frames in lists of at most `length`; a fresh one begins a list."""
    clip: list[Frame] = []
    for frame in frames:
        if clip and (len(clip) == length or frame.fresh):
            yield clip
            clip = []
        clip.append(frame)
        if len(clip) == length:  # at once: the next frame of a camera may be late
            yield clip
            clip = []
    if clip:
        yield clip


def _scaled(
    boxes: Float[np.ndarray, "n 4"],
    size_hw: tuple[int, int],
    frame_hw: tuple[int, int],
    legacy: bool,
) -> Float[np.ndarray, "n 4"]:
    """Boxes in pixels of the frame, given those in the size the model saw.

    legacy: as the original code does it, which takes the last pixel of a box to the
    larger frame.
    """
    scale_yx = np.array(frame_hw, np.float32) / np.array(size_hw, np.float32)
    last = np.array([0, 0, 1, 1], np.float32) * np.float32(legacy)
    return (boxes - last) * np.tile(scale_yx[::-1], 2) + last


def _pasted(
    probs: Float[np.ndarray, "p p"],
    box: Float[np.ndarray, "4"],
    frame_hw: tuple[int, int],
    legacy: bool,
) -> RLE:
    """Run lengths of the mask in its frame."""
    top, left, soft = paste(probs, box, frame_hw, legacy=legacy)
    drawn = soft > 0.5 if legacy else soft >= 0.5
    return codec.encode_part(drawn, (top, left), frame_hw)


def _last_of_each_id(
    ids: Int[np.ndarray, " n"], valid: Bool[np.ndarray, " n"]
) -> Bool[np.ndarray, " n"]:
    """Valid rows that have no later valid row of the same id."""
    last = {int(ids[n]): n for n in np.flatnonzero(valid)}
    return np.isin(np.arange(len(ids)), list(last.values()))


def _check_iterable(frames: Any) -> None:
    if isinstance(frames, bytes) or not isinstance(frames, Iterable):
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


def checked_frame(
    frame: Any, sizes: Sequence[tuple[int, int]] | None, record: str
) -> UInt8[np.ndarray, "h w 3"]:
    """Return the frame as an array.

    sizes: which are allowed; None: any. record: what an error calls it.
    Raises: InputError for what is no RGB picture.
    """
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
