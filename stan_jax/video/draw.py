"""Frames with their tracks on them, one colour each."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont

FILL = 0.45  # opacity of a mask
SHADE = 0.45  # what the pixels around a mask keep of their light
READABLE = 360  # pixels of height below which a picture is enlarged


def colour(track: int) -> tuple[int, int, int]:
    """Return the RGB colour of a track: always the same, far from its neighbours'.

    Hues move by the golden ratio, which spreads any number of tracks evenly; six
    lightnesses take turns, for eyes that tell hues badly.
    Source: OKLab, bottosson.github.io/posts/oklab.
    """
    hue = 2 * np.pi * ((0.96 + 0.6180339887 * track) % 1)
    light, chroma = (0.70, 0.81, 0.60, 0.75, 0.65, 0.85)[track % 6], 0.19
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    to_lms = [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728]]
    to_lms.append([1, -0.0894841775, -1.2914855480])
    to_rgb = [[4.0767416621, -3.3077115913, 0.2309699292]]
    to_rgb.append([-1.2684380046, 2.6097574011, -0.3413193965])
    to_rgb.append([-0.0041960863, -0.7034186147, 1.7076147010])
    linear = np.array(to_rgb) @ (np.array(to_lms) @ [light, a, b]) ** 3
    rgb = np.clip(linear, 0, 1) ** (1 / 2.2)
    red, green, blue = (round(255 * float(x)) for x in rgb)
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
    height, width = image.shape[:2]
    zoom = max(1, round(min(READABLE / height, 2 * READABLE / width)))
    picture = _enlarge(image, zoom)
    line = max(1, round(min(picture.shape[:2]) / 240))
    # Small objects last: they stay visible on top of large ones.
    order = sorted(range(len(ids)), key=lambda n: -int(masks[n].sum()))
    for n in order:
        paint(picture, _enlarge(masks[n], zoom), colour(int(ids[n])), line)
    canvas = Image.fromarray(picture)
    pen = ImageDraw.Draw(canvas, "RGBA")
    for n in order:
        _corners(pen, (zoom * boxes[n]).tolist(), colour(int(ids[n])), line)
    taken: list[tuple[float, ...]] = []
    for n in reversed(order):
        box = (zoom * boxes[n]).tolist()
        taken.append(_plate(pen, box, texts[n], colour(int(ids[n])), taken))
    return np.asarray(canvas)


def caption(image: UInt8[np.ndarray, "h w 3"], text: str) -> UInt8[np.ndarray, "h w 3"]:
    """Return the image with a small dark line of text in its lower left corner."""
    canvas = Image.fromarray(image)
    pen = ImageDraw.Draw(canvas, "RGBA")
    below = [0.0, canvas.height, 0.0, canvas.height]
    _plate(pen, below, text, (24, 24, 24), [])
    return np.asarray(canvas)


def paint(
    picture: UInt8[np.ndarray, "h w 3"],
    mask: Bool[np.ndarray, "h w"],
    rgb: tuple[int, int, int],
    line: int,
) -> None:
    """Fill a mask in place, with an outline inside its edge and a shade around it.

    line: width of the outline in pixels.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return
    top, left = max(rows[0] - 1, 0), max(columns[0] - 1, 0)
    part = np.s_[top : rows[-1] + 2, left : columns[-1] + 2]
    mask, pixels = mask[part], picture[part].astype(np.float32)
    inner = mask
    for _ in range(line):
        inner = ~_grown(~inner)
    pixels[inner] += FILL * (np.array(rgb, np.float32) - pixels[inner])
    pixels[mask & ~inner] = rgb
    pixels[_grown(mask) & ~mask] *= SHADE
    picture[part] = pixels.round()


def _grown(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The mask and every pixel beside, above or below it."""
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    grown[:, 1:] |= mask[:, :-1]
    grown[:, :-1] |= mask[:, 1:]
    return grown


def _corners(pen, box, rgb, line: int) -> None:
    """A faint box with strong corners, which hides little of what is behind."""
    x1, y1, x2, y2 = (round(x - i // 2) for i, x in enumerate(box))  # half-open
    if x2 <= x1 or y2 <= y1:
        return
    pen.rectangle([x1, y1, x2, y2], outline=(*rgb, 120))
    reach = max(2, round(min(x2 - x1, y2 - y1) / 6))
    for x, dx in ((x1, reach), (x2, -reach)):
        for y, dy in ((y1, reach), (y2, -reach)):
            pen.line([(x + dx, y), (x, y), (x, y + dy)], fill=(*rgb, 255), width=line)


def _plate(pen, box, text: str, rgb, taken) -> tuple[float, ...]:
    """Write on a filled plate at the box, inside the picture; return where it lies."""
    width, height = pen.im.size
    size = max(11, round(min(width, height) / 26))
    while pen.textlength(text, _font(size)) > width - 8 and size > 7:
        size -= 1
    font = _font(size)
    while pen.textlength(text, font) > width - 8 and len(text) > 1:
        text = text[:-1]
    w, h = pen.textlength(text, font) + 0.7 * size, 1.45 * size
    x = min(max(box[0], 0.0), max(width - w, 0.0))
    # Above the box, else inside its top, else below it: the first that is free.
    tops = [
        min(max(y, 0.0), max(height - h, 0.0)) for y in (box[1] - h, box[1], box[3])
    ]
    free = [y for y in tops if not any(_meet((x, y, x + w, y + h), o) for o in taken)]
    y = (free or tops)[0]
    place = (x, y, x + w, y + h)
    pen.rounded_rectangle(place, radius=0.3 * size, fill=(*rgb, 225))
    bright = 0.3 * rgb[0] + 0.59 * rgb[1] + 0.11 * rgb[2] > 130
    ink = (0, 0, 0) if bright else (255, 255, 255)
    pen.text((x + 0.35 * size, y + h / 2), text, fill=ink, font=font, anchor="lm")
    return place


def _meet(a, b) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@lru_cache
def _font(size: int):
    return ImageFont.load_default(size=size)


def _enlarge(x: np.ndarray, zoom: int) -> np.ndarray:
    """A copy, smooth between the pixels; the edge of a mask stays sharp."""
    if zoom == 1:
        return x.copy()
    size = (x.shape[1] * zoom, x.shape[0] * zoom)
    if x.ndim == 3:
        return np.array(Image.fromarray(x).resize(size, Image.Resampling.BICUBIC))
    grey = Image.fromarray(x.astype(np.uint8) * 255)
    return np.array(grey.resize(size, Image.Resampling.BILINEAR)) > 127
