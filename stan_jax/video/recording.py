"""What is left of a video that was tracked: overlay, lines, page."""

import contextlib
import queue
import re
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from stan_jax.errors import InputError
from stan_jax.masks import codec
from stan_jax.media.mp4 import Mp4, Sound
from stan_jax.media.source import USUAL_RATE, Frame, Source
from stan_jax.media.video_file import VideoFile
from stan_jax.results import exports
from stan_jax.results.frame_lines import LinesWriter
from stan_jax.tracking.frame_tracks import FrameTracks
from stan_jax.video import draw, fonts, page
from stan_jax.video.draw import PLAIN, Style, Trails

OVERLAY, LINES, PAGE = "overlay.mp4", "tracks.jsonl", "index.html"
FILES = {"overlay": OVERLAY, "tracks": LINES, "page": PAGE}
CUTOUTS = "cutouts"
ALSO = {name: file for name, (file, _) in exports.FORMATS.items()} | {CUTOUTS: CUTOUTS}
AHEAD = 8  # frames that wait to be drawn
# The page's own video: pixels of its width at most, and what it may take.
PAGE_WIDTH, PAGE_CRF = 640, 28
PAGE_CODEC = {"maxrate": "700k", "bufsize": "1400k", "g": "30"}


class Recording:
    """Files of one tracked video in a folder, written as it goes; a context manager.

    Drawing and encoding run in a thread of their own, so that they overlap the model.
    After an error or a stop the files hold what was done until then.

    Args:
      folder: is made; all that an earlier recording left there goes.
      source: what is tracked.
      categories: names of the classes by label.
      style: of the overlay.
      min_frames: a track is shown from this frame of its on.
      with_overlay, with_page: whether these are wanted.
      watch: called with each picture of the overlay, in the thread that draws.
      also: names of `ALSO`; "cutouts" are a PNG of each track in each frame, on a
        transparent ground.
    Raises: InputError if a file cannot be written.
    """

    def __init__(
        self,
        folder: str | Path,
        source: Source,
        categories: Sequence[str],
        *,
        style: Style = PLAIN,
        min_frames: int = 1,
        with_overlay: bool = True,
        with_page: bool = True,
        also: Sequence[str] = (),
        watch: Callable[[np.ndarray], None] | None = None,
    ):
        self.folder, self.source = Path(folder), source
        self.tracks: Counter[int] = Counter()  # frames by id
        self._labels: dict[int, Counter[int]] = {}  # frames of each label, by id
        self.facts: dict[str, str] = {}  # for the page, beside those of the source
        numbers = range(1, len(categories) + 1)
        self._names, self.unwritten = fonts.shown(categories, list(numbers))
        self._style, self._min_frames = style, min_frames
        self._with_overlay, self._with_page = with_overlay, with_page
        self._also, self._made, self._watch = tuple(also), {}, watch
        self._trails = Trails(style.trail_s) if style.trail_s > 0 else None
        self._waiting: queue.Queue = queue.Queue(AHEAD)
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None
        self._stack = contextlib.ExitStack()
        self._small: tuple[int, int] | None = None  # size of the page's video

    def __enter__(self) -> "Recording":
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            rule = f"cannot be made: {error.strerror}"
            raise InputError(self.folder, "", rule) from error
        clear(self.folder)
        self._lines = self._stack.enter_context(LinesWriter(self.folder / LINES))
        rate = (self.source.rate or USUAL_RATE) / self.source.window.every
        self.rate = rate
        sound = None
        if isinstance(self.source, VideoFile) and self.source.has_audio:
            if self.source.seekable and not self.source.live:
                sound = Sound(self.source.source, self.source.window.start)
            else:
                self.source.notes.append("the sound of a stream is not kept")
        self._overlay = self._page = None
        if self._with_overlay:
            clock = getattr(self.source, "time_base", None)
            self._overlay = Mp4(
                self.folder / OVERLAY, rate=rate, clock=clock, sound=sound, keep=True
            )
        if self._with_page:
            self._page = Mp4(
                self.folder / ".page.mp4",
                rate=rate,
                keep=True,
                crf=PAGE_CRF,
                options=PAGE_CODEC,
            )
        self._thread = threading.Thread(target=self._work, daemon=True, name="draw")
        self._thread.start()
        return self

    @property
    def frames(self) -> int:
        """Number of frames that are written."""
        return self._lines.frames

    @property
    def files(self) -> dict[str, Path]:
        """What it leaves that is there, by name."""
        found = {what: self.folder / name for what, name in FILES.items()}
        return {k: path for k, path in found.items() if path.is_file()} | self._made

    def add(
        self, frame: Frame, tracks: FrameTracks, picture: np.ndarray | None = None
    ) -> None:
        """Take in the next frame and the tracks in it.

        picture: for the overlay, where it is drawn already.
        """
        if self._error is not None:
            raise self._error
        self.tracks.update(tracks.ids.tolist())
        tracks = self._lasting(tracks)
        seconds = tracks.index / float(self.rate)
        seconds = seconds if frame.seconds is None else frame.seconds
        self._lines.add(
            seconds,
            tracks.size_hw,
            ids=tracks.ids,
            labels=tracks.labels,
            names=tracks.classes,
            scores=tracks.scores,
            boxes=tracks.boxes,
            segmentations=tracks.segmentations,
        )
        shown = tracks._replace(seconds=seconds, labels=self._usual(tracks))
        self._waiting.put((frame._replace(seconds=seconds), shown, picture))

    def _usual(self, tracks: FrameTracks) -> np.ndarray:
        """Label that each track had most often so far, so that its name stays."""
        for track, label in zip(
            tracks.ids.tolist(), tracks.labels.tolist(), strict=True
        ):
            self._labels.setdefault(track, Counter())[label] += 1
        usual = [self._labels[n].most_common(1)[0][0] for n in tracks.ids.tolist()]
        return np.array(usual, tracks.labels.dtype)

    def _lasting(self, tracks: FrameTracks) -> FrameTracks:
        if self._min_frames <= 1:
            return tracks
        seen = [self.tracks[track] >= self._min_frames for track in tracks.ids.tolist()]
        return tracks.rows(np.flatnonzero(seen))

    def _work(self) -> None:
        while (item := self._waiting.get()) is not None:
            if self._error is not None:
                continue  # so that nobody waits for a free place
            try:
                self._draw(*item)
            except Exception as error:
                self._error = error

    def _draw(
        self, frame: Frame, tracks: FrameTracks, picture: np.ndarray | None
    ) -> None:
        if self._overlay is not None or self._watch is not None:
            if picture is None:
                picture = picture_of(
                    frame.image,
                    tracks,
                    names=self._names,
                    style=self._style,
                    trails=self._trails,
                )
            if self._overlay is not None:
                self._overlay.add(picture, frame.seconds, frame.duration)
            if self._watch is not None:
                self._watch(picture)
        if self._page is not None:
            # All in one size: where that of the source changes, the page stretches the
            # picture back to it, under masks of that size.
            self._small = self._small or _size_of_page(frame.image)
            self._page.add(_resized(frame.image, self._small))
        if CUTOUTS in self._also:
            self._cut_out(frame, tracks)

    def _cut_out(self, frame: Frame, tracks: FrameTracks) -> None:
        folder = self.folder / CUTOUTS
        for track, name, rle in zip(
            tracks.ids.tolist(), tracks.classes, tracks.segmentations, strict=True
        ):
            if (image := exports.cut_out(frame.image, rle)) is not None:
                plain = re.sub(r"\W+", "_", name)
                path = folder / f"{track:04}-{plain}" / f"{tracks.index:06}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)
                self._made[CUTOUTS] = folder

    def __exit__(self, *error: Any) -> None:
        self._waiting.put(None)
        assert self._thread is not None
        self._thread.join()
        raised = error[1] or self._error
        what = (type(raised), raised, None) if raised else (None, None, None)
        failed = None
        for part in (self._overlay, self._page, self._stack):
            try:
                if part is not None:
                    part.__exit__(*what)
            except InputError as e:
                failed = failed or e
        if not self.frames:
            (self.folder / LINES).unlink(missing_ok=True)  # which would hold nothing
        try:
            self._make_page()
            wanted = [x for x in self._also if x in exports.FORMATS and self.frames]
            self._made |= exports.export(self.folder / LINES, wanted)
        except (InputError, OSError) as e:
            failed = failed or e
        if error[1] is None and (final := self._error or failed) is not None:
            raise final

    def _make_page(self) -> None:
        if self._page is None:
            return
        video = self._page.path
        try:
            if video.is_file():
                page.write(
                    self.folder / PAGE,
                    title=self.source.name,
                    video=video,
                    lines=self.folder / LINES,
                    rate=self.rate,
                    facts={**_facts_of(self.source, self.frames), **self.facts},
                    notes=self.source.notes,
                )
        finally:
            video.unlink(missing_ok=True)


def clear(folder: Path) -> None:
    """Remove what an earlier recording left there, whatever it was asked for."""
    if not (folder / LINES).is_file():
        return  # what has such a name is not ours
    for name in (*FILES.values(), *ALSO.values()):
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _size_of_page(image: UInt8[np.ndarray, "h w 3"]) -> tuple[int, int]:
    """Width and height of the page's video: even, so that no row is repeated."""
    height, width = image.shape[:2]
    factor = min(1.0, PAGE_WIDTH / width)
    width, height = (max(2, 2 * round(x * factor / 2)) for x in (width, height))
    return width, height


def _resized(
    image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "h2 w2 3"]:
    if image.shape[1::-1] == size:
        return image
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


def _facts_of(source: Source, frames: int) -> dict[str, str]:
    facts = {"source": source.name, **source.facts}
    if source.rate:
        facts["rate"] = f"{float(source.rate):.4g} frames/s"
    if source.seconds:
        facts["length"] = f"{source.seconds:.2f} s"
    facts["frames tracked"] = str(frames)
    facts["broken"] = str(source.bad)
    facts["skipped"] = str(source.skipped)
    return facts


def picture_of(
    image: UInt8[np.ndarray, "h w 3"],
    tracks: FrameTracks,
    *,
    names: Sequence[str] | None = None,
    style: Style = PLAIN,
    trails: Trails | None = None,
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Return the frame with its tracks; each says class, identity and score.

    names: of the classes by label, as they are to be written; default: the model's.
    """
    names = tracks.categories if names is None else names
    texts = [
        f"{names[label]} {track}"
        + (f"  {score:.2f}" if "scores" not in style.hide else "")
        for label, track, score in zip(
            tracks.labels.tolist(),
            tracks.ids.tolist(),
            tracks.scores.tolist(),
            strict=True,
        )
    ]
    ways = []
    if trails is not None and tracks.seconds is not None:
        ways = trails.see(tracks.seconds, tracks.ids, tracks.boxes)
    parts = [codec.decode_part(rle) for rle in tracks.segmentations]
    numbers = tracks.labels if style.color_by == "class" else tracks.ids
    return draw.overlay(
        image, parts, tracks.boxes, numbers, texts, style=style, trails=ways
    )
