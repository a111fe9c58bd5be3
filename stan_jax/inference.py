"""How the videos of a dataset become tracks: frame files in, masks of true size out."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, PyTree

from stan_jax.annotations.youtube_vis import Dataset, Video
from stan_jax.errors import InputError
from stan_jax.evaluation import files, results
from stan_jax.evaluation.results import ResultsWriter, TrackBuilder
from stan_jax.evaluation.video_ap import VideoAp
from stan_jax.loading import batches, clips
from stan_jax.model.stan import STAN
from stan_jax.ops import masks
from stan_jax.tracking import rollout
from stan_jax.tracking.memory import MatchWeights
from stan_jax.training.train_step import Split, merge, split
from stan_jax.types import MemoryQueue, Tracks

OFFICIAL = ("AP", "AP50", "AP75", "AR1", "AR10")  # the table of the challenge


class FrameTracks(NamedTuple):
    """What one frame shows, in pixels of the original video."""

    index: int  # of the frame in its video
    ids: Int[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]
    scores: Float[np.ndarray, " n"]
    valid: Bool[np.ndarray, " n"]
    boxes: Float[np.ndarray, "n 4"]
    masks: Bool[np.ndarray, "n fh fw"]


class Tracker:
    """A model that is ready to track videos; compiles one program per canvas.

    params, frozen: what of the model learns and what does not, as `train_step.split`
    gives them; may be set anew, as training does, and need no other program then.
    canvas: landscape (height, width) in pixels, multiples of 32; portrait videos get
    its transpose. scale_hw: bounds of a frame inside it. clip_length: frames that go
    through the model at once. slots, weights, share_ids, options: see `tracking`; of
    rows with one id the last is kept. legacy_paste: see `masks.paste`.
    Raises: InputError if one of these does not fit the model or another.
    """

    def __init__(
        self,
        model: STAN,
        *,
        canvas: tuple[int, int],
        scale_hw: tuple[int, int],
        clip_length: int,
        slots: int,
        weights: Mapping[str, float],
        dtype: str = "float32",
        legacy_paste: bool = False,
        **options: Any,
    ):
        clips.check_canvas(canvas, [scale_hw])
        if clip_length < 1:
            raise InputError("clip_length", "", f"must be above 0, is {clip_length}")
        self.canvas, self.scale_hw, self.clip_length = canvas, scale_hw, clip_length
        self._structure, self.params, self.frozen = split(model)
        self._slots, self._dtype = slots, dtype
        self._paste = partial(paste, legacy=legacy_paste)
        self.programs = 0  # how many have been traced so far
        self.evicted = 0  # tracks that a full queue has dropped so far
        self._starts: dict[tuple[int, int], MemoryQueue] = {}  # by canvas

        def clip(params, frozen, memory, frames, size_hw, valid):
            self.programs += 1  # runs while tracing, so once per canvas
            return rollout.clip(
                self._model(params, frozen),
                memory,
                frames,
                size_hw,
                valid,
                weights=MatchWeights(**weights),
                **options,
            )

        self._clip = jax.jit(clip)
        # Settings that do not go together are found now, not after hours of training;
        # the trace is kept for the first landscape video.
        jax.eval_shape(
            self._clip,
            self.params,
            self.frozen,
            self._start(canvas),
            jax.ShapeDtypeStruct((clip_length, *canvas, 3), jnp.uint8),
            jax.ShapeDtypeStruct((2,), jnp.int32),
            jax.ShapeDtypeStruct((clip_length,), bool),
        )

    def start(self, video: Video) -> MemoryQueue:
        """Return the memory before the first frame of a video."""
        return self._start(clips.canvas_of(video.height, video.width, self.canvas))

    def _start(self, canvas: tuple[int, int]) -> MemoryQueue:
        if canvas not in self._starts:
            model = self._model(self.params, self.frozen)
            self._starts[canvas] = rollout.start(model, canvas, slots=self._slots)
        return self._starts[canvas]

    def _model(self, params: PyTree, frozen: PyTree) -> STAN:
        return merge(Split(self._structure, {}, frozen), params, self._dtype)

    def frames(self, dataset: Dataset, video: Video) -> Iterator[FrameTracks]:
        """Yield what each frame of a video shows, in order; memory does not grow."""
        memory, index = self.start(video), 0
        size = (video.height, video.width)
        for frames, size_hw, valid in batches.frames(
            dataset,
            video,
            canvas=self.canvas,
            scale_hw=self.scale_hw,
            clip_length=self.clip_length,
        ):
            memory, tracks = self._clip(
                self.params, self.frozen, memory, frames, size_hw, valid
            )
            pasted = self._paste(tracks, jnp.asarray(size_hw), size)
            shown = (tracks.ids, tracks.labels, tracks.scores, tracks.valid, *pasted)
            for row in zip(*map(np.asarray, shown), strict=True):
                frame = FrameTracks(index, *row)
                if index < len(video.file_names):
                    yield frame._replace(valid=_last_of_each_id(frame))
                index += 1
        self.evicted += int(memory.evicted)


def _last_of_each_id(frame: FrameTracks) -> np.ndarray:
    """Which valid rows have no later row of the same id."""
    last = {int(frame.ids[n]): n for n in np.flatnonzero(frame.valid)}
    return np.isin(np.arange(len(frame.ids)), list(last.values()))


def sure_of(frame: FrameTracks, score: float) -> dict[str, np.ndarray]:
    """Return, by name, the rows of a frame with at least this score."""
    kept = frame.valid & (frame.scores >= score)
    names = ("masks", "boxes", "labels", "ids", "scores")
    return {name: getattr(frame, name)[kept] for name in names}


@partial(jax.jit, static_argnames=("video_hw", "legacy"))
def paste(
    tracks: Tracks,
    size_hw: jax.Array,
    video_hw: tuple[int, int],
    *,
    legacy: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Return boxes [t n 4] in pixels of the original video, and masks [t n fh fw].

    size_hw: size of the frames that the tracks were found in. legacy: as the original
    code does it, which takes the last pixel of a box to the larger frame.
    """
    scale_yx = jnp.asarray(video_hw, jnp.float32) / size_hw
    last = jnp.array([0, 0, 1, 1]) * float(legacy)
    boxes = tracks.boxes - last[None, None]
    boxes = boxes * jnp.tile(scale_yx[::-1], 2)[None, None] + last[None, None]

    def one(frame):
        probs, boxes, valid = frame
        soft = masks.paste(probs, boxes, video_hw, legacy=legacy)
        drawn = soft > 0.5 if legacy else soft >= 0.5
        return drawn & valid[:, None, None]

    # Frame by frame: probabilities are four times as large as the masks.
    return boxes, jax.lax.map(one, (tracks.masks, boxes, tracks.valid))


def evaluate(
    tracker: Tracker,
    dataset: Dataset,
    out: str | Path,
    *,
    watch: Callable[[Video, FrameTracks], None] = lambda video, frame: None,
) -> dict[str, float]:
    """Return the official numbers of a dataset by name; write its results.json.

    Each video is scored when it ends, its masks straight from memory.
    watch: called with every frame. Without annotations the result is empty.
    Raises: InputError as `youtube_vis.read_frame`; nothing is left at `out` then.
    """
    ids = [category.id for category in dataset.categories]
    # A set prepared with tensorflow-datasets has no json to be scored with.
    scored = dataset.annotated and dataset.stored is None
    truth = files.true_tracks(dataset.path) if scored else None
    score = VideoAp([c["id"] for c in truth.categories]) if truth else None
    found = 0
    with ResultsWriter(out) as writer:
        for video in dataset.videos:
            builder = TrackBuilder(len(video.file_names), ids)
            for frame in tracker.frames(dataset, video):
                builder.add(
                    frame.index,
                    frame.ids,
                    frame.labels,
                    frame.scores,
                    frame.masks,
                    frame.valid,
                )
                watch(video, frame)
            tracks = builder.tracks()
            writer.add_video(video.id, tracks)
            found += len(tracks)
            if truth and score:
                true = truth.tracks.get(video.id, [])
                score.add_video(video.id, true, results.found_tracks(tracks))
    if not score:
        return {}
    if not found:  # which the official code, and so ours, takes for a mistake
        return dict.fromkeys(OFFICIAL, 0.0)
    stats = score.finish()
    return {name: float(stats[name]) for name in OFFICIAL}
