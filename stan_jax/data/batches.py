"""In which order training pairs and clips leave the disk, as batches of one canvas.

Everything about batch i (videos, frames, flips, scales) follows from the seed and i
alone, so the order is the same for any number of threads, processes or restarts.
"""

import functools
import math
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import Any, NamedTuple

import grain
import numpy as np
from jaxtyping import Bool, Int, UInt8

from stan_jax.data import clips, youtube_vis
from stan_jax.data.youtube_vis import Dataset, Track, Video
from stan_jax.errors import InputError
from stan_jax.types import Pair


class _Group(NamedTuple):
    """The training frames of one dataset that share an orientation."""

    dataset: Dataset
    videos: list[tuple[Video, Int[np.ndarray, " n"]]]  # each with its usable frames
    items: list[tuple[int, int]]  # number in videos, frame
    share: Fraction  # of all pairs


class _Settings(NamedTuple):
    batch: int
    canvas: tuple[int, int]
    gap: str | int
    flip: float
    scales_hw: tuple[tuple[int, int], ...]
    max_objects: int
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
    shard_index: int = 0,
    shard_count: int = 1,
) -> grain.DatasetIterator[Pair]:
    """Endless batches of training pairs; every field of a `Pair` gets a leading b.

    datasets: each with its weight, in proportion to which pairs are taken from it;
        within a dataset every frame that shows an object comes once before any again.
    batch: pairs in a batch over all shards; each shard yields batch / shard_count.
    canvas: landscape (height, width). All of a batch, over all shards, is landscape,
        or all is portrait and has the transposed canvas.
    gap: which frame may be the previous one (choice A16, `clips.references`).
    flip: probability of mirroring a pair.
    scales_hw: bounds of the sides, one drawn for each pair; None: the canvas.
    num_threads, prefetch: threads, and batches that they prepare ahead; 0: none.
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
        seed=seed,
    )
    _check_settings(settings, shard_index, shard_count)
    _check_categories(datasets)
    groups = _groups(datasets)
    for orientation in groups:
        for group in orientation:
            _check_objects(group, gap, max_objects)
    rows = batch // shard_count
    mine = range(shard_index * rows, (shard_index + 1) * rows)

    def load(number: int) -> Pair:
        keys = _keys(groups, batch, seed, number)
        made = [_load_pair(*keys[r], settings, number * batch + r) for r in mine]
        fields: list[Any] = [np.stack(field) for field in zip(*made, strict=True)]
        return Pair(*fields)

    source = grain.MapDataset.range(sys.maxsize).map(load)
    ahead = prefetch if num_threads else 0
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=ahead)
    return iter(source.to_iter_dataset(options))


def num_pairs(dataset: Dataset) -> int:
    """Number of frames to train on: those that show an object which is no crowd."""
    return sum(len(_usable_frames(video)) for video in dataset.videos)


def frames(
    dataset: Dataset,
    video: Video,
    *,
    canvas: tuple[int, int],
    clip_length: int,
    scale_hw: tuple[int, int] | None = None,
    num_threads: int = 2,
) -> Iterator[
    tuple[UInt8[np.ndarray, "t fh fw 3"], Int[np.ndarray, "2"], Bool[np.ndarray, " t"]]
]:
    """Yield a video in clips: frames, size inside the canvas, which are real.

    canvas: landscape (height, width); a portrait video gets its transpose.
    scale_hw: bounds of the sides; None: the canvas.
    The last clip is filled up with zero frames that are not valid.
    """
    canvas_hw = clips.canvas_of(video.height, video.width, canvas)
    size_hw = (video.height, video.width)
    _, new_h, new_w = clips.fit(*size_hw, canvas_hw, scale_hw or canvas)
    total = len(video.file_names)

    def read(t: int) -> UInt8[np.ndarray, "h w 3"]:
        image = youtube_vis.read_frame(dataset, video, t, max_hw=(new_h, new_w))
        return clips.resize_frame(image, (new_h, new_w))

    with ThreadPoolExecutor(num_threads) as pool:
        ahead = [pool.submit(read, t) for t in range(min(2 * clip_length, total))]
        for start in range(0, total, clip_length):
            clip = np.zeros((clip_length, *canvas_hw, 3), np.uint8)
            valid = np.arange(start, start + clip_length) < total
            for i in range(valid.sum()):
                clip[i, :new_h, :new_w] = ahead.pop(0).result()
            stop = start + 2 * clip_length
            more = range(stop, min(stop + clip_length, total))
            ahead += [pool.submit(read, t) for t in more]
            yield clip, np.array([new_h, new_w], np.int32), valid


def _groups(datasets: Sequence[tuple[Dataset, float]]) -> list[list[_Group]]:
    """Groups by orientation (landscape, portrait), leaving out an empty orientation."""
    total = sum(Fraction(weight) for _, weight in datasets)
    found: list[list[_Group]] = [[], []]
    for dataset, weight in datasets:
        usable = [(video, _usable_frames(video)) for video in dataset.videos]
        every = sum(len(ts) for _, ts in usable)
        if not every:
            rule = "must show at least one object that is no crowd, to train on"
            raise InputError(dataset.path, "annotations", rule)
        for portrait in (False, True):
            videos = [u for u in usable if (u[0].height > u[0].width) == portrait]
            items = [(i, int(t)) for i, (_, ts) in enumerate(videos) for t in ts]
            if items:
                share = Fraction(weight) / total * Fraction(len(items), every)
                found[portrait].append(_Group(dataset, videos, items, share))
    return [groups for groups in found if groups]


def _keys(
    groups: list[list[_Group]], batch: int, seed: int, number: int
) -> list[tuple[_Group, int, int]]:
    """Group, number of the video in it, and frame, for every pair of a batch."""
    shares = [sum((g.share for g in gs), Fraction(0)) for gs in groups]
    orientation, turn = _turn(number, shares)
    chosen = groups[orientation]
    keys = []
    for slot in range(turn * batch, (turn + 1) * batch):
        g, rank = _turn(slot, [group.share for group in chosen])
        items = chosen[g].items
        epoch, place = divmod(rank, len(items))
        order = _permutation((seed, 0, orientation, g, epoch), len(items))
        keys.append((chosen[g], *items[order[place]]))
    return keys


def _turn(n: int, shares: Sequence[Fraction]) -> tuple[int, int]:
    """Who gets turn n when several take turns by their shares, and its earlier turns.

    Turns are spread evenly: the first has had round(n * share) of n turns, the second
    its part of the others, and so on. Exact, hence in fractions.
    """
    rest = sum(shares)
    for i, share in enumerate(shares[:-1]):
        part = share / rest
        before, after = (math.floor(k * part + Fraction(1, 2)) for k in (n, n + 1))
        if after > before:
            return i, before
        n -= before
        rest -= share
    return len(shares) - 1, n


@functools.lru_cache(maxsize=64)
def _permutation(seed: tuple[int, ...], n: int) -> Int[np.ndarray, " n"]:
    return np.random.default_rng(seed).permutation(n)


def _load_pair(group: _Group, i: int, t: int, settings: _Settings, number: int) -> Pair:
    """Pair `number` of the run: its own generator makes every draw."""
    rng = np.random.default_rng((settings.seed, 1, number))
    video, usable = group.videos[i]
    ref = clips.reference_frame(rng, usable, t, settings.gap)
    flip = bool(rng.random() < settings.flip)
    scale_hw = settings.scales_hw[rng.integers(len(settings.scales_hw))]
    canvas_hw = clips.canvas_of(video.height, video.width, settings.canvas)
    size_hw = (video.height, video.width)
    _, new_h, new_w = clips.fit(*size_hw, canvas_hw, scale_hw)
    objects = [x for x in _trained(video) if _seen(x, ref) or _seen(x, t)]
    return clips.make_pair(
        [
            youtube_vis.read_frame(group.dataset, video, f, max_hw=(new_h, new_w))
            for f in (ref, t)
        ],
        [[_mask(x, f, video) for x in objects] for f in (ref, t)],
        [x.label for x in objects],
        size_hw=size_hw,
        canvas_hw=canvas_hw,
        scale_hw=scale_hw,
        flip=flip,
        max_objects=settings.max_objects,
    )


def _mask(track: Track, t: int, video: Video) -> Bool[np.ndarray, "h w"] | None:
    rle = track.segmentations[t]
    return None if rle is None else youtube_vis.mask(rle, video.height, video.width)


def _trained(video: Video) -> list[Track]:
    return [track for track in video.tracks if not track.crowd]


def _seen(track: Track, t: int) -> bool:
    return track.segmentations[t] is not None


def _presence(video: Video) -> Bool[np.ndarray, "m t"]:
    rows = [[s is not None for s in x.segmentations] for x in _trained(video)]
    return np.array(rows, bool).reshape(-1, len(video.file_names))


def _usable_frames(video: Video) -> Int[np.ndarray, " n"]:
    return np.flatnonzero(_presence(video).any(0))


def _check_objects(group: _Group, gap: str | int, max_objects: int) -> None:
    for video, usable in group.videos:
        here = _presence(video)
        if len(here) <= max_objects:
            continue
        for t in usable:
            for ref in clips.references(usable, int(t), gap):
                found = int((here[:, t] | here[:, ref]).sum())
                if found > max_objects:
                    raise InputError(
                        group.dataset.path,
                        f"video {video.id}, frames {ref} and {t}",
                        f"a training pair may show at most max_objects = {max_objects}"
                        f" objects, these two show {found}",
                    )


def _check_categories(datasets: Sequence[tuple[Dataset, float]]) -> None:
    if not datasets:
        raise InputError("datasets", "", "must name at least one")
    first = datasets[0][0]
    names = [c.name for c in first.categories]
    for dataset, weight in datasets:
        if not (math.isfinite(weight) and weight > 0):
            raise InputError(dataset.path, "weight", f"must be above 0, is {weight}")
        if not dataset.annotated:
            raise InputError(dataset.path, "", "must have 'annotations' to train on")
        other = [c.name for c in dataset.categories]
        if other != names:
            raise InputError(
                dataset.path,
                "categories",
                f"must be those of {first.path} in this order: {names}; are {other}",
            )


def _check_settings(settings: _Settings, shard_index: int, shard_count: int) -> None:
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
        "flip": (0 <= settings.flip <= 1, f"must be in 0..1, is {settings.flip}"),
        "seed": (settings.seed >= 0, f"must be at least 0, is {settings.seed}"),
    }
    for name, (holds, rule) in rules.items():
        if not holds:
            raise InputError(name, "", rule)
    fh, fw = settings.canvas
    for scale_hw in (settings.canvas, *settings.scales_hw):
        if fh > fw or min(scale_hw) > fh or max(scale_hw) > fw:
            rule = (
                f"must be landscape and hold every scale, is {fh} x {fw} for {scale_hw}"
            )
            raise InputError("canvas", "", rule)
