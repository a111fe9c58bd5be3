"""A still image as the frames of a training pair, with its masks moved along."""

import math

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from stan_jax.annotations import youtube_vis
from stan_jax.annotations.youtube_vis import Dataset, Video
from stan_jax.loading import plan
from stan_jax.loading.clips import Masks
from stan_jax.media import glide
from stan_jax.ops import canvas

TRIES = 8  # paths that are drawn until one shows an object


def moved(
    dataset: Dataset,
    video: Video,
    rng: np.random.Generator,
    *,
    frame_hw: tuple[int, int],
    length: int,
    motion: float,
) -> tuple[list[UInt8[np.ndarray, "h w 3"]], list[Masks]]:
    """Return frames of a window that glides over a still, and masks of the last two.

    Pixels and masks are sampled at the same places, each once. Where no path is found
    on which the last frame shows an object nothing moves; a still without objects
    takes any path.

    Args:
      video: of one frame; the masks are those of its `plan.trained` tracks.
      rng: makes all draws.
      frame_hw: height and width of the frames, in the ratio of the still.
      length: frames, at least 2.
      motion: above 0, see `glide.glide`.
    Raises: InputError as `youtube_vis.read_frame`.
    """
    size = video.height, video.width
    path, masks = _path(video, rng, frame_hw, length, motion)
    image = _image(dataset, video, path, frame_hw)
    frames = []
    for step in path:
        step = glide.rescaled(step, size, frame_hw, (image.height, image.width))
        frames.append(np.asarray(glide.warp(image, step, frame_hw)))
    return frames, masks


def _path(
    video: Video,
    rng: np.random.Generator,
    frame_hw: tuple[int, int],
    length: int,
    motion: float,
) -> tuple[Float[np.ndarray, "t 6"], list[Masks]]:
    """Return a path on which the last frame shows an object, and its masks."""
    size = video.height, video.width
    for _ in range(TRIES):
        path = glide.glide(size, length, rng, motion=motion)
        masks = _masks(video, path[-2:], frame_hw)
        if not masks[-1] or any(mask is not None for mask in masks[-1]):
            return path, masks
    path = glide.glide(size, length, rng, motion=0.0)
    return path, _masks(video, path[-2:], frame_hw)


def _masks(
    video: Video, path: Float[np.ndarray, "t 6"], frame_hw: tuple[int, int]
) -> list[Masks]:
    size = video.height, video.width
    steps = [glide.rescaled(step, size, frame_hw, size) for step in path]
    rles = [track.segmentations[0] for track in plan.trained(video)]
    return [
        [None if r is None else glide.warp_mask(r, step, frame_hw) for r in rles]
        for step in steps
    ]


def _image(
    dataset: Dataset,
    video: Video,
    path: Float[np.ndarray, "t 6"],
    frame_hw: tuple[int, int],
) -> Image.Image:
    """Return the still, no larger than frames of the nearest window need it.

    Sampling between pixels would miss some of a larger one.
    """
    nearest = min(map(glide.zoom, path))
    need = math.ceil(frame_hw[0] / nearest), math.ceil(frame_hw[1] / nearest)
    pixels = youtube_vis.read_frame(dataset, video, 0, max_hw=need)
    if pixels.shape[0] > need[0]:
        pixels = canvas.resize_frame(pixels, need)
    return Image.fromarray(pixels)
