"""Annotations, results, or both side by side, drawn on their frames."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from stan_jax.annotations import youtube_vis
from stan_jax.annotations.youtube_vis import Dataset, Video
from stan_jax.errors import InputError
from stan_jax.masks import codec, run_lengths
from stan_jax.masks.codec import RLE
from stan_jax.masks.run_lengths import Masks
from stan_jax.metrics.overlap import iou
from stan_jax.metrics.tracks import PredictedTrack
from stan_jax.results import readers
from stan_jax.tracking.frame_tracks import FrameTracks
from stan_jax.video import draw, fonts, overlay

SAME = 0.5  # overlap from which a found track wears the colour of an object


class Shown(NamedTuple):
    """One track as it is drawn."""

    number: int  # decides the colour
    name: str  # of the class
    score: float | None
    masks: Masks

    @property
    def text(self) -> str:
        """What stands beside it."""
        score = "" if self.score is None else f"  {self.score:.2f}"
        return f"{self.name} {self.number}{score}"


class Drawn(NamedTuple):
    """Number of things that `show` has drawn."""

    videos: int
    tracks: dict[str, int]  # of each side
    hidden: int  # results below the score
    unwritten: list[str]  # names of classes with letters that no font here has


def show(
    dataset: Dataset,
    videos: Sequence[Video],
    results: str | Path | None,
    out: str | Path,
    *,
    minimum: float = 0.0,
    frames_per_s: int = 6,
    watch: Callable[[Video, int], None] = lambda video, t: None,
) -> Drawn:
    """Draw some videos of a dataset into the folder `out`, as `overlay.Overlays` does.

    Args:
      results: of the same videos. Annotations and results are two sides; an object and
        the track that found it wear one colour.
      minimum: score below which a result is not drawn.
      watch: called after every frame.
    Raises: InputError for a broken frame or results file.
    """
    found = {}
    if results:
        known = {video.id for video in dataset.videos}
        found = readers.predicted_in(results, {video.id for video in videos}, known)
    names = youtube_vis.unique_names(videos)
    ids = [category.id for category in dataset.categories]
    drawn, unwritten = fonts.shown([c.name for c in dataset.categories], ids)
    classes = dict(zip(ids, drawn, strict=True))
    total, hidden = Counter(), 0
    with overlay.Overlays(out, frames_per_s=frames_per_s) as overlays:
        for video in videos:
            tracks = found.get(video.id, [])
            sure = [track for track in tracks if track.score >= minimum]
            hidden += len(tracks) - len(sure)
            sides = _sides(dataset, classes, video, sure, results)
            total.update({name: len(rows) for name, rows in sides.items()})
            length = len(video.file_names)
            for t in range(length):
                image = youtube_vis.read_frame(dataset, video, t)
                pictures = {
                    name: _drawn(image, rows, t) for name, rows in sides.items()
                }
                side = sides["found" if results else "annotated"]
                shown = _frame_tracks(side, t, image.shape[:2])
                where = names[video.id], (t, length)
                overlays.add(*where, image, shown, pictures)
                watch(video, t)
    return Drawn(len(videos), dict(total), hidden, unwritten)


def _sides(
    dataset: Dataset,
    classes: dict[int, str],
    video: Video,
    found: Sequence[PredictedTrack],
    results,
) -> dict[str, list[Shown]]:
    sides, objects = {}, []
    if dataset.annotated:
        objects = [
            run_lengths.read(
                track.segmentations, dataset.path, f"annotation {track.id}"
            )
            for track in video.tracks
        ]
        sides["annotated"] = [
            Shown(n, classes[dataset.categories[track.label].id], None, masks)
            for n, (track, masks) in enumerate(
                zip(video.tracks, objects, strict=True), start=1
            )
        ]
    if results is not None:
        for track in found:
            _check_size(results, track, video)
        numbers = _numbers(objects, found)
        sides["found"] = [
            Shown(
                n,
                classes.get(track.category_id, str(track.category_id)),
                track.score,
                track.masks,
            )
            for n, track in zip(numbers, found, strict=True)
        ]
    return sides


def _check_size(results, track: PredictedTrack, video: Video) -> None:
    for t in np.flatnonzero(track.masks.sizes.any(axis=1)).tolist():
        size = track.masks.sizes[t].tolist()
        if size != [video.height, video.width]:
            rule = (
                f"size must be [{video.height}, {video.width}] as the video's, "
                f"is {size}"
            )
            raise InputError(results, f"results[{track.row}], frame {t}", rule)


def _numbers(objects: list[Masks], found: Sequence[PredictedTrack]) -> list[int]:
    """A number for each found track: that of its object, else a new one.

    The best score comes first; an object lends its number once.
    """
    numbers, free = [0] * len(found), len(objects)
    overlap = np.zeros((len(found), 1 + len(objects)))
    if found and objects:
        overlap[:, 1:] = iou([track.masks for track in found], objects)
    for n in sorted(range(len(found)), key=lambda n: -found[n].score):
        best = int(overlap[n].argmax())
        if overlap[n, best] >= SAME:
            numbers[n] = best
            overlap[:, best] = 0
        else:
            free += 1
            numbers[n] = free
    return numbers


def _seen(tracks: Sequence[Shown], t: int) -> list[tuple[Shown, RLE]]:
    """Tracks with a pixel in frame t, and their masks."""
    seen = [x for x in tracks if t < len(x.masks.texts) and x.masks.areas[t]]
    return [(x, rle) for x in seen if (rle := x.masks.rle(t)) is not None]


def _frame_tracks(
    tracks: Sequence[Shown], t: int, size_hw: tuple[int, int]
) -> FrameTracks:
    """The tracks of a frame as a tracker would give them; annotations score 1."""
    names = sorted({x.name for x in tracks})
    seen = _seen(tracks, t)
    scores = [1.0 if x.score is None else x.score for x, _ in seen]
    return FrameTracks(
        index=t,
        size_hw=size_hw,
        ids=np.array([x.number for x, _ in seen], int),
        labels=np.array([names.index(x.name) for x, _ in seen], int),
        scores=np.array(scores, np.float32),
        boxes=codec.tight_boxes([rle for _, rle in seen]),
        segmentations=tuple(rle for _, rle in seen),
        evicted=0,
        categories=tuple(names),
    )


def _drawn(
    image: UInt8[np.ndarray, "h w 3"], tracks: Sequence[Shown], t: int
) -> UInt8[np.ndarray, "h2 w2 3"]:
    seen = _seen(tracks, t)
    parts = [codec.decode_part(rle) for _, rle in seen]
    numbers = np.array([x.number for x, _ in seen], int)
    boxes = codec.tight_boxes([rle for _, rle in seen])
    return draw.overlay(image, parts, boxes, numbers, [x.text for x, _ in seen])
