"""Checked run lengths of many masks, and their areas, in bulk."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from stan_jax.errors import InputError
from stan_jax.masks import codec
from stan_jax.masks.codec import RLE
from stan_jax.masks.segmentations import MOST

CHARACTERS = 2**19  # of counts that are decoded at once, about
Fail = Callable[[int, str], InputError]  # of the mask of this number, with this rule


class Masks:
    """One object through a video: the masks of its frames.

    Args:
      texts: compressed counts; None where there is no mask.
      sizes: [t 2], height and width; 0 where there is no mask.
      areas: [t], pixels; 0 where there is no mask.
      broken: [t], whether a run of length 0 stands inside the counts.
    """

    def __init__(
        self,
        texts: Sequence[str | None],
        sizes: Int[np.ndarray, "t 2"],
        areas: Int[np.ndarray, " t"],
        broken: Bool[np.ndarray, " t"] | None = None,
    ):
        self.texts, self.sizes, self.areas = texts, sizes, areas
        self.broken = np.zeros(len(texts), bool) if broken is None else broken

    def rle(self, t: int) -> RLE | None:
        """The mask of frame `t`, if there is one."""
        text = self.texts[t] if t < len(self.texts) else None
        return None if text is None else codec.pack(self.sizes[t].tolist(), text)

    def __getstate__(self) -> tuple:
        # One text and one table: a tenth of the time that the parts would take.
        lengths = [-1 if text is None else len(text) for text in self.texts]
        table = np.column_stack([lengths, self.sizes, self.areas, self.broken])
        text = "".join(text for text in self.texts if text is not None)
        return text, table.astype(np.int64).tobytes()

    def __setstate__(self, state: tuple) -> None:
        text, packed = state
        table = np.frombuffer(packed, np.int64).reshape(-1, 5)
        texts, place = [], 0
        for length in table[:, 0].tolist():
            texts.append(None if length < 0 else text[place : place + length])
            place += max(length, 0)
        self.__init__(texts, table[:, 1:3], table[:, 3], table[:, 4].astype(bool))


def read(
    segmentations: Sequence,
    file: str | Path = "segmentations",
    record: str = "",
) -> Masks:
    """The masks of one track; anything falsy is "no mask". As `read_many`."""
    return read_many([segmentations], file, [record])[0]


def read_many(
    tracks: Sequence[Sequence], file: str | Path, records: Sequence[str]
) -> list[Masks]:
    """The masks of some tracks, each as a list of one entry a frame.

    tracks: as they stand in a file, unchecked. records: how errors name each.
    Raises: InputError for a mask that is not {"size": [height, width], "counts": text}
    or whose runs do not add up to height x width: pycocotools, which takes all that for
    granted, would give any number or never return.
    """
    flat = [mask for track in tracks for mask in track]
    at = [k for k, mask in enumerate(flat) if mask]
    stop = np.cumsum([len(track) for track in tracks], dtype=np.int64)

    def fail(k: int, rule: str) -> InputError:
        n = int(np.searchsorted(stop, at[k], side="right"))
        t = at[k] - int(stop[n]) + len(tracks[n])
        return InputError(file, f"{records[n]}, frame {t}".removeprefix(", "), rule)

    sizes, texts = _fields([flat[k] for k in at], fail)
    areas, broken = _measure(texts, sizes.prod(axis=1), fail)

    all_texts: list[str | None] = [None] * len(flat)
    for k, text in zip(at, texts, strict=True):
        all_texts[k] = text
    all_sizes = np.zeros((len(flat), 2), np.int64)
    all_areas = np.zeros(len(flat), np.int64)
    all_broken = np.zeros(len(flat), bool)
    all_sizes[at], all_areas[at], all_broken[at] = sizes, areas, broken
    parts = [
        slice(b - len(track), b) for b, track in zip(stop.tolist(), tracks, strict=True)
    ]
    return [
        Masks(all_texts[p], all_sizes[p], all_areas[p], all_broken[p]) for p in parts
    ]


def _fields(masks: list, fail: Fail) -> tuple[Int[np.ndarray, "n 2"], list[str]]:
    """Sizes and counts, looked at one by one only if something is wrong."""
    try:
        given = [mask["size"] for mask in masks]
        if given and given.count(given[0]) == len(given):  # all alike, as a rule
            given = given[:1]
        sizes = np.array(given).reshape(len(given), -1)
        texts = [mask["counts"] for mask in masks]
        sound = "".join(texts).isascii() and all(texts)
        sound &= sizes.shape[1] == 2 and sizes.dtype == np.int64
        if sound and sizes.min() > 0 and sizes.max() < MOST:
            return np.broadcast_to(sizes, (len(texts), 2)), texts
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError):
        pass
    fields = [_field(mask, k, fail) for k, mask in enumerate(masks)]
    sizes = np.array([size for size, _ in fields], np.int64).reshape(-1, 2)
    return sizes, [text for _, text in fields]


def _field(mask: Any, k: int, fail: Fail) -> tuple[tuple[int, int], str]:
    try:
        (height, width), text = mask["size"], mask["counts"]
        # pycocotools makes bytes of what json holds as a text.
        text = (text if isinstance(text, bytes) else text.encode()).decode("ascii")
        size = int(height), int(width)
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
        rule = 'a mask must be {"size": [height, width], "counts": text}'
        raise fail(k, f"{rule}, not {mask!r:.60}") from error
    if not (0 < size[0] < MOST and 0 < size[1] < MOST and text):
        rule = "a mask needs a positive size and at least one run"
        raise fail(k, f"{rule}, not {mask!r:.60}")
    return size, text


def _measure(
    texts: list[str], pixels: Int[np.ndarray, " n"], fail: Fail
) -> tuple[Int[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Area of each mask, and whether a run of length 0 stands inside its counts."""
    areas, broken = np.zeros(len(texts), np.int64), np.zeros(len(texts), bool)
    ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))
    begin = 0
    while begin < len(texts):
        before = ends[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, before + CHARACTERS)))
        part = slice(begin, end)

        def fail_here(k: int, rule: str, begin: int = begin) -> InputError:
            return fail(begin + k, rule)

        text = "".join(texts[part]).encode()
        ends_here = ends[part] - before
        runs, first, stop = codec.decode_many(text, ends_here, fail_here)
        areas[part] = _areas(runs, first, stop, pixels[part], fail_here)
        # The first run may be 0 (a mask that holds pixel 0); any other is odd.
        if runs.min() == 0:
            zero = runs == 0
            zero[first] = False
            broken[part] = np.logical_or.reduceat(zero, first)
        begin = end
    return areas, broken


def _areas(
    runs, first, stop, pixels: Int[np.ndarray, " n"], fail: Fail
) -> Int[np.ndarray, " n"]:
    """Pixels of each object, where all runs together cover the mask."""
    # Where no sum can be too long for it, the shorter type is three times as fast.
    minimum, maximum = int(runs.min()), int(runs.max())
    short = int((stop - first).max()) * max(maximum, -minimum) < 2**31
    sums = np.zeros((2, len(first)), np.int64)  # of every second run of the array
    for odd in (0, 1):
        begin, end = (first - odd + 1) // 2, (stop - odd + 1) // 2
        some = np.flatnonzero(end > begin)
        if some.size:
            kind = np.int32 if short else np.int64
            sums[odd, some] = np.add.reduceat(runs[odd::2], begin[some], dtype=kind)
    wrong = sums.sum(axis=0) != pixels
    if minimum < 0:
        wrong |= np.minimum.reduceat(runs, first) < 0
    wrong |= stop - first > pixels + 1
    for k in np.flatnonzero(wrong)[:1].tolist():
        mask = runs[first[k] : stop[k]]
        rule = f"counts must add up to height x width = {pixels[k]}"
        found = f"{len(mask)} runs, the least {mask.min()}, add up to {mask.sum()}"
        raise fail(k, f"{rule}, but {found}")
    # A mask's second run is the first of the object.
    return sums[1 - first % 2, np.arange(len(first))]
