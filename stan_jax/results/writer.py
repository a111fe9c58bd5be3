"""The official results file, written from the tracks of videos.

The file is a json list with one object per track: `video_id`, `category_id`, `score`
and `segmentations`, which holds one compressed RLE or null per frame of the video.
"""

import contextlib
import json
import math
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from stan_jax.errors import InputError
from stan_jax.files import replacing
from stan_jax.masks import codec, run_lengths
from stan_jax.masks.codec import RLE
from stan_jax.metrics.tracks import PredictedTrack


class TrackResult(NamedTuple):
    """One track of one video, as the submission file has it."""

    score: float
    category_id: int  # of the annotation file, not 0..k-1
    segmentations: dict[int, RLE]  # by frame; where absent, it is out of sight

    def dense(self, length: int) -> list[RLE | None]:
        """Return one entry for each frame of a video of this length."""
        return [self.segmentations.get(t) for t in range(length)]


class TrackBuilder:
    """Tracks of one video, gathered frame by frame; run lengths are kept, never masks.

    Memory grows with what is seen, not with tracks times frames.
    category_ids: id in the file of label 0, 1, ...
    """

    def __init__(self, category_ids: Sequence[int]):
        self.category_ids = tuple(category_ids)
        self._labels: dict[int, list[int]] = {}
        self._scores: dict[int, list[float]] = {}
        self._segmentations: dict[int, dict[int, RLE]] = {}
        self._frame = -1

    def add(
        self,
        frame_index: int,
        ids: Int[np.ndarray, " n"],
        labels: Int[np.ndarray, " n"],
        scores: Float[np.ndarray, " n"],
        segmentations: Sequence[RLE],
    ) -> None:
        """Take in what one frame shows; frames come in order.

        segmentations: at the original size of the video.
        Raises: ValueError for a frame before the last one, or an id twice in a frame.
        """
        if frame_index <= self._frame:
            raise ValueError(f"frame {frame_index} comes after frame {self._frame}")
        self._frame = frame_index
        if len(set(ids.tolist())) < len(ids):
            raise ValueError(f"a track stands twice in frame {frame_index}: {ids}")
        columns = (ids.tolist(), labels.tolist(), scores.tolist())
        rows = zip(*columns, segmentations, strict=True)
        for track, label, score, rle in rows:
            self._labels.setdefault(track, []).append(label)
            self._scores.setdefault(track, []).append(score)
            frames = self._segmentations.setdefault(track, {})
            if codec.area(rle):
                frames[frame_index] = rle

    def tracks(self) -> list[TrackResult]:
        """Return the tracks so far, by rising id.

        Score: mean over the frames where the track was detected. Category: the label
        of most frames, the smallest on a tie.
        A track without one pixel in any frame can never be right and is left out.
        Source: MaskTrackRCNN coco_utils.py results2json_videoseg.
        """
        return [
            TrackResult(
                score=float(np.mean(self._scores[track])),
                category_id=self.category_ids[
                    np.bincount(self._labels[track]).argmax()
                ],
                segmentations=segmentations,
            )
            for track, segmentations in sorted(self._segmentations.items())
            if segmentations
        ]


def predicted_tracks(
    tracks: Sequence[TrackResult], length: int
) -> list[PredictedTrack]:
    """Return the tracks of one video as `VideoAp` takes them: no file is needed.

    length: frames of the video.
    """
    return [
        PredictedTrack(t.score, t.category_id, run_lengths.read(t.dense(length)))
        for t in tracks
    ]


class ResultsWriter:
    """Stream of results.json, video by video; the file appears whole or not at all.

        with ResultsWriter(path) as writer:
            writer.add_video(video.id, builder.tracks())

    Raises: InputError when the file cannot be written (missing folder, full disk).
    After any error inside the block an older file of that name is still there,
    unchanged, and nothing else.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._videos: set[int] = set()
        self._separator = "[\n"

    def __enter__(self) -> "ResultsWriter":
        self._stack = contextlib.ExitStack()
        with _named(self.path, "start"):
            temporary = self._stack.enter_context(replacing(self.path))
            self._file = self._stack.enter_context(open(temporary, "w"))
        return self

    def add_video(
        self, video_id: int, tracks: Iterable[TrackResult], *, length: int
    ) -> None:
        """Append the tracks of one video, one after the other; none is fine.

        length: frames of the video.
        Raises: ValueError for a video given twice, a score that is not finite, or a
        track with a frame that the video does not have.
        """
        if video_id in self._videos:
            raise ValueError(f"video {video_id} is already in {self.path}")
        self._videos.add(video_id)
        for track in tracks:
            if any(not 0 <= t < length for t in track.segmentations):
                raise ValueError(f"video {video_id}: has only {length} frames")
            if not math.isfinite(track.score):
                raise ValueError(f"video {video_id}: every score must be finite")
            row = {
                "video_id": int(video_id),
                "category_id": int(track.category_id),
                "score": float(track.score),
                "segmentations": track.dense(length),
            }
            with _named(self.path, f"video {video_id}"):
                self._file.write(self._separator + json.dumps(row))
            self._separator = ",\n"
        with _named(self.path, f"video {video_id}"):
            self._file.flush()  # so that a full disk is noticed at this video

    def __exit__(self, *error) -> None:
        if error[0] is not None:
            # Closing flushes what a full disk refused; that second error says no more.
            with contextlib.suppress(OSError):
                self._file.close()
            self._stack.__exit__(*error)
            return
        with _named(self.path, "end"), self._stack:
            self._file.write("[]\n" if self._separator == "[\n" else "]\n")


@contextlib.contextmanager
def _named(path: Path, record: str) -> Generator[None]:
    try:
        yield
    except OSError as error:
        rule = f"cannot be written: {error.strerror or error}; no partial file is left"
        raise InputError(path, record, rule) from error
