"""How the tracks of a video become the official submission file.

The file is a json list with one object per track: `video_id`, `category_id`, `score`
and `segmentations`, which holds one compressed RLE or null per frame of the video.
"""

import contextlib
import json
import math
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from pycocotools import mask as coco_mask

from stan_jax.errors import InputError
from stan_jax.evaluation.video_ap import FoundTrack
from stan_jax.files import replacing
from stan_jax.masks import run_lengths


class TrackResult(NamedTuple):
    """One track of one video, as the submission file has it."""

    score: float
    category_id: int  # of the annotation file, not 0..k-1
    segmentations: list[dict | None]  # one per frame; None = out of sight


def rle(mask: Bool[np.ndarray, "fh fw"]) -> dict:
    """Compressed COCO run lengths of a mask: {"size": [h, w], "counts": str}."""
    code = coco_mask.encode(np.asfortranarray(mask.view(np.uint8)))
    return {"size": list(mask.shape), "counts": code["counts"].decode("ascii")}


class TrackBuilder:
    """Gathers one video frame by frame; keeps run lengths, never masks.

    length: frames of the video. category_ids: id in the file of label 0, 1, ...
    """

    def __init__(self, length: int, category_ids: Sequence[int]):
        self.length, self.category_ids = length, tuple(category_ids)
        self._labels: dict[int, list[int]] = {}
        self._scores: dict[int, list[float]] = {}
        self._segmentations: dict[int, list[dict | None]] = {}
        self._seen: set[tuple[int, int]] = set()

    def add(
        self,
        frame_index: int,
        ids: Int[np.ndarray, " n"],
        labels: Int[np.ndarray, " n"],
        scores: Float[np.ndarray, " n"],
        masks: Bool[np.ndarray, "n fh fw"],
        valid: Bool[np.ndarray, " n"],
    ) -> None:
        """Take in what one frame shows; rows that are not `valid` are passed over.

        masks: at the original size of the video.
        Raises: ValueError for a frame outside the video, or an id twice in a frame.
        """
        if not 0 <= frame_index < self.length:
            raise ValueError(f"frame {frame_index} of a video of {self.length} frames")
        for n in np.flatnonzero(valid):
            track = int(ids[n])
            if (frame_index, track) in self._seen:
                raise ValueError(f"track {track} stands twice in frame {frame_index}")
            self._seen.add((frame_index, track))
            self._labels.setdefault(track, []).append(int(labels[n]))
            self._scores.setdefault(track, []).append(float(scores[n]))
            absent: list[dict | None] = [None] * self.length
            segmentations = self._segmentations.setdefault(track, absent)
            if masks[n].any():
                segmentations[frame_index] = rle(masks[n])

    def tracks(self) -> list[TrackResult]:
        """The tracks so far, by rising id.

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
            if any(segmentations)
        ]


def found_tracks(tracks: Sequence[TrackResult]) -> list[FoundTrack]:
    """The tracks of one video as `VideoAp` takes them: the masks need no file."""
    return [
        FoundTrack(t.score, t.category_id, run_lengths.read(t.segmentations))
        for t in tracks
    ]


class ResultsWriter:
    """Streams results.json video by video; the file appears whole or not at all.

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

    def add_video(self, video_id: int, tracks: list[TrackResult]) -> None:
        """Append the tracks of one video; an empty list is fine.

        Raises: ValueError for a video given twice, a score that is not finite, or
        tracks of different lengths.
        """
        if video_id in self._videos:
            raise ValueError(f"video {video_id} is already in {self.path}")
        if len({len(track.segmentations) for track in tracks}) > 1:
            raise ValueError(f"video {video_id}: all tracks must have equal length")
        if not all(math.isfinite(track.score) for track in tracks):
            raise ValueError(f"video {video_id}: every score must be finite")
        self._videos.add(video_id)
        with _named(self.path, f"video {video_id}"):
            for track in tracks:
                row = {
                    "video_id": int(video_id),
                    "category_id": int(track.category_id),
                    "score": float(track.score),
                    "segmentations": track.segmentations,
                }
                self._file.write(self._separator + json.dumps(row))
                self._separator = ",\n"
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
