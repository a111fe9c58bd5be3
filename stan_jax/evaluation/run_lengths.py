"""Is a COCO run-length text really a mask of its size, and how large is the mask?"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int
from pycocotools import mask as coco_mask

from stan_jax.errors import InputError


class Masks(NamedTuple):
    """One object through a video: a checked mask, or None, per frame."""

    rles: list[dict | None]  # compressed; counts are str or bytes
    areas: Int[np.ndarray, " t"]  # pixels, 0 where there is no mask
    sizes: Int[np.ndarray, " t"]  # height * 2**32 + width; 0 where there is none
    broken: Bool[np.ndarray, " t"]  # a run of length 0 stands inside the counts


def read(
    segmentations: Sequence[dict | None],
    file: str | Path = "segmentations",
    record: str = "",
) -> Masks:
    """The masks of one track with their areas; anything falsy is "no mask".

    file, record: how an error names the track.
    Raises: InputError for a segmentation that is not {"size": [h, w], "counts": text},
    or whose runs do not add up to height x width. (pycocotools never returns from
    comparing such a mask with another one.)
    """
    times = [t for t, segmentation in enumerate(segmentations) if segmentation]
    areas, sizes = np.zeros((2, len(segmentations)), np.int64)
    broken = np.zeros(len(segmentations), bool)
    rles: list[dict | None] = [s or None for s in segmentations]
    if times:
        shown = [segmentations[t] for t in times]
        names = [f"{record}, frame {t}".removeprefix(", ") for t in times]
        heights, widths, texts = _fields(shown, file, names)
        runs, first = _decode(texts, file, names)
        _check_totals(runs, first, heights * widths, file, names)
        sizes[times] = (heights << 32) + widths
        areas[times] = coco_mask.area(shown)
        # The first run may be 0 (a mask that holds pixel 0); any other is odd.
        zero = runs == 0
        zero[first] = False
        broken[times] = np.logical_or.reduceat(zero, first)
    return Masks(rles, areas, sizes, broken)


def _fields(shown: list, file, names) -> tuple[np.ndarray, np.ndarray, list[bytes]]:
    sizes, texts = [], []
    for segmentation, name in zip(shown, names, strict=True):
        try:
            (height, width), text = segmentation["size"], segmentation["counts"]
            texts.append(text if isinstance(text, bytes) else text.encode("ascii"))
            sizes.append((int(height), int(width)))
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            rule = 'a mask must be {"size": [height, width], "counts": text}'
            raise InputError(file, name, f"{rule}, not {segmentation!r:.60}") from error
        if not (height > 0 and width > 0 and text):
            rule = "a mask needs a positive size and at least one run"
            raise InputError(file, name, f"{rule}, not {segmentation!r:.60}")
    heights, widths = np.array(sizes, np.int64).T
    return heights, widths, texts


def _decode(texts: list[bytes], file, names) -> tuple[np.ndarray, np.ndarray]:
    """Run lengths of all masks end to end, and where each mask's runs start.

    A run is written in 5-bit digits, lowest first, as characters from "0" on; digits
    with more to come carry 32, the last one is signed. From a mask's fourth run on it
    is the difference to the run two before (COCO maskApi.c rleFrString).
    """
    digits = np.frombuffer(b"".join(texts), np.uint8) - np.uint8(48)
    ends = np.cumsum([len(text) for text in texts])
    last = np.flatnonzero(digits < 32)
    length = np.diff(last, prepend=-1)
    stop = np.searchsorted(last, ends)
    wrong = digits > 63
    wrong[ends - 1] |= digits[ends - 1] > 31  # the text ends inside a run
    if length.size:
        wrong[last[length > 7]] = True  # beyond 35 bits
    if wrong.any():
        mask = int(np.searchsorted(ends, np.flatnonzero(wrong)[0], side="right"))
        rule = f"counts are not compressed run lengths: {texts[mask]!r:.60}"
        raise InputError(file, names[mask], rule)
    runs = ((digits[last] & 31).astype(np.int64) ^ 16) - 16
    for k in range(1, int(length.max())):
        longer = np.flatnonzero(length > k)
        runs[longer] = (runs[longer] << 5) | (digits[last[longer] - k] & 31)
    first = np.concatenate([[0], stop[:-1]])
    for a, b in zip(first.tolist(), stop.tolist(), strict=True):
        for chain in (runs[a + 1 : b : 2], runs[a + 2 : b : 2]):
            np.cumsum(chain, out=chain)
    return runs, first


def _check_totals(runs, first, pixels, file, names) -> None:
    total = np.add.reduceat(runs, first)
    least = np.minimum.reduceat(runs, first)
    number = np.diff(first, append=len(runs))
    wrong = (total != pixels) | (least < 0) | (number > pixels + 1)
    for k in np.flatnonzero(wrong)[:1]:
        rule = "counts must add up to height x width"
        found = f"{number[k]} runs, the least {least[k]}, add up to {total[k]}"
        raise InputError(file, names[k], f"{rule} = {pixels[k]}; {found}")
