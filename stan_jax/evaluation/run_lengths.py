"""Is a COCO run-length text really a mask of its size, and how large is the mask?"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from stan_jax.errors import InputError


class Masks(NamedTuple):
    """One object through a video: the checked masks of its frames."""

    texts: list[bytes | None]  # compressed counts; None where there is no mask
    sizes: Int[np.ndarray, "t 2"]  # height, width; 0 where there is no mask
    areas: Int[np.ndarray, " t"]  # pixels; likewise
    broken: Bool[np.ndarray, " t"]  # a run of length 0 stands inside the counts


def read(
    segmentations: Sequence,
    file: str | Path = "segmentations",
    record: str = "",
) -> Masks:
    """The masks of one track with their areas; anything falsy is "no mask".

    segmentations: as they stand in a file, unchecked.
    file, record: how an error names the track.
    Raises: InputError for a segmentation that is not {"size": [h, w], "counts": text},
    or whose runs do not add up to height x width. (pycocotools never returns from
    comparing such a mask with another one.)
    """
    times = [t for t, segmentation in enumerate(segmentations) if segmentation]
    texts: list[bytes | None] = [None] * len(segmentations)
    sizes = np.zeros((len(segmentations), 2), np.int64)
    areas = np.zeros(len(segmentations), np.int64)
    broken = np.zeros(len(segmentations), bool)
    if times:
        names = [f"{record}, frame {t}".removeprefix(", ") for t in times]
        shown = [segmentations[t] for t in times]
        sizes[times], counts = _fields(shown, file, names)
        runs, first = _decode(counts, file, names)
        areas[times] = _areas(runs, first, sizes[times].prod(axis=1), file, names)
        # The first run may be 0 (a mask that holds pixel 0); any other is odd.
        zero = runs == 0
        zero[first] = False
        broken[times] = np.logical_or.reduceat(zero, first)
        for t, text in zip(times, counts, strict=True):
            texts[t] = text
    return Masks(texts, sizes, areas, broken)


def _fields(shown: list, file, names) -> tuple[list, list[bytes]]:
    sizes, texts = [], []
    for segmentation, name in zip(shown, names, strict=True):
        try:
            (height, width), text = segmentation["size"], segmentation["counts"]
            texts.append(text if isinstance(text, bytes) else text.encode("ascii"))
            sizes.append((int(height), int(width)))
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            rule = 'a mask must be {"size": [height, width], "counts": text}'
            raise InputError(file, name, f"{rule}, not {segmentation!r:.60}") from error
        if not (0 < height < 2**24 and 0 < width < 2**24 and text):
            rule = "a mask needs a positive size and at least one run"
            raise InputError(file, name, f"{rule}, not {segmentation!r:.60}")
    return sizes, texts


def _decode(texts: list[bytes], file, names) -> tuple[np.ndarray, np.ndarray]:
    """Run lengths of all masks end to end, and where each mask's runs start.

    A run is written in 5-bit digits, lowest first, as characters from "0" on; digits
    with more to come carry 32, the last one is signed. From a mask's fourth run on it
    is the difference to the run two before (COCO maskApi.c rleFrString).
    """
    digits = np.frombuffer(b"".join(texts), np.uint8) - np.uint8(48)
    ends = np.cumsum([len(text) for text in texts])
    leading = np.flatnonzero(digits > 31)  # few: most runs are one digit
    # As many runs end before a leading digit as there are other characters.
    run = leading - np.arange(len(leading))
    start = np.flatnonzero(np.diff(run, prepend=-1))
    extra = np.diff(start, append=len(run))  # leading digits of each such run
    wrong = leading[digits[leading] > 63].tolist()
    wrong += (ends[digits[ends - 1] > 31] - 1).tolist()  # the text ends inside a run
    wrong += leading[start[extra > 6]].tolist()  # beyond 35 bits
    if wrong:
        mask = int(np.searchsorted(ends, min(wrong), side="right"))
        rule = f"counts are not compressed run lengths: {texts[mask]!r:.60}"
        raise InputError(file, names[mask], rule)

    runs = digits[digits < 32].astype(np.int64)
    runs ^= 16  # sign of 5 bits, in place: fresh arrays take most of the time
    runs -= 16
    if leading.size:
        place = 5 * (np.arange(len(run)) - np.repeat(start, extra))
        low = (digits[leading].astype(np.int64) & 31) << place
        run = run[start]
        runs[run] = (runs[run] << 5 * extra) + np.add.reduceat(low, start)
    stop = ends - np.searchsorted(leading, ends)
    first = np.concatenate([[0], stop[:-1]])
    for a, b in zip(first.tolist(), stop.tolist(), strict=True):
        for chain in (runs[a + 1 : b : 2], runs[a + 2 : b : 2]):
            np.add.accumulate(chain, out=chain)
    return runs, first


def _areas(runs, first, pixels, file, names) -> np.ndarray:
    """Sum of every second run of each mask, after a check that all runs fill it."""
    total = np.add.reduceat(runs, first)
    least = np.minimum.reduceat(runs, first)
    number = np.diff(first, append=len(runs))
    wrong = (total != pixels) | (least < 0) | (number > pixels + 1)
    for k in np.flatnonzero(wrong)[:1]:
        rule = f"counts must add up to height x width = {pixels[k]}"
        found = f"{number[k]} runs, the least {least[k]}, add up to {total[k]}"
        raise InputError(file, names[k], f"{rule}, but {found}")
    signed = runs.copy()
    np.negative(signed[1::2], out=signed[1::2])
    # Background minus object, or the reverse where a mask starts at an odd place.
    rest = np.add.reduceat(signed, first) * (1 - 2 * (first % 2))
    return (total - rest) // 2
