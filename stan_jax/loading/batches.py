"""Training pairs from disk in a fixed order, as batches of one canvas.

Everything about batch i (videos, frames, flips, scales) follows from the seed and i
alone, so the order is the same for any number of threads, processes or restarts.
"""

import itertools
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import grain
import numpy as np
from jaxtyping import Bool

from stan_jax.annotations import youtube_vis
from stan_jax.annotations.youtube_vis import Dataset, Track, Video
from stan_jax.errors import InputError
from stan_jax.loading import clips, plan, stills
from stan_jax.ops import canvas as canvases
from stan_jax.types import Pair


class _Settings(NamedTuple):
    batch: int
    canvas: tuple[int, int]
    gap: str | int
    flip: float
    scales_hw: tuple[tuple[int, int], ...]
    max_objects: int
    frames: int
    still_motion: float
    seed: int


def pairs(
    datasets: Sequence[tuple[Dataset, float]],
    *,
    batch: int,
    canvas: tuple[int, int],
    gap: str | int,
    flip: float,
    seed: int,
    max_objects: int,
    scales_hw: Sequence[tuple[int, int]] | None = None,
    num_threads: int = 2,
    prefetch: int = 4,
    negatives: bool = False,
    frames: int = 2,
    still_motion: float = 0.0,
    shard_index: int = 0,
    shard_count: int = 1,
) -> grain.DatasetIterator[Pair]:
    """Endless batches of training pairs; every field of a `Pair` gets a leading b.

    Args:
      datasets: each with its weight, in proportion to which pairs are taken from it;
        within a dataset every frame that shows an object comes once before any again.
      batch: pairs in a batch over all shards; each shard yields batch / shard_count.
      canvas: landscape (height, width). All of a batch, over all shards, is landscape,
        or all is portrait and has the transposed canvas.
      gap: which frame may be the previous one (choice A16, `clips.references`).
      flip: probability of mirroring a pair.
      scales_hw: bounds of the sides, one drawn for each pair; None: the canvas.
      num_threads: threads that prepare batches; 0: none.
      prefetch: batches that are prepared ahead, at least one.
      negatives: frames without an object are trained on as well, as examples of none.
      frames: of a pair, at least 2; more lead up to the previous frame.
      still_motion: of the window that makes the frames of a pair from a video of one
        frame, see `glide.glide`; 0: the still is its own previous frame.
    The iterator has `get_state()` (a small dict), `set_state()` and `close()`.
    Raises: InputError, before the first batch, if the datasets do not go together, if
    no frame shows an object, or if some pair has more than max_objects objects.
    """
    settings = _Settings(
        batch=batch,
        canvas=canvas,
        gap=gap,
        flip=flip,
        scales_hw=tuple(scales_hw or (canvas,)),
        max_objects=max_objects,
        frames=frames,
        still_motion=still_motion,
        seed=seed,
    )
    _check_settings(settings, shard_index, shard_count, num_threads)
    groups = plan.groups(datasets, negatives=negatives)
    for group in itertools.chain(*groups):
        plan.check_objects(group.items, gap, max_objects)
    rows = batch // shard_count
    mine = range(shard_index * rows, (shard_index + 1) * rows)

    def load(number: int) -> Pair:
        items = plan.batch_items(groups, batch, seed, number)
        video = items[0].video
        canvas_hw = canvases.canvas_of(video.height, video.width, canvas)
        whole = clips.blank_pair(canvas_hw, max_objects, rows, frames=frames)
        for row, r in enumerate(mine):
            into = Pair(*(field[row, ...] for field in whole))  # views, all of them
            _load_pair(items[r], settings, number * batch + r, into)
        return whole

    source = grain.MapDataset.range(sys.maxsize).map(load)
    ahead = max(prefetch, num_threads) if num_threads else 0  # Grain asks for both
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=ahead)
    return iter(source.to_iter_dataset(options))


def num_pairs(dataset: Dataset, *, negatives: bool = False) -> int:
    """Number of frames to train on: those that show an object which is no crowd.

    negatives: the others as well, see `pairs`.
    """
    return len(plan.all_items(dataset, negatives=negatives))


def vanishing(
    dataset: Dataset, canvas: tuple[int, int], scales_hw: Sequence[tuple[int, int]]
) -> tuple[int, int]:
    """Return how many masks have no pixel left at the smallest scale, of how many."""
    smallest = min(scales_hw, key=min)
    lost = total = 0
    for video in dataset.videos:
        size_hw = (video.height, video.width)
        canvas_hw = canvases.canvas_of(*size_hw, canvas)
        new_hw = canvases.fit(*size_hw, canvas_hw, smallest)[1:]
        # A mask that is wider and higher than a few steps keeps a pixel for certain.
        safe = 4 * max(old / new for old, new in zip(size_hw, new_hw, strict=True))
        for track in plan.trained(video):
            for rle, box in zip(track.segmentations, track.boxes, strict=True):
                if rle is None:
                    continue
                total += 1
                if min(box[2] - box[0], box[3] - box[1]) < safe:
                    mask = youtube_vis.mask(rle, *size_hw)
                    lost += not clips.resize_mask(mask, new_hw).any()
    return lost, total


def _load_pair(item: plan.Item, settings: _Settings, number: int, into: Pair) -> None:
    """Fill in pair `number` of the run; a generator of its own makes all its draws."""
    rng = np.random.default_rng((settings.seed, 1, number))
    dataset, video, t, usable = item
    ref = clips.reference_frame(rng, usable, t, settings.gap)
    flip = bool(rng.random() < settings.flip)
    scale_hw = settings.scales_hw[rng.integers(len(settings.scales_hw))]
    size_hw = (video.height, video.width)
    canvas_hw = canvases.canvas_of(*size_hw, settings.canvas)
    _, new_h, new_w = canvases.fit(*size_hw, canvas_hw, scale_hw)
    tracks = plan.trained(video)
    if settings.still_motion and len(video.file_names) == 1:
        how: dict[str, Any] = dict(length=settings.frames, motion=settings.still_motion)
        size_hw = (new_h, new_w)
        frames, masks = stills.moved(dataset, video, rng, frame_hw=size_hw, **how)
    else:
        tracks = [x for x in tracks if x.segmentations[ref] or x.segmentations[t]]
        older = clips.older_frames(t, ref, len(video.file_names), settings.frames - 2)
        frames = [
            youtube_vis.read_frame(dataset, video, f, max_hw=(new_h, new_w))
            for f in (*reversed(older), ref, t)
        ]
        masks = [[_mask(track, f, video) for track in tracks] for f in (ref, t)]
    clips.make_pair(
        frames,
        masks,
        [track.label for track in tracks],
        size_hw=size_hw,
        canvas_hw=canvas_hw,
        scale_hw=scale_hw,
        flip=flip,
        max_objects=settings.max_objects,
        into=into,
    )


def _mask(track: Track, t: int, video: Video) -> Bool[np.ndarray, "h w"] | None:
    rle = track.segmentations[t]
    return None if rle is None else youtube_vis.mask(rle, video.height, video.width)


def _check_settings(
    settings: _Settings, shard_index: int, shard_count: int, num_threads: int
) -> None:
    rules = {
        "batch": (settings.batch > 0, f"must be above 0, is {settings.batch}"),
        "shard_count": (
            shard_count > 0 and settings.batch % shard_count == 0,
            f"must divide the batch of {settings.batch}, is {shard_count}",
        ),
        "shard_index": (
            0 <= shard_index < shard_count,
            f"must be below shard_count = {shard_count}, is {shard_index}",
        ),
        "gap": (
            settings.gap in ("any", "previous")
            or (isinstance(settings.gap, int) and settings.gap > 0),
            f"must be 'any', 'previous' or a number above 0, is {settings.gap!r}",
        ),
        "frames": (settings.frames >= 2, f"must be at least 2, is {settings.frames}"),
        "still_motion": (
            0 <= settings.still_motion <= 2,
            f"must be in 0..2, is {settings.still_motion}",
        ),
        "flip": (0 <= settings.flip <= 1, f"must be in 0..1, is {settings.flip}"),
        "max_objects": (
            settings.max_objects > 0,
            f"must be above 0, is {settings.max_objects}",
        ),
        "num_threads": (num_threads >= 0, f"must be at least 0, is {num_threads}"),
        "seed": (settings.seed >= 0, f"must be at least 0, is {settings.seed}"),
    }
    for name, (holds, rule) in rules.items():
        if not holds:
            raise InputError(name, "", rule)
    canvases.check(settings.canvas, settings.scales_hw)
