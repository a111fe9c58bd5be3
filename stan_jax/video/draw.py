"""Frames with their tracks on them, one colour each."""

from collections import deque
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image, ImageDraw

from stan_jax.video import fonts

FILL = 0.45  # opacity of a mask
SHADE = 0.45  # what the pixels around a mask keep of their light
READABLE = 360  # pixels of height below which a picture is enlarged
PARTS = ("labels", "scores", "boxes", "masks")  # of an overlay, which can be hidden

# Top, left and pixels of the tight box around a mask, see `codec.decode_part`.
Part = tuple[int, int, Bool[np.ndarray, "_ _"]]


class Style(NamedTuple):
    """Style of an overlay.

    Args:
      line_width: of outlines, boxes and trails in pixels; None: grows with the picture.
      hide: names among `PARTS`.
      color_by: what shares a colour.
      trail_s: seconds of its way that each track draws behind it.
    """

    line_width: int | None = None
    hide: frozenset[str] = frozenset()
    color_by: Literal["track", "class"] = "track"
    trail_s: float = 0.0


PLAIN = Style()


class Trails:
    """The ways of the tracks of one video over the last seconds."""

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._ways: dict[int, deque] = {}

    def see(
        self, now: float, ids: Int[np.ndarray, " n"], boxes: Float[np.ndarray, "n 4"]
    ) -> list[list[tuple[float, float]]]:
        """Return the way of each track up to now, as points (x, y) in pixels."""
        for track, (x1, y1, x2, y2) in zip(ids.tolist(), boxes.tolist(), strict=True):
            way = self._ways.setdefault(track, deque())
            way.append((now, ((x1 + x2) / 2, (y1 + y2) / 2)))
        for track, way in list(self._ways.items()):
            while way and way[0][0] < now - self._seconds:
                way.popleft()
            if not way:
                del self._ways[track]
        return [[at for _, at in self._ways.get(track, ())] for track in ids.tolist()]


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
    parts: Sequence[Part],
    boxes: Float[np.ndarray, "n 4"],
    ids: Int[np.ndarray, " n"],
    texts: Sequence[str],
    *,
    style: Style = PLAIN,
    trails: Sequence[Sequence[tuple[float, float]]] = (),
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Return the picture with each track's mask, outline, box and text.

    Only pixels of the boxes are touched. A small image comes back enlarged by a whole
    number, so that the texts can be read.

    Args:
      boxes: xyxy pixels of the image.
      ids: numbers that choose the colours.
      trails: points of the way of each track, if any.
    """
    height, width = image.shape[:2]
    zoom = max(1, round(min(READABLE / height, 2 * READABLE / width)))
    canvas = _enlarged(image, zoom)
    line = style.line_width or max(1, round(min(canvas.size) / 240))
    rgbs = [colour(int(number)) for number in ids]
    # Small objects last: they stay visible on top of large ones.
    order = sorted(range(len(ids)), key=lambda n: -int(parts[n][2].sum()))
    if "masks" not in style.hide:
        for n in order:
            top, left, mask = parts[n]
            paint(canvas, _grid(mask, zoom), rgbs[n], line, (zoom * top, zoom * left))
    pen = ImageDraw.Draw(canvas, "RGBA")
    for n, way in enumerate(trails):
        if len(way) > 1:
            points = [(zoom * x, zoom * y) for x, y in way]
            pen.line(points, fill=(*rgbs[n], 200), width=line, joint="curve")
    scaled = [(zoom * box).tolist() for box in boxes]
    if "boxes" not in style.hide:
        for n in order:
            _corners(pen, scaled[n], rgbs[n], line)
    if "labels" not in style.hide:
        taken: list[tuple[float, ...]] = []
        for n in reversed(order):
            taken.append(_plate(pen, scaled[n], texts[n], rgbs[n], taken))
    return np.asarray(canvas)


def caption(image: UInt8[np.ndarray, "h w 3"], text: str) -> UInt8[np.ndarray, "h w 3"]:
    """Return the image with a small dark line of text in its lower left corner."""
    canvas = Image.fromarray(image)
    pen = ImageDraw.Draw(canvas, "RGBA")
    below = [0.0, canvas.height, 0.0, canvas.height]
    _plate(pen, below, text, (24, 24, 24), [])
    return np.asarray(canvas)


def paint(
    canvas: Image.Image,
    mask: Bool[np.ndarray, "h w"],
    rgb: tuple[int, int, int],
    line: int,
    corner: tuple[int, int] = (0, 0),
) -> None:
    """Fill a mask in place, with an outline inside its edge and a shade around it.

    line: width of the outline in pixels. corner: top and left of the mask.
    """
    if not mask.any():
        return
    mask = np.pad(mask, 1)
    outside = ~mask
    for _ in range(line):
        outside = _grown(outside)
    alpha = np.where(mask, np.uint8(255), np.uint8(0))
    alpha[~outside] = round(255 * FILL)
    ring = _grown(mask) & ~mask
    shade = np.where(ring, np.uint8(round(255 * (1 - SHADE))), np.uint8(0))
    at = (corner[1] - 1, corner[0] - 1)
    canvas.paste((0, 0, 0), at, Image.fromarray(shade))
    canvas.paste(rgb, at, Image.fromarray(alpha))


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
    while pen.textlength(text, fonts.font(text, size)) > width - 8 and size > 7:
        size -= 1
    font = fonts.font(text, size)
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


def _enlarged(image: UInt8[np.ndarray, "h w 3"], zoom: int) -> Image.Image:
    """A copy, smooth between the pixels."""
    canvas = Image.fromarray(image)
    size = (canvas.width * zoom, canvas.height * zoom)
    return canvas if zoom == 1 else canvas.resize(size, Image.Resampling.BICUBIC)


def _grid(mask: Bool[np.ndarray, "h w"], zoom: int) -> Bool[np.ndarray, "h2 w2"]:
    """The mask enlarged, with sharp edges."""
    if zoom == 1 or not mask.size:
        return mask
    grey = Image.fromarray(np.pad(mask, 1).view(np.uint8) * np.uint8(255))
    size = (grey.width * zoom, grey.height * zoom)
    large = np.asarray(grey.resize(size, Image.Resampling.BILINEAR)) > 127
    return large[zoom:-zoom, zoom:-zoom]
