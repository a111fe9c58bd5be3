"""How a still image becomes a clip: a window glides over it, masks move along."""

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from stan_jax.masks import codec
from stan_jax.masks.codec import RLE


def glide(
    size: tuple[int, int],
    length: int,
    rng: np.random.Generator,
    *,
    motion: float = 1.0,
) -> Float[np.ndarray, "t 6"]:
    """Affine maps from pixels of a frame to pixels of the still image, smooth in time.

    A row is a b c d e f: x' = a x + b y + c, y' = d x + e y + f. The window lies
    inside the image: no borders are invented.

    Args:
      size: height, width of the image, and of the frames.
      length: frames.
      rng: makes all draws, as many for any motion.
      motion: from 0, all of the image in each frame, to 2. With 1 the window has 0.60
        to 0.84 of the sides, turns by up to 6 degrees, and goes where it has room.
    """
    height, width = size
    # Two ends and a bend between them; a half cosine starts and stops gently.
    ease = (1 - np.cos(np.linspace(0, np.pi, length))) / 2
    start, end, bend = rng.uniform(-1, 1, (3, 4))
    z = start + (end - start) * ease[:, None]
    z = np.clip(z + 0.3 * bend * np.sin(np.pi * ease)[:, None], -1, 1)
    scale = 1 - motion * (0.28 - 0.12 * z[:, 0])
    angle = motion * np.deg2rad(6) * z[:, 1]
    cos, sin = np.cos(angle), np.sin(angle)
    # Half sides of the upright box around the turned window; a long image has no room
    # to turn unless the window shrinks.
    reach_x = (np.abs(cos) * width + np.abs(sin) * height) / 2
    reach_y = (np.abs(sin) * width + np.abs(cos) * height) / 2
    scale = np.min([scale, width / 2 / reach_x, height / 2 / reach_y], axis=0)
    cos, sin, reach_x, reach_y = (scale * v for v in (cos, sin, reach_x, reach_y))
    room_x = np.maximum(width / 2 - reach_x, 0)
    room_y = np.maximum(height / 2 - reach_y, 0)
    x, y = width / 2 + z[:, 2] * room_x, height / 2 + z[:, 3] * room_y
    move_x = x - cos * width / 2 + sin * height / 2
    move_y = y - sin * width / 2 - cos * height / 2
    return np.stack([cos, -sin, move_x, sin, cos, move_y], axis=1)


def zoom(step: Float[np.ndarray, " 6"]) -> float:
    """Return how many pixels of the still image lie along one of the frame."""
    return float(np.hypot(step[0], step[3]))


def rescaled(
    step: Float[np.ndarray, " 6"],
    size: tuple[int, int],
    frame_hw: tuple[int, int],
    image_hw: tuple[int, int],
) -> Float[np.ndarray, " 6"]:
    """Return the map for frames and an image of other sizes than the map was made for.

    size: of both, height and width, that `glide` was given.
    """
    fy, fx = size[0] / frame_hw[0], size[1] / frame_hw[1]
    gy, gx = image_hw[0] / size[0], image_hw[1] / size[1]
    a, b, c, d, e, f = step
    return np.array(
        [a * fx * gx, b * fy * gx, c * gx, d * fx * gy, e * fy * gy, f * gy]
    )


def warp(
    image: Image.Image, step: Float[np.ndarray, " 6"], frame_hw: tuple[int, int]
) -> Image.Image:
    """Return the window's view of an image, as a frame of height and width frame_hw."""
    return image.transform(
        frame_hw[::-1],
        Image.Transform.AFFINE,
        step.tolist(),
        Image.Resampling.BILINEAR,
    )


def warp_mask(
    mask: RLE, step: Float[np.ndarray, " 6"], frame_hw: tuple[int, int]
) -> Bool[np.ndarray, "h w"] | None:
    """Return the window's view of a mask, None where the window shows nothing of it.

    A pixel belongs to it that is more object than not, sampled as `warp` samples the
    image. Takes time with the object, not with the frame.
    """
    top, left, part = _part(mask)
    rows, columns = _reached(step, (top, left), part.shape, frame_hw)
    a, b, c, d, e, f = step
    x, y = columns.start, rows.start
    inside = np.array([a, b, a * x + b * y + c - left, d, e, d * x + e * y + f - top])
    grey = Image.fromarray(part.view(np.uint8) * np.uint8(255))
    seen = np.asarray(warp(grey, inside, (len(rows), len(columns)))) > 127
    if not seen.any():
        return None
    found = np.zeros(frame_hw, bool)
    found[y : y + len(rows), x : x + len(columns)] = seen
    return found


def _part(mask: RLE) -> tuple[int, int, Bool[np.ndarray, "h w"]]:
    """Return top, left and pixels of a mask, with what is beside it in the image."""
    height, width = mask["size"]
    top, left, pixels = codec.decode_part(mask)
    bottom, right = top + pixels.shape[0], left + pixels.shape[1]
    # A background pixel on each side, which sampling mixes in; none beyond the image.
    sides = ((top > 0, bottom < height), (left > 0, right < width))
    around = tuple((int(a), int(b)) for a, b in sides)
    return top - around[0][0], left - around[1][0], np.pad(pixels, around)


def _reached(
    step: Float[np.ndarray, " 6"],
    corner: tuple[int, int],
    part_hw: tuple[int, int],
    frame_hw: tuple[int, int],
) -> tuple[range, range]:
    """Return the rows and columns of the frame that may show a part of the image."""
    forward = np.array([[step[0], step[1]], [step[3], step[4]]])
    x, y = (corner[1], corner[1] + part_hw[1]), (corner[0], corner[0] + part_hw[0])
    corners = np.array([(i, j) for i in x for j in y], float) - step[[2, 5]]
    there = np.linalg.solve(forward, corners.T)
    (left, top), (right, bottom) = np.floor(there.min(1)), np.ceil(there.max(1))
    return (
        range(max(int(top), 0), min(int(bottom), frame_hw[0])),
        range(max(int(left), 0), min(int(right), frame_hw[1])),
    )
