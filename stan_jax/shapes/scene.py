"""Scene of a synthetic video: textured shapes that move over a textured ground.

Lengths are in units of 1/96 of the frame height, so one scene fits every size.
Sets of coordinates are pixels, x to the right and y down, centres at half numbers.
"""

import colorsys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

Plane = Float[np.ndarray, "h w"]

SUPER = 3  # samples per pixel along each axis
REACH = 1.25  # every shape lies within this many radii of its centre
OBJECTS = (2, 4)
RADIUS = (12.5, 24.0)  # times 0.78..1.28 while the scale swings
CROSSING = 0.35  # share of objects that cross the border
TYPICAL = 0.8  # share of objects in the texture of their class: TEXTURES[label]
MIN_AREA = 16  # visible pixels; below that an object counts as absent


def _star(x: Plane, y: Plane) -> Bool[np.ndarray, "h w"]:
    """True inside a star of five points, by folding the plane onto half a point."""
    outer, inner, half = 1.2, 0.52, np.pi / 5
    angle = np.mod(np.arctan2(y, x) + half, 2 * half) - half
    radius = np.hypot(x, y)
    u, v = radius * np.cos(angle), radius * np.abs(np.sin(angle))
    normal = (inner * np.sin(half), outer - inner * np.cos(half))
    return u * normal[0] + v * normal[1] < outer * inner * np.sin(half)


def _triangle(x: Plane, y: Plane) -> Bool[np.ndarray, "h w"]:
    sides = (np.cos(a) * x + np.sin(a) * y for a in (0.0, 2 * np.pi / 3, 4 * np.pi / 3))
    return np.maximum.reduce(list(sides)) < 0.6


def _cross(x: Plane, y: Plane) -> Bool[np.ndarray, "h w"]:
    x, y = np.abs(x), np.abs(y)
    return (np.maximum(x, y) < 1.1) & (np.minimum(x, y) < 0.36)


# Inside tests in the object's own frame, where its radius is 1. All differ under
# rotation: by corners (0, 3, 4, 5, 12) or by a hole.
SHAPES: dict[str, Callable[[Plane, Plane], Bool[np.ndarray, "h w"]]] = {
    "disc": lambda x, y: x * x + y * y < 1,
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) < 0.85,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": lambda x, y: np.abs(x * x + y * y - 0.66) < 0.4,  # radii 0.51 and 1.03
}

# Share of the second colour, 0..1, in the object's own frame; `f` is 4..7 per radius.
TEXTURES: tuple[Callable[[Plane, Plane, float], Plane], ...] = (
    lambda x, y, f: 0 * x,
    lambda x, y, f: _step(np.sin(f * x)),
    lambda x, y, f: _step(np.sin(0.8 * f * x) * np.sin(0.8 * f * y)),
    lambda x, y, f: _step(np.cos(f * x) + np.cos(f * y) - 0.8),
    lambda x, y, f: _step(np.sin(f * x + 2 * np.sin(f * y)) + np.sin(0.7 * f * y + x)),
    lambda x, y, f: np.clip(0.5 + 0.45 * x, 0, 1),
)


def _step(x: Plane) -> Plane:
    return 0.5 + 0.5 * np.tanh(4 * x)


class Sprite(NamedTuple):
    """One object: what it looks like, and where it is in each frame."""

    label: int
    texture: int
    frequency: float
    colours: Float[np.ndarray, "2 3"]  # RGB 0..255
    centres: Float[np.ndarray, "t 2"]  # pixels
    radii: Float[np.ndarray, " t"]  # pixels
    angles: Float[np.ndarray, " t"]  # radians


class Ground(NamedTuple):
    """The background: two colours mixed by a sum of plane waves that drifts."""

    colours: Float[np.ndarray, "2 3"]
    waves: Float[np.ndarray, "n 4"]  # amplitude, radians per pixel along x and y, phase
    drift: Float[np.ndarray, "2"]  # pixels per frame


class Film(NamedTuple):
    """A drawn video; `ids` is 0 on the ground, else 1 + the row of the top object."""

    frames: UInt8[np.ndarray, "t h w 3"]
    ids: Int[np.ndarray, "t h w"]
    labels: tuple[int, ...]


def draw(rng: np.random.Generator, frames: int, height: int, width: int) -> Film:
    """Draw one video of 2 to 4 objects; the later an object, the nearer it is."""
    ground = _ground(rng, height)
    sprites = _sprites(rng, ground, frames, height, width)
    film = Film(
        np.empty((frames, height, width, 3), np.uint8),
        np.zeros((frames, height, width), np.int8),
        tuple(sprite.label for sprite in sprites),
    )
    for t in range(frames):
        canvas = _paint_ground(ground, t, height, width)
        for row, sprite in enumerate(sprites, start=1):
            _paint(canvas, film.ids[t], row, sprite, t)
        canvas += rng.normal(0, 3, canvas.shape).astype(np.float32)  # sensor noise
        film.frames[t] = np.clip(canvas + 0.5, 0, 255)
    return film


def _ground(rng: np.random.Generator, height: int) -> Ground:
    """A dull ground: low-frequency noise, one slow ramp, or broad stripes."""
    hue, value = rng.uniform(), rng.uniform(0.25, 0.75)
    colours = [
        _rgb(hue + rng.uniform(-0.1, 0.1), rng.uniform(0, 0.4), value + change)
        for change in rng.uniform(0.04, 0.14) * np.array([-1, 1])
    ]
    count, periods = ((8, (28, 90)), (1, (200, 400)), (1, (16, 40)))[rng.integers(3)]
    speed = 2 * np.pi / (rng.uniform(*periods, count) * height / 96)
    angle = rng.uniform(0, 2 * np.pi, count)
    waves = np.stack(
        [
            np.full(count, 0.5 / np.sqrt(count)),
            speed * np.cos(angle),
            speed * np.sin(angle),
            rng.uniform(0, 2 * np.pi, count),
        ],
        axis=1,
    )
    return Ground(np.stack(colours), waves, rng.uniform(-1, 1, 2) * height / 96)


def _sprites(
    rng: np.random.Generator, ground: Ground, frames: int, height: int, width: int
) -> list[Sprite]:
    count = int(rng.integers(OBJECTS[0], OBJECTS[1] + 1))
    hue = rng.uniform()
    labels = [int(rng.integers(len(SHAPES))) for _ in range(count)]
    return [
        Sprite(
            label=label,
            texture=_texture(rng, label),
            frequency=float(rng.uniform(4, 7)),
            colours=_colours(rng, ground, hue + k / count),
            **_motion(rng, frames, height, width),
        )
        for k, label in enumerate(labels)
    ]


def _texture(rng: np.random.Generator, label: int) -> int:
    """The coat that a class mostly has, as zebras have stripes, or any."""
    return label if rng.uniform() < TYPICAL else int(rng.integers(len(TEXTURES)))


def _motion(
    rng: np.random.Generator, frames: int, height: int, width: int
) -> dict[str, np.ndarray]:
    """A straight line plus a swing; at some moment the centre is within the frame."""
    unit, time = height / 96, np.arange(frames)
    place, line = _crossing(rng) if rng.uniform() < CROSSING else _passage(rng)
    moment = rng.uniform(0.2, 0.8) * (frames - 1)
    period, beat = rng.uniform(6, 14, 2)
    wave = np.sin((time - moment) * 2 * np.pi / period)
    side = _toward(rng.uniform(0, 2 * np.pi)) * rng.uniform(0, 6)
    centres = (time - moment)[:, None] * line + wave[:, None] * side
    radius = np.exp(rng.uniform(*np.log(RADIUS)))
    pulse = np.sin((time - rng.uniform(0, beat)) * 2 * np.pi / beat)
    return dict(
        centres=place * (width, height) + centres * unit,
        radii=radius * unit * np.exp(rng.uniform(0, 0.25) * pulse),
        angles=rng.uniform(0, 2 * np.pi) + rng.uniform(-0.2, 0.2) * time,
    )


def _passage(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A place inside, as a share of the frame, and units per frame any way."""
    velocity = _toward(rng.uniform(0, 2 * np.pi)) * rng.uniform(1, 7.5)
    return rng.uniform(0.1, 0.9, 2), velocity


def _crossing(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A place on the border and a velocity across it, inwards or outwards."""
    outwards = rng.integers(4) * np.pi / 2
    along = _toward(outwards + np.pi / 2) * rng.uniform(-0.3, 0.3)
    heading = outwards + rng.integers(2) * np.pi + rng.uniform(-0.7, 0.7)
    place = 0.5 + 0.5 * _toward(outwards) + along
    return place, _toward(heading) * rng.uniform(5, 10)


def _toward(angle: float) -> Float[np.ndarray, "2"]:
    return np.array([np.cos(angle), np.sin(angle)])


def _colours(
    rng: np.random.Generator, ground: Ground, hue: float
) -> Float[np.ndarray, "2 3"]:
    """Two colours that stand out from the ground: well mostly, faintly at times."""
    minimum = 110 if rng.uniform() < 0.85 else 60
    for _ in range(100):
        shade = hue + rng.uniform(-0.06, 0.06), rng.uniform(0.5, 1)
        first = _rgb(*shade, rng.uniform(0.45, 1))
        second = first * rng.uniform(0.3, 0.6)
        if rng.uniform() < 0.5:
            second = 255 - (255 - first) * rng.uniform(0.2, 0.5)
        pair = np.stack([first, second])
        gaps = np.linalg.norm(pair[:, None] - ground.colours[None], axis=-1)
        if gaps.min() > minimum:
            break
    return pair


def _rgb(hue: float, saturation: float, value: float) -> Float[np.ndarray, "3"]:
    return 255 * np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value))


def _paint_ground(
    ground: Ground, t: int, height: int, width: int
) -> Float[np.ndarray, "h w 3"]:
    y = (np.arange(height, dtype=np.float32) + t * ground.drift[1])[:, None]
    x = (np.arange(width, dtype=np.float32) + t * ground.drift[0])[None, :]
    share = 0.5 + sum(a * np.sin(u * x + v * y + p) for a, u, v, p in ground.waves)
    share = np.clip(share, 0, 1).astype(np.float32)[..., None]
    near, far = ground.colours.astype(np.float32)
    return near + share * (far - near)


def _paint(
    canvas: Float[np.ndarray, "h w 3"],
    ids: Int[np.ndarray, "h w"],
    row: int,
    sprite: Sprite,
    t: int,
) -> None:
    """Lay one object over the canvas, with soft edges, and over the ids, with hard."""
    (cx, cy), radius = sprite.centres[t], sprite.radii[t]
    height, width = ids.shape
    low = np.floor(np.array([cx, cy]) - REACH * radius).astype(int)
    high = np.ceil(np.array([cx, cy]) + REACH * radius).astype(int)
    (x0, y0), (x1, y1) = np.maximum(low, 0), np.minimum(high, (width, height))
    if x0 >= x1 or y0 >= y1:
        return
    x = ((np.arange((x1 - x0) * SUPER) + 0.5) / SUPER + x0 - cx)[None, :] / radius
    y = ((np.arange((y1 - y0) * SUPER) + 0.5) / SUPER + y0 - cy)[:, None] / radius
    cos, sin = np.cos(sprite.angles[t]), np.sin(sprite.angles[t])
    u, v = (cos * x + sin * y), (cos * y - sin * x)
    inside = list(SHAPES.values())[sprite.label](u, v).astype(np.float64)
    share = TEXTURES[sprite.texture](u, v, sprite.frequency) * inside
    cover, share = _shrink(inside), _shrink(share)
    first, second = sprite.colours
    colour = cover[..., None] * first + share[..., None] * (second - first)
    window = canvas[y0:y1, x0:x1]
    window[...] = window * (1 - cover[..., None]) + colour
    ids[y0:y1, x0:x1][cover >= 0.5] = row


def _shrink(plane: Plane) -> Float[np.ndarray, "h2 w2"]:
    """Mean of each SUPER x SUPER block."""
    h, w = plane.shape
    return plane.reshape(h // SUPER, SUPER, w // SUPER, SUPER).mean((1, 3))
