"""Why a results file scores about nothing: the usual causes, each with its figures."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from stan_jax.masks.run_lengths import Masks
from stan_jax.metrics import overlap
from stan_jax.metrics.tracks import PredictedTrack, TrueTrack

NOTHING = 0.02  # an AP below it, or -1, is asked about
MOST = 0.5  # of the results, or of the objects found, that a cause must concern
FOUND = 0.5  # IoU from which on a result is of an object, whatever its class

Size = tuple[int, int]  # height and width


class Facts(NamedTuple):
    """What of one video tells causes apart; counts of results or of true tracks."""

    results: int
    sizes: Counter[tuple[Size, Size]]  # masks of another size than the video, and its
    true_sizes: Counter[tuple[Size, Size]]
    lengths: Counter[tuple[int, int]]  # of other frames than the video, and its
    single: int  # results that show one frame, where the objects show more
    scores: set[float]  # no more than two of them
    pairs: Counter[tuple[Any, Any]]  # categories of a result and of its object
    objects: int


def facts(
    video: dict, true: Sequence[TrueTrack], found: Sequence[PredictedTrack]
) -> Facts:
    """Return what a video tells; a function of a module, so that helpers know it."""
    size = video.get("height"), video.get("width")
    names = video.get("file_names")
    frames = len(names) if isinstance(names, list) else None
    shown = [int((track.masks.areas > 0).sum()) for track in found]
    long = any((track.masks.areas > 0).sum() > 2 for track in true)
    lengths = Counter(
        (len(track.masks.texts), frames)
        for track in found
        if frames is not None and len(track.masks.texts) != frames
    )
    pairs = Counter()
    if true and found:
        iou = overlap.iou([x.masks for x in found], [x.masks for x in true], FOUND)
        best = iou.argmax(1)
        pairs.update(
            (track.category_id, true[best[n]].category_id)
            for n, track in enumerate(found)
            if iou[n, best[n]] >= FOUND
        )
    return Facts(
        results=len(found),
        sizes=_other_sizes((track.masks for track in found), size),
        true_sizes=_other_sizes((track.masks for track in true), size),
        lengths=lengths,
        single=sum(number == 1 for number in shown) if long else 0,
        scores=set(sorted({track.score for track in found})[:2]),
        pairs=pairs,
        objects=len(true),
    )


def reason(each: Iterable[Facts]) -> str:
    """Return the cause that holds over all videos, with its figures and the cure."""
    each = list(each)
    results = sum(x.results for x in each)
    objects = sum(x.objects for x in each)

    def total(name: str) -> Counter:
        return sum((getattr(x, name) for x in each), Counter())

    if number := _most(total("true_sizes"), objects):
        pair, videos = _commonest(each, "true_sizes")
        return (
            f"{number} tracks of the annotations in {videos} videos {_are(*pair)}: no"
            " result can overlap them; correct the sizes of the videos"
        )
    if number := _most(total("sizes"), results):
        pair, videos = _commonest(each, "sizes")
        return (
            f"{number} results of {videos} videos {_are(*pair)}: they cannot overlap;"
            " resize them to the videos"
        )
    if number := _most(total("lengths"), results):
        (theirs, frames), videos = _commonest(each, "lengths")
        return (
            f"{number} of {results} results in {videos} videos have another number of"
            f" frames, e.g. {theirs} where the video has {frames}: of another set?"
        )
    if (number := sum(x.single for x in each)) > MOST * results:
        return (
            f"{number} of {results} results show one frame alone: give one entry for"
            " each frame of the video"
        )
    pairs = total("pairs")
    found, equal = sum(pairs.values()), sum(n for (a, b), n in pairs.items() if a == b)
    if found and equal < (1 - MOST) * found:
        return _of_classes(pairs, found, equal)
    scores = set().union(*(x.scores for x in each))
    if found and results > 1 and len(scores) == 1:
        return (
            f"all {results} results have the score {scores.pop():g}: AP needs them"
            " ranked by how sure each is"
        )
    return (
        f"no usual cause: {found} of {results} results overlap one of the {objects}"
        f" objects by {FOUND}"
    )


def _of_classes(pairs: Counter, found: int, equal: int) -> str:
    text = (
        f"{found} results overlap an object by {FOUND}, but {found - equal} of them are"
        " of another category"
    )
    steps = Counter()
    for (theirs, ours), number in pairs.items():
        if isinstance(theirs, int) and isinstance(ours, int):
            steps[theirs - ours] += number
    step, number = steps.most_common(1)[0] if steps else (0, 0)
    if step and number > 0.9 * found:
        way = "below" if step < 0 else "above"
        return (
            f"{text}: each category_id is {abs(step)} {way} that of its object; count"
            " categories as the annotations do"
        )
    (theirs, ours), number = Counter(
        {pair: n for pair, n in pairs.items() if pair[0] != pair[1]}
    ).most_common(1)[0]
    return (
        f"{text}, e.g. {number} of {theirs} on objects of {ours}: are the category_ids"
        " those of the annotations?"
    )


def _other_sizes(tracks: Iterable[Masks], size: tuple) -> Counter[tuple[Size, Size]]:
    found = Counter()
    for masks in tracks:
        sizes = {(int(h), int(w)) for h, w in np.unique(masks.sizes, axis=0) if h}
        if others := [x for x in sizes if x != size and None not in size]:
            found[others[0], size] += 1
    return found


def _most(counts: Counter, of: int) -> int:
    number = sum(counts.values())
    return number if number > MOST * of else 0


def _commonest(each: Sequence[Facts], name: str) -> tuple[Any, int]:
    """Return the pair that stands most often, and how many videos have any."""
    counts = [getattr(x, name) for x in each]
    pair, _ = sum(counts, Counter()).most_common(1)[0]
    return pair, sum(bool(x) for x in counts)


def _are(theirs: Size, ours: Size) -> str:
    sizes = (f"{h} x {w}" for h, w in (theirs, ours))
    return "are {}, the videos {}".format(*sizes)
