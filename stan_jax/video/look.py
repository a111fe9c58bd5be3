"""A picture of what the attention looks at, level by level."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from stan_jax.tracking.look import Look, Point
from stan_jax.video import draw
from stan_jax.video.overlay import thumbnail

# Rising with the value, also for eyes that see no colours; after matplotlib's plasma.
HEAT = ((13, 8, 65), (126, 3, 168), (204, 71, 120), (248, 149, 64), (240, 249, 33))
BRIGHTNESS = 0.45  # of the frame under the heat


def rows(
    previous: UInt8[np.ndarray, "h w 3"],
    current: UInt8[np.ndarray, "h w 3"],
    at_xy: Point,
    looks: Sequence[Look],
) -> list[list[UInt8[np.ndarray, "_ _ 3"]]]:
    """Return two rows of pictures: where the point looks by level, and what that adds.

    Upper row: the current frame with the point, then the previous one under the weights
    of each level, brightest the cell that counts most. Lower row: the previous frame,
    then the current one under the size of gamma * A beside that of x1.
    """
    upper = [_marked(current, at_xy, "now: the point that looks")]
    lower = [_marked(previous, None, "the frame before")]
    for look in looks:
        share = f"{100 * look.weights.max():.3g} % in one cell"
        upper.append(
            _heated(previous, look.weights, f"stride {look.stride}: {share}", at_xy)
        )
        most = 100 * look.added.max()
        most = f"{most:.0f}" if most >= 10 else f"{most:.2g}"
        text = f"gamma {look.gamma:.2g}: adds up to {most} %"
        lower.append(_heated(current, look.added, text))
    return [upper, lower]


def _marked(frame: np.ndarray, at_xy: Point | None, text: str) -> np.ndarray:
    canvas = thumbnail(frame)
    if at_xy is not None:
        _cross(canvas, at_xy, frame)
    return draw.caption(np.asarray(canvas), text)


def _cross(canvas: Image.Image, at_xy: Point, frame: np.ndarray) -> None:
    x, y = (value * canvas.width / frame.shape[1] for value in at_xy)
    pen = ImageDraw.Draw(canvas)
    for width, fill in ((5, (0, 0, 0)), (2, (255, 255, 255))):
        pen.ellipse([x - 7, y - 7, x + 7, y + 7], outline=fill, width=width // 2 + 1)
        pen.line([x - 11, y, x + 11, y], fill=fill, width=width)
        pen.line([x, y - 11, x, y + 11], fill=fill, width=width)


def _heated(
    frame: np.ndarray,
    values: Float[np.ndarray, "rows columns"],
    text: str,
    at_xy: Point | None = None,
) -> np.ndarray:
    """The frame in grey under the values, cells with sharp edges."""
    canvas = thumbnail(frame)
    most = float(values.max())
    level = values / most if most > 0 else np.zeros_like(values)
    stops = np.linspace(0, 1, len(HEAT))
    heat = [np.interp(level, stops, channel) for channel in np.transpose(HEAT)]
    cells = Image.fromarray(np.stack(heat, -1).astype(np.uint8))
    large = np.asarray(cells.resize(canvas.size, Image.Resampling.NEAREST), np.float32)
    grey = np.asarray(canvas.convert("L"), np.float32)[..., None] * BRIGHTNESS
    mixed = np.minimum(grey + 0.75 * large, 255).astype(np.uint8)
    canvas = Image.fromarray(mixed)
    if at_xy is not None:
        _cross(canvas, at_xy, frame)
    return draw.caption(np.asarray(canvas), text)
