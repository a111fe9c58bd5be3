"""Is a COCO run-length text really a mask of its size, and how large is the mask?"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int
from pycocotools import mask as coco_mask

from stan_jax.errors import InputError

_DIGITS = bytes(range(48, 112))  # the characters that a compressed text may hold


class Masks:
    """One object through a video: the masks of its frames, as far as files say.

    texts: compressed counts; None where there is no mask.
    sizes: [t 2], height and width; 0 where there is no mask.
    areas: [t], pixels; likewise.
    """

    def __init__(
        self,
        texts: list[bytes | None],
        sizes: Int[np.ndarray, "t 2"],
        areas: Int[np.ndarray, " t"],
        file: str | Path = "segmentations",
        record: str = "",
    ):
        self.texts, self.sizes, self.areas = texts, sizes, areas
        self._file, self._record = file, record

    @cached_property
    def broken(self) -> Bool[np.ndarray, " t"]:
        """Where a run of length 0 stands inside the counts.

        To be asked for before two masks are compared: pycocotools never returns from
        comparing masks whose runs add up to different numbers.
        Raises: InputError where runs do not add up to height x width.
        """
        broken = np.zeros(len(self.texts), bool)
        times = [t for t, text in enumerate(self.texts) if text is not None]
        if times:
            names = _names(self._record, times)
            counts = [text for text in self.texts if text is not None]
            runs, first = _decode(counts, self._file, names)
            pixels = self.sizes[times].prod(axis=1)
            _check_sums(runs, first, pixels, self._file, names)
            # The first run may be 0 (a mask that holds pixel 0); any other is odd.
            zero = runs == 0
            zero[first] = False
            broken[times] = np.logical_or.reduceat(zero, first)
        return broken


def read(
    segmentations: Sequence,
    file: str | Path = "segmentations",
    record: str = "",
) -> Masks:
    """The masks of one track with their areas; anything falsy is "no mask".

    segmentations: as they stand in a file, unchecked.
    file, record: how an error names the track.
    Raises: InputError for a segmentation that is not {"size": [h, w], "counts": text};
    `Masks.broken` looks at the runs, which takes most of the time.
    """
    times = [t for t, segmentation in enumerate(segmentations) if segmentation]
    texts: list[bytes | None] = [None] * len(segmentations)
    sizes = np.zeros((len(segmentations), 2), np.int64)
    areas = np.zeros(len(segmentations), np.int64)
    if times:
        names = _names(record, times)
        shown = [segmentations[t] for t in times]
        sizes[times], counts = _fields(shown, file, names)
        _check_texts(counts, file, names)
        rles = [
            {"size": size, "counts": text}
            for size, text in zip(sizes[times].tolist(), counts, strict=True)
        ]
        areas[times] = coco_mask.area(rles)
        for t, text in zip(times, counts, strict=True):
            texts[t] = text
    return Masks(texts, sizes, areas, file, record)


def _names(record: str, times: list[int]) -> list[str]:
    return [f"{record}, frame {t}".removeprefix(", ") for t in times]


def _fields(shown: list, file, names) -> tuple[list, list[bytes]]:
    sizes, texts = [], []
    for segmentation, name in zip(shown, names, strict=True):
        try:
            (height, width), text = segmentation["size"], segmentation["counts"]
            texts.append(text if isinstance(text, bytes) else text.encode("ascii"))
            sizes.append((int(height), int(width)))
        except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as e:
            rule = 'a mask must be {"size": [height, width], "counts": text}'
            raise InputError(file, name, f"{rule}, not {segmentation!r:.60}") from e
        if not (0 < height < 2**24 and 0 < width < 2**24 and text):
            rule = "a mask needs a positive size and at least one run"
            raise InputError(file, name, f"{rule}, not {segmentation!r:.60}")
    return sizes, texts


def _check_texts(texts: list[bytes], file, names) -> None:
    """What pycocotools takes for granted: known characters, no run cut short."""
    if b"".join(texts).translate(None, _DIGITS) or any(
        (text[-1] - 48) & 32 for text in texts
    ):
        for text, name in zip(texts, names, strict=True):
            if text.translate(None, _DIGITS) or (text[-1] - 48) & 32:
                raise _foreign(text, file, name)


def _foreign(text: bytes, file, name: str) -> InputError:
    rule = f"counts are not compressed run lengths: {text!r:.60}"
    return InputError(file, name, rule)


def _decode(texts: list[bytes], file, names) -> tuple[np.ndarray, np.ndarray]:
    """Run lengths of all masks end to end, and where each mask's runs start.

    A run is written in 5-bit digits, lowest first, as characters from "0" on; digits
    with more to come carry 32, the last one is signed. From a mask's fourth run on it
    is the difference to the run two before (COCO maskApi.c rleFrString).
    """
    digits = np.frombuffer(b"".join(texts), np.uint8) - np.uint8(48)
    ends = np.cumsum([len(text) for text in texts])
    more = digits > 31
    leading = np.flatnonzero(more)  # few: most runs are one digit
    # As many runs end before a leading digit as there are other characters.
    run = leading - np.arange(len(leading))
    start = np.flatnonzero(np.diff(run, prepend=-1))
    extra = np.diff(start, append=len(run))  # leading digits of each such run
    wrong = leading[start[extra > 6]]  # beyond 35 bits
    if wrong.size:
        mask = int(np.searchsorted(ends, wrong[0], side="right"))
        raise _foreign(texts[mask], file, names[mask])

    small = digits[~more].view(np.int8)
    small ^= 16  # sign of 5 bits, in place: fresh arrays take most of the time
    small -= 16
    step = small.astype(np.int32)  # as wide as in C, where too large a run wraps too
    if leading.size:
        place = 5 * (np.arange(len(run)) - np.repeat(start, extra))
        low = (digits[leading].astype(np.int64) & 31) << place
        run = run[start]
        long = (step[run].astype(np.int64) << 5 * extra) + np.add.reduceat(low, start)
        step[run] = long.astype(np.int32)
    stop = ends - np.searchsorted(leading, ends)
    first = np.concatenate([[0], stop[:-1]])
    return _chained(step, first, stop), first


def _chained(step, first, stop) -> np.ndarray:
    """Runs from their differences, for all masks at once.

    Every second run of the whole array is summed up, and what was there before a mask
    begins is taken off again. A mask's first run stands for itself.
    """
    runs = np.empty_like(step)
    for odd in (0, 1):
        np.cumsum(step[odd::2], dtype=np.int32, out=runs[odd::2])
    before, here = np.where(first > 0, runs[first - 1], 0), runs[first]
    for odd in (0, 1):
        number = (stop - odd + 1) // 2 - (first - odd + 1) // 2  # of runs in each mask
        base = np.where(first % 2 == odd, here, before)
        runs[odd::2] -= np.repeat(base, number).astype(np.int32, copy=False)
    runs[first] = step[first]
    return runs


def _check_sums(runs, first, pixels, file, names) -> None:
    total = np.add.reduceat(runs, first, dtype=np.int64)
    least = np.minimum.reduceat(runs, first)
    number = np.diff(first, append=len(runs))
    wrong = (total != pixels) | (least < 0) | (number > pixels + 1)
    for k in np.flatnonzero(wrong)[:1]:
        rule = f"counts must add up to height x width = {pixels[k]}"
        found = f"{number[k]} runs, the least {least[k]}, add up to {total[k]}"
        raise InputError(file, names[k], f"{rule}, but {found}")
