"""Mp4 files that every player and browser shows, from pictures."""

import contextlib
import errno
import heapq
import os
from collections.abc import Generator, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from stan_jax.errors import InputError
from stan_jax.files import replacing
from stan_jax.media.video_file import opened

LARGEST = 4096  # pixels of a side: what decoders of H.264 in hardware take
CLOCK = Fraction(1, 90_000)  # of sources that name none
# Codecs of sound that go into an mp4 as they are; others become AAC.
COPIED = ("aac", "mp3", "ac3", "eac3", "opus", "alac", "flac")
BT709 = 1  # primaries, transfer and matrix of ITU-T H.273, which share the number
LIMITED = 1  # its range 16..235
FRAGMENT_US = 1_000_000  # of video that a killed process may lose


class Sound(NamedTuple):
    """The sound of another file, from `start` seconds of it on."""

    path: str | Path
    start: float = 0.0


class Mp4:
    """A video file that grows picture by picture and appears when it is complete.

    A context manager. The first picture sets the size: an odd side is made even by
    repeating its last row or column, larger ones than 4096 pixels are reduced, pictures
    of another size are fitted in. H.264, yuv420p, BT.709, index in front.

    Args:
      rate: frames a second, of pictures that come without times.
      clock: seconds of one tick of the times.
      sound: goes along, as far as the pictures do.
      keep: after an error, leave what there is under the name, playable, instead of
        nothing.
      crf: quality of x264, lower is better.
      options: of x264.
    Raises: InputError if the file cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        rate: float | int | Fraction = 6,
        clock: Fraction | None = None,
        sound: Sound | None = None,
        keep: bool = False,
        crf: int = 20,
        options: dict[str, str] | None = None,
    ):
        self.path = Path(path)
        self.rate = Fraction(rate).limit_denominator(1001)
        self._clock = clock or CLOCK
        self._sound, self._keep = sound, keep
        self._options: dict[str, object] = {"crf": str(crf), "preset": "veryfast"}
        self._options |= {"bf": "0", **(options or {})}
        self._part = self.path.with_name(f".{self.path.stem}.{os.getpid()}.growing.mp4")
        self._container: Any = None
        self._stream: Any = None
        self._waiting: Any = None  # the last picture, until it is known how long it is
        self._first = self._shown = 0.0
        self._count = 0
        self._lengths: dict[int, int] = {}  # ticks, of pictures in the encoder

    def __enter__(self) -> "Mp4":
        return self

    def add(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        seconds: float | None = None,
        duration: float | None = None,
    ) -> None:
        """Append a picture to the video.

        Args:
          image: RGB.
          seconds: time of the picture; the video begins with the first one. Default:
            one after the other at `rate`.
          duration: seconds that it is shown if it is the last.
        """
        with self._named():
            if self._container is None:
                self._open(image)
                self._first = seconds or 0.0
            if seconds is None:
                pts = round(self._count / self.rate / self._clock)
                shown = round(1 / self.rate / self._clock)
            else:
                pts = round((seconds - self._first) / self._clock)
                shown = round((duration or 1 / self.rate) / self._clock)
            self._count += 1
            self._encode_waiting(pts)
            self._waiting = self._frame(image)
            self._waiting.pts = max(pts, self._next)
            self._waiting.duration = max(shown, 1)
            self._next = self._waiting.pts + 1

    def _open(self, image: np.ndarray) -> None:
        import av

        self.path.parent.mkdir(parents=True, exist_ok=True)
        height, width = _even(image.shape[:2])
        options = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
        options["frag_duration"] = str(FRAGMENT_US)
        self._container = av.open(f"file:{self._part}", "w", container_options=options)
        stream = self._container.add_stream("h264", rate=self.rate)
        stream.height, stream.width = height, width
        stream.pix_fmt, stream.options = "yuv420p", dict(self._options)
        context = stream.codec_context
        context.color_primaries = context.color_trc = context.colorspace = BT709
        context.color_range = LIMITED
        context.time_base = self._clock
        self._stream, self._next = stream, 0

    def _frame(self, image: UInt8[np.ndarray, "h w 3"]) -> Any:
        from av import VideoFrame

        size = (self._stream.height, self._stream.width)
        frame = VideoFrame.from_ndarray(_fitted(image, size), format="rgb24")
        frame = frame.reformat(
            format="yuv420p",
            dst_colorspace=BT709,
            src_color_range="JPEG",
            dst_color_range="MPEG",
        )
        return frame

    def _encode_waiting(self, until: int | None) -> None:
        frame, self._waiting = self._waiting, None
        if frame is None:
            return
        if until is not None:
            frame.duration = max(until - frame.pts, 1)
        frame.time_base = self._clock
        self._lengths[frame.pts] = frame.duration
        self._mux(self._stream.encode(frame))

    def _mux(self, packets: list) -> None:
        for packet in packets:
            # The encoder itself knows a rate at most, not how long a frame is.
            packet.duration = self._lengths.pop(packet.pts, packet.duration)
        self._container.mux(packets)

    def __exit__(self, *error: Any) -> None:
        if self._container is None:
            return
        if error and error[0] is not None:
            self._leave()
            return
        try:
            with self._named():
                self._encode_waiting(None)
                self._mux(self._stream.encode(None))
                self._container.close()
                with replacing(self.path) as whole:
                    copied = _remux(self._part, whole, self._sound)
                    if copied < self._count:  # closing a file tells no error
                        text = f"holds {copied} of {self._count} frames: disk full?"
                        raise OSError(errno.ENOSPC, text)
                self._part.unlink()
        except BaseException:
            self._leave()
            raise

    def _leave(self) -> None:
        """Close what an error interrupted: keep it, or remove it."""
        # A second error, from closing what a full disk refused, says no more.
        if self._keep:
            with contextlib.suppress(Exception):
                self._encode_waiting(None)
                self._mux(self._stream.encode(None))
        with contextlib.suppress(Exception):
            self._container.close()
        if self._keep and _cut_to_whole(self._part):
            os.replace(self._part, self.path)
        self._part.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _named(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            rule = f"cannot be written: {error.strerror or error}"
            raise InputError(self.path, "", rule) from error


def _even(size_hw: tuple[int, int]) -> tuple[int, int]:
    """The size of the video for pictures of this size."""
    factor = min(1, LARGEST / max(size_hw))
    height, width = (max(1, round(x * factor)) for x in size_hw)
    return height + height % 2, width + width % 2


def _fitted(
    image: UInt8[np.ndarray, "h w 3"], size_hw: tuple[int, int]
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """The picture in the size of the video, with black bars where its shape differs."""
    height, width = size_hw
    if _even(image.shape[:2]) == size_hw and max(image.shape[:2]) <= LARGEST:
        odd = [
            (0, side - have)
            for side, have in zip(size_hw, image.shape[:2], strict=True)
        ]
        if not any(more for _, more in odd):
            return np.ascontiguousarray(image)
        return np.pad(image, (*odd, (0, 0)), mode="edge")
    factor = min(height / image.shape[0], width / image.shape[1])
    h, w = (
        min(max(1, round(x * factor)), n)
        for x, n in zip(image.shape[:2], size_hw, strict=True)
    )
    small = Image.fromarray(image).resize((w, h), Image.Resampling.BILINEAR)
    out = np.zeros((height, width, 3), np.uint8)
    top, left = (height - h) // 2, (width - w) // 2
    out[top : top + h, left : left + w] = np.asarray(small)
    return out


def _remux(part: Path, whole: Path, sound: Sound | None) -> int:
    """Copy the video with its index in front, and the sound as far as it goes.

    Return the number of pictures.
    """
    import av

    with contextlib.ExitStack() as stack:
        video = stack.enter_context(opened(part))
        pictures = video.streams.video[0]
        options = {"movflags": "faststart"}
        clock = pictures.time_base
        if clock is not None and clock.numerator == 1:
            options["video_track_timescale"] = str(clock.denominator)
        out = stack.enter_context(
            av.open(f"file:{whole}", "w", container_options=options)
        )
        target = out.add_stream_from_template(pictures)
        flows = [_copied(video, pictures, target)]
        if sound is not None:
            length = float(video.duration or 0) / 1_000_000
            with contextlib.suppress(av.error.FFmpegError, IndexError):
                heard = stack.enter_context(opened(sound.path))
                flows.append(_heard(heard, out, sound.start, length))
        pictures_copied = 0
        for _, kind, packet in heapq.merge(*flows, key=lambda x: x[:2]):
            pictures_copied += kind == 0
            out.mux(packet)
    return pictures_copied


def _copied(container: Any, stream: Any, target: Any) -> Iterator[tuple]:
    for packet in container.demux(stream):
        if packet.dts is not None:
            time = float(packet.dts * packet.time_base)
            packet.stream = target
            yield time, 0, packet


def _heard(container: Any, out: Any, start: float, length: float) -> Iterator[tuple]:
    """Packets of sound between two times, as they are or as AAC."""

    stream = container.streams.audio[0]
    begin = container.streams.video[0].start_time if container.streams.video else None
    if begin is not None:
        start += float(begin * container.streams.video[0].time_base)
    copied = stream.codec_context.name in COPIED
    if copied:
        target = out.add_stream_from_template(stream)
    else:
        target = out.add_stream("aac", rate=stream.rate or 48_000)
    return _sound_packets(container, stream, target, (start, start + length), copied)


def _sound_packets(container, stream, target, span, copied) -> Iterator[tuple]:
    import av

    start, end = span
    if start > 0:
        container.seek(int(start / stream.time_base), stream=stream, backward=True)
    shift = round(start / stream.time_base)
    for packet in container.demux(stream):
        if packet.pts is None:
            continue
        time = float(packet.pts * packet.time_base)
        if time >= end:
            break
        if time < start - 1e-3:
            continue
        if copied:
            packet.pts -= shift
            packet.dts = packet.pts
            packet.stream = target
            yield time - start, 1, packet
            continue
        with contextlib.suppress(av.error.FFmpegError):
            for frame in packet.decode():
                frame.pts = None if frame.pts is None else frame.pts - shift
                for made in target.encode(frame):
                    yield time - start, 1, made
    if not copied:
        for made in target.encode(None):
            yield end - start, 1, made


def _cut_to_whole(path: Path) -> bool:
    """Cut a fragmented mp4 behind its last whole fragment; whether there is one."""
    if not path.is_file():
        return False
    size, place, whole, fragments = path.stat().st_size, 0, 0, 0
    with open(path, "rb+") as file:
        while place + 8 <= size:
            file.seek(place)
            head = file.read(16)
            length, kind = int.from_bytes(head[:4], "big"), head[4:8]
            if length == 1:
                length = int.from_bytes(head[8:16], "big")
            if length < 8 or place + length > size:
                break
            place += length
            if kind in (b"mdat", b"moov"):  # what comes before belongs to them
                whole = place
                fragments += kind == b"mdat"
        file.truncate(whole)
    return fragments > 0
