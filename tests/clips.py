"""Odd clips, made by PyAV: a bar that moves, blue above, red on the left."""

import contextlib
import socket
import threading
import time
from fractions import Fraction

import av
import numpy as np

BLUE, RED, GREY = (40, 40, 200), (200, 40, 40), (60, 60, 60)


def picture(t, hw=(96, 160)):
    """Frame t: its number can be read off the white bar."""
    h, w = hw
    image = np.full((h, w, 3), GREY, np.uint8)
    image[:, : max(1, w // 10)] = RED
    image[: max(1, h // 8)] = BLUE
    x = w // 5 + 6 * t
    image[h // 4 :, x : x + 6] = 230
    return image


def number(image):
    """The number of a frame, read off its picture."""
    h, w = image.shape[:2]
    row = image[h // 2 :].astype(int).min(axis=(0, 2))
    return round((int(np.argmax(row > 140)) - w // 5) / 6)


def write(
    path,
    *,
    count=12,
    hw=(96, 160),
    rate=Fraction(10),
    codec="h264",
    pixels="yuv420p",
    times=None,
    turn=None,
    matrix=None,
    aspect=None,
    tags=None,
    options=None,
    muxer=None,
    sound=None,
    gop=12,
    images=None,
):
    """A clip; times: seconds of its frames. Returns its path."""
    with av.open(str(path), "w", format=muxer, container_options=options or {}) as out:
        stream = out.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *hw, pixels
        if codec in ("h264", "libx265"):
            stream.options = {"preset": "ultrafast", "bf": "0", "g": str(gop)}
        context = stream.codec_context
        context.time_base = Fraction(1, 90_000) if times else 1 / rate
        if aspect:
            context.sample_aspect_ratio = aspect
        for name, value in (tags or {}).items():
            setattr(context, name, value)
        if turn:
            stream.set_display_rotation(turn)
        if matrix:
            stream.set_display_matrix(matrix)
        audio = out.add_stream(sound, rate=44_100) if sound else None
        for t in range(count):
            image = picture(t, hw) if images is None else images[t]
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame = frame.reformat(format=pixels)
            frame.pts = round(times[t] * 90_000) if times else t
            frame.time_base = context.time_base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if audio is not None:
            tone = np.sin(np.arange(int(44_100 * count / rate)) / 20)
            samples = (tone * 8000).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate, frame.pts = 44_100, 0
            for part in _resampled(audio, frame):
                out.mux(audio.encode(part))
            out.mux(audio.encode(None))
    return path


def _resampled(stream, frame):
    context = stream.codec_context
    size = context.frame_size if context.is_open else None
    resampler = av.AudioResampler(
        context.format, context.layout, context.sample_rate, frame_size=size or 1024
    )
    yield from resampler.resample(frame)
    yield from resampler.resample(None)


def serve(content, pause=0.0):
    """A sender on this machine that gives a stream to one listener; its address."""
    server = socket.create_server(("127.0.0.1", 0))

    def send():
        listener, _ = server.accept()
        # The listener may leave early.
        with server, listener, contextlib.suppress(OSError):
            for begin in range(0, len(content), 1880):
                listener.sendall(content[begin : begin + 1880])
                time.sleep(pause)

    threading.Thread(target=send, daemon=True).start()
    return f"tcp://127.0.0.1:{server.getsockname()[1]}"
