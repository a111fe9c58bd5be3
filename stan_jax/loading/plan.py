"""Order of an endless training run: the frames of pair number n.

Frames are grouped by orientation, because a batch has one canvas, and by dataset,
because datasets have weights. Groups take turns; each walks through its frames in a
new order every epoch. All follows from the seed and n: nothing is kept between calls.
"""

import functools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from stan_jax.annotations.youtube_vis import Dataset, Track, Video
from stan_jax.errors import InputError
from stan_jax.loading import clips


class Item(NamedTuple):
    """A frame to train on."""

    dataset: Dataset
    video: Video
    t: int
    usable: Int[np.ndarray, " n"]  # all frames of the video to train on


class Group(NamedTuple):
    """The frames to train on of one dataset and orientation."""

    items: list[Item]
    share: Fraction  # of all pairs


def groups(
    datasets: Sequence[tuple[Dataset, float]], *, negatives: bool = False
) -> list[list[Group]]:
    """Groups by orientation (landscape, portrait), leaving out an empty orientation.

    The share of a group is the weight of its dataset, divided among the orientations
    by their number of frames. negatives: see `all_items`.
    Raises: InputError if datasets have other classes, or none has an object in view.
    """
    _check_datasets(datasets)
    total = sum(Fraction(weight) for _, weight in datasets)
    found: list[list[Group]] = [[], []]
    for dataset, weight in datasets:
        items = all_items(dataset, negatives=negatives)
        if not all_items(dataset):
            rule = "must show at least one object that is no crowd, to train on"
            raise InputError(dataset.path, "annotations", rule)
        for portrait in (False, True):
            some = [i for i in items if (i.video.height > i.video.width) == portrait]
            if some:
                share = Fraction(weight) / total * Fraction(len(some), len(items))
                found[portrait].append(Group(some, share))
    return [group for group in found if group]


def batch_items(
    by_orientation: list[list[Group]], batch: int, seed: int, number: int
) -> list[Item]:
    """Frames of batch `number`, all of one orientation."""
    shares = [sum((g.share for g in gs), Fraction(0)) for gs in by_orientation]
    orientation, batches_before = turn(number, shares)
    chosen = by_orientation[orientation]
    first = batches_before * batch
    found = []
    for slot in range(first, first + batch):
        g, rank = turn(slot, [group.share for group in chosen])
        items = chosen[g].items
        epoch, place = divmod(rank, len(items))
        order = _permutation((seed, 0, orientation, g, epoch), len(items))
        found.append(items[order[place]])
    return found


def turn(n: int, shares: Sequence[Fraction]) -> tuple[int, int]:
    """Return who has turn n, by shares, and how many turns it had before.

    Turns are spread evenly: the first has had round(n * share) of the n turns so far,
    the second its part of what the first leaves, and so on. Exact, hence in fractions.
    """
    rest = sum(shares, Fraction(0))
    for i, share in enumerate(shares[:-1]):
        before, after = (
            math.floor(k * share / rest + Fraction(1, 2)) for k in (n, n + 1)
        )
        if after > before:
            return i, before
        n -= before
        rest -= share
    return len(shares) - 1, n


def all_items(dataset: Dataset, *, negatives: bool = False) -> list[Item]:
    """Every frame that shows an object to learn from, in the order of the file.

    negatives: frames without any as well, which teach what is no object.
    """
    found = []
    for video in dataset.videos:
        usable = np.flatnonzero(presence(video).any(0) | negatives)
        found += [Item(dataset, video, int(t), usable) for t in usable]
    return found


def check_objects(items: Sequence[Item], gap: str | int, max_objects: int) -> None:
    """Raise InputError if a pair that may be drawn shows more than max_objects."""
    last, here = None, np.zeros((0, 0), bool)
    for dataset, video, t, usable in items:
        if len(video.tracks) <= max_objects:
            continue
        if video is not last:  # items of a video follow one another
            last, here = video, presence(video)
        refs = clips.references(usable, t, gap)
        found = (here[:, [t]] | here[:, refs]).sum(0)
        worst = int(found.argmax())
        if found[worst] > max_objects:
            raise InputError(
                dataset.path,
                f"video {video.id}, frames {refs[worst]} and {t}",
                f"a training pair may show at most max_objects = {max_objects}"
                f" objects, these two show {found[worst]}",
            )


def trained(video: Video) -> list[Track]:
    """Tracks to learn from: all but crowds."""
    return [track for track in video.tracks if not track.crowd]


def presence(video: Video) -> Bool[np.ndarray, "m t"]:
    """Return the frames in which each of the `trained` tracks is in view."""
    rows = [[s is not None for s in x.segmentations] for x in trained(video)]
    return np.array(rows, bool).reshape(-1, len(video.file_names))


@functools.lru_cache(maxsize=64)
def _permutation(seed: tuple[int, ...], n: int) -> Int[np.ndarray, " n"]:
    return np.random.default_rng(seed).permutation(n)


def _check_datasets(datasets: Sequence[tuple[Dataset, float]]) -> None:
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
            rule = f"must be those of {first.path} in this order: {names}; are {other}"
            raise InputError(dataset.path, "categories", rule)
