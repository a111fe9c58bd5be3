"""Frames of a video file or a pipe, decoded packet by packet."""

import re
from collections.abc import Generator, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from stan_jax.errors import InputError
from stan_jax.media.source import USUAL_RATE, WHOLE, Raw, Source, Window

ERRORS = 100  # in a row, after which a file is taken to have ended
SHORT_S = 0.5  # missing at the end of a file before a person is told
NO_INDEX = "has no index (moov): the file was cut off before it was finished"
# Transfer functions of high dynamic range (ITU-T H.273), which are not tone mapped.
HIGH_RANGE = {16: "PQ", 18: "HLG"}


class VideoFile(Source):
    """Frames of whatever libav reads: mp4, mov, mkv, webm, avi, gif, ts, a pipe.

    The header is not trusted: times come from the frames, the end from the data.
    Packets that do not decode are counted and passed over.
    Raises: InputError where there is no video in it.
    """

    def __init__(
        self,
        source: Any,
        window: Window = WHOLE,
        *,
        name: str | None = None,
        format: str | None = None,
        options: dict[str, str] | None = None,
    ):
        """Open it.

        Args:
          source: a path, an address as text, or a binary file that is read in order.
          name: default, that of the file.
          format, options: of libav, for devices and addresses.
        """
        super().__init__(name or _stem(source), window)
        self.source, self._format, self._options = source, format, options or {}
        self._container, self._video = self._opened()
        stream = self._video
        self.rate = _rate(stream)
        self.seconds = _seconds(self._container, stream)
        context = stream.codec_context
        self.time_base = _fraction(stream.time_base)
        self.has_audio = bool(self._container.streams.audio)
        aspect = stream.sample_aspect_ratio or context.sample_aspect_ratio
        self._aspect = _fraction(aspect) if aspect and aspect > 0 else Fraction(1)
        self.facts = {
            "format": self._container.format.name.split(",")[0],
            "codec": context.name,
            "pixels": context.pix_fmt or "",
            "size": f"{context.width} x {context.height}",
        }

    @property
    def seekable(self) -> bool:
        """Whether the file can be read a second time, from any place."""
        return isinstance(self.source, str | Path)

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        if self._thread is None or not self._thread.is_alive():
            self._container.close()

    def _opened(self) -> tuple[Any, Any]:
        """Container and video stream."""
        patience = None if isinstance(self.source, Path) else (10.0, 10.0)
        try:
            container = opened(
                self.source,
                format=self._format,
                options=self._options,
                timeout=patience,
            )
        except FileNotFoundError:
            raise InputError(self._label, "", "file must exist") from None
        except (OSError, ValueError) as error:
            raise InputError(self._label, "", self._no_video(error)) from None
        return container, self._stream(container)

    @property
    def _label(self) -> str:
        device = self._format is not None
        return str(self.source) if self.seekable and not device else self.name

    def _no_video(self, error: Exception) -> str:
        if isinstance(self.source, Path) and not self.source.stat().st_size:
            return "must not be an empty file"
        if isinstance(self.source, Path) and _head(self.source)[4:8] == b"ftyp":
            return NO_INDEX
        if not self.seekable:
            rule = "the pipe holds no video that can be read as it comes"
            return f"{rule}: webm, mkv, mpegts and fragmented mp4 can"
        text = getattr(error, "strerror", None) or str(error)
        return f"must be a video: {text.lower()}"

    def _stream(self, container: Any) -> Any:
        from av.stream import Disposition

        found = [
            stream
            for stream in container.streams.video
            if not stream.disposition & Disposition.attached_pic
        ]
        if found:
            best = container.streams.best("video")
            stream = best if best in found else found[0]
            stream.thread_type = "AUTO"
            return stream
        audio = bool(container.streams.audio)
        container.close()
        rule = "holds no pictures, only sound"
        if not audio:
            rule = NO_INDEX
        raise InputError(self._label, "", rule)

    def raw(self) -> Iterator[Raw]:
        """Yield every frame from the key frame before `window.start` on."""
        if self.window.start > 0 and self._can_seek():
            early = self._decoded(self.window.start)
            first = next(early, None)
            # Some formats land behind the place: then all is read from the beginning.
            if first is not None and first.seconds <= self.window.start + 1e-6:
                yield first
                yield from early
                return
            early.close()
            self._container.close()
            self._container, self._video = self._opened()
        yield from self._decoded(0.0)

    def _can_seek(self) -> bool:
        known = self.seconds is not None and self.seconds > self.window.start
        return self.seekable and known

    def _decoded(self, start: float) -> Generator[Raw, None, None]:
        import av

        container, stream = self._container, self._video
        origin = _origin(stream)
        if start > 0:
            place = int((start + (origin or 0.0)) / stream.time_base)
            try:
                container.seek(place, stream=stream, backward=True)
            except av.error.FFmpegError:
                return
        usual = float(1 / (self.rate or USUAL_RATE))
        last, first, shown = -1.0, True, usual
        reached = [0.0]
        for packet in self._packets(container, stream, origin or 0.0, reached):
            try:
                frames = packet.decode()
            except EOFError:
                return
            except (av.error.FFmpegError, ValueError):
                self.bad += 1
                continue
            for frame in frames:
                if first:
                    self._tell_of(frame)
                if frame.time is None:
                    seconds = 0.0 if first else last + usual
                else:
                    origin = frame.time if origin is None else origin
                    seconds = max(frame.time - origin, 0.0)
                    if seconds <= last:  # time goes on, whatever the stamps say
                        if last - seconds > 1:
                            origin -= last + usual - seconds
                        seconds = last + usual
                shown = usual
                if frame.duration and frame.time_base:
                    shown = float(frame.duration * frame.time_base) or usual
                last, first = seconds, False
                yield Raw(seconds, shown, lambda frame=frame: self._upright(frame))
        self._tell_of_end(max(last + shown if not first else 0.0, reached[0]), first)

    def _packets(
        self, container: Any, stream: Any, origin: float, reached: list[float]
    ) -> Iterator[Any]:
        """Yield the packets of the stream, past places where the file is broken."""
        import av

        chosen = [stream, *container.streams.audio[:1]]
        errors = 0
        while errors < ERRORS:
            try:
                for packet in container.demux(chosen):
                    errors = 0
                    if packet.pts is not None and packet.time_base:
                        end = packet.pts + (packet.duration or 0)
                        reached[0] = max(
                            reached[0], float(end * packet.time_base) - origin
                        )
                    if packet.stream is stream or packet.stream.index == stream.index:
                        yield packet
                return
            except EOFError:
                return
            except (av.error.FFmpegError, OSError) as error:
                if isinstance(error, TimeoutError | ConnectionError):
                    self.notes.append(f"the connection was lost: {error.strerror}")
                    return
                errors += 1
                self.bad += 1

    def _tell_of(self, frame: Any) -> None:
        turn = _orientation(frame)
        if turn != (False, False, False):
            self.facts["turned"] = _words(turn)
        if (aspect := self._aspect) != 1:
            self.facts["pixel aspect"] = f"{aspect.numerator}:{aspect.denominator}"
        if (kind := HIGH_RANGE.get(int(frame.color_trc or 0))) is not None:
            text = f"high dynamic range ({kind}) is shown without tone mapping"
            self.notes.append(f"{text}: colours look pale")

    def _tell_of_end(self, end: float, nothing: bool) -> None:
        if self._stop.is_set():
            return
        if nothing:
            self.notes.append("no frame could be decoded")
        elif self.seconds is not None and end < self.seconds - SHORT_S:
            text = f"ends at {end:.1f} s of the {self.seconds:.1f} s that it names"
            self.notes.append(f"{text}: the file is cut off")

    def _upright(self, frame: Any) -> UInt8[np.ndarray, "h w 3"]:
        width = max(1, round(frame.width * self._aspect))
        if width != frame.width:
            frame = frame.reformat(width=width, height=frame.height, format="rgb24")
        image = frame.to_ndarray(format="rgb24")
        return _turned(image, _orientation(frame))


def opened(source: Any, **options: Any) -> Any:
    """Return the container of a path, an address as text, or a binary file.

    options: of `av.open`, whose errors it raises.
    """
    import av

    # Titles in odd encodings are no reason to refuse a video; from PyAV 19 on they are
    # none for it either.
    if int(av.__version__.split(".")[0]) < 19:
        options["metadata_errors"] = "replace"
    # A name with a colon is a file here, not an address of libav's.
    return av.open(f"file:{source}" if isinstance(source, Path) else source, **options)


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(16)


def _stem(source: Any) -> str:
    if isinstance(source, Path):
        return source.stem or source.name
    if isinstance(source, str):
        return re.sub(r"\W+", "-", source.split("?")[0]).strip("-")
    return "pipe"


def _fraction(value: Any) -> Fraction:
    """A ratio of PyAV's, which from 19 on is no `Fraction`."""
    return Fraction(value.numerator, value.denominator)


def _rate(stream: Any) -> Fraction | None:
    # The average is a mere default where nothing says how long the stream is.
    rates = [stream.average_rate, stream.guessed_rate]
    if stream.duration is None and not stream.frames:
        rates.reverse()
    return next((_fraction(x) for x in rates if x and 0 < x <= 1000), None)


def _seconds(container: Any, stream: Any) -> float | None:
    # Matroska counts from 0 and not from where the stream begins.
    early = max(_origin(stream) or 0.0, 0.0)
    named = re.match(r"(\d+):(\d+):([\d.]+)$", stream.metadata.get("DURATION", ""))
    if named:
        hours, minutes, seconds = map(float, named.groups())
        return max(3600 * hours + 60 * minutes + seconds - early, 0.0)
    if stream.duration is not None and stream.duration > 0:
        return float(stream.duration * stream.time_base)
    if container.duration is not None and container.duration > 0:
        early *= "matroska" in container.format.name
        return max(container.duration / 1_000_000 - early, 0.0)
    return None


def _origin(stream: Any) -> float | None:
    if stream.start_time is not None:
        return float(stream.start_time * stream.time_base)
    return None


def _orientation(frame: Any) -> tuple[bool, bool, bool]:
    """Whether the picture is to be transposed, then mirrored left-right, top-down.

    Source: libavutil display.h: a matrix of 9 numbers, of which a, b, c, d in
    (x, y) -> (a x + c y, b x + d y) turn and mirror. A turn by less than a quarter is
    not shown by any player.
    """
    from av.sidedata.sidedata import Type

    data = frame.side_data.get(Type.DISPLAYMATRIX)
    if data is None:
        return False, False, False
    matrix = np.frombuffer(bytes(data), np.int32)
    a, b, c, d = (int(matrix[i]) for i in (0, 1, 3, 4))
    if abs(b) > abs(a):
        return True, c < 0, b < 0
    return False, a < 0, d < 0


def _turned(
    image: UInt8[np.ndarray, "h w 3"], turn: tuple[bool, bool, bool]
) -> UInt8[np.ndarray, "h2 w2 3"]:
    if not any(turn):
        return image
    transposed, mirrored, flipped = turn
    if transposed:
        image = image.transpose(1, 0, 2)
    if mirrored:
        image = image[:, ::-1]
    if flipped:
        image = image[::-1]
    return np.ascontiguousarray(image)


def _words(turn: tuple[bool, bool, bool]) -> str:
    words = {
        (True, True, False): "90 degrees clockwise",
        (False, True, True): "180 degrees",
        (True, False, True): "90 degrees counterclockwise",
        (False, True, False): "mirrored left to right",
        (False, False, True): "mirrored top to bottom",
    }
    return words.get(turn, "mirrored along a diagonal")
