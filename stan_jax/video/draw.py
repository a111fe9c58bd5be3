"""What a frame looks like with its tracks on it, one colour each."""

import colorsys
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont

FILL = 0.42  # opacity of a mask
READABLE = 360  # pixels of height below which a picture is enlarged


def colour(track: int) -> tuple[int, int, int]:
    """Return the RGB colour of a track: always the same, far from its neighbours'.

    The hue moves by the golden ratio, which spreads any number of tracks evenly.
    """
    hue = (0.02 + track * 0.6180339887) % 1.0
    rgb = colorsys.hsv_to_rgb(hue, (0.85, 0.65)[track % 2], (1.0, 0.9)[track // 2 % 2])
    red, green, blue = (round(255 * x) for x in rgb)
    return red, green, blue


def overlay(
    image: UInt8[np.ndarray, "h w 3"],
    masks: Bool[np.ndarray, "n h w"],
    boxes: Float[np.ndarray, "n 4"],
    ids: Int[np.ndarray, " n"],
    texts: Sequence[str],
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Return the picture with each track's mask, outline, box and text.

    boxes: xyxy pixels of the image. A small image comes back enlarged by a whole
    number, so that the texts can be read.
    """
    zoom = max(1, round(READABLE / image.shape[0]))
    picture = _enlarge(image, zoom).astype(np.float32)
    # Small objects last: they stay visible on top of large ones.
    order = sorted(range(len(ids)), key=lambda n: -int(masks[n].sum()))
    for n in order:
        mask = _enlarge(masks[n], zoom)
        rgb = np.array(colour(int(ids[n])), np.float32)
        picture[mask] += FILL * (rgb - picture[mask])
        picture[_outline(mask, max(1, picture.shape[0] // 270))] = rgb
    canvas = Image.fromarray(picture.round().astype(np.uint8))
    pen = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=max(11, canvas.height // 28))
    for n in order:
        box = [float(x) * zoom for x in boxes[n]]
        pen.rectangle(box, outline=colour(int(ids[n])), width=1)
    for n in order:
        corner = (float(boxes[n][0]) * zoom, float(boxes[n][1]) * zoom)
        _plate(pen, canvas.size, corner, texts[n], colour(int(ids[n])), font)
    return np.asarray(canvas)


def caption(image: UInt8[np.ndarray, "h w 3"], text: str) -> UInt8[np.ndarray, "h w 3"]:
    """Return the image with a small dark line of text in its lower left corner."""
    canvas = Image.fromarray(image)
    font = ImageFont.load_default(size=max(11, canvas.height // 26))
    pen = ImageDraw.Draw(canvas)
    _plate(pen, canvas.size, (0, canvas.height * 2), text, (24, 24, 24), font)
    return np.asarray(canvas)


def _plate(pen, size, corner, text, rgb, font) -> None:
    """A filled plate above `corner`, moved as little as keeps it in the picture."""
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    width, height = right - left + 6, bottom - top + 5
    x = min(max(corner[0], 0), max(size[0] - width, 0))
    y = min(max(corner[1] - height, 0), max(size[1] - height, 0))
    pen.rectangle([x, y, x + width, y + height], fill=rgb)
    luminance = 0.3 * rgb[0] + 0.59 * rgb[1] + 0.11 * rgb[2]
    ink = (0, 0, 0) if luminance > 140 else (255, 255, 255)
    pen.text((x + 3 - left, y + 2 - top), text, fill=ink, font=font)


def _enlarge(x: np.ndarray, zoom: int) -> np.ndarray:
    return x.repeat(zoom, axis=0).repeat(zoom, axis=1)


def _outline(mask: Bool[np.ndarray, "h w"], width: int) -> Bool[np.ndarray, "h w"]:
    """The pixels of a mask that lie less than `width` from its edge."""
    inner = np.pad(mask, 1, mode="edge")
    for _ in range(width):
        inner[1:-1, 1:-1] &= (
            inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:]
        )
    return mask & ~inner[1:-1, 1:-1]
