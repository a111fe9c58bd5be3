"""Compressed run lengths (RLE) of masks: the one encoder, the one decoder.

An RLE gives the lengths of runs of background, object, background, ... going down
the columns, left to right. Compressed, it takes a few hundred bytes a mask.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int
from pycocotools import mask as coco_mask

RLE = dict[str, Any]  # {"size": [height, width], "counts": compressed text}
# Error of the mask of this number, with this broken rule.
Fail = Callable[[int, str], Exception]

# Characters of a compressed text: "0" to "O" end a run, "P" to "o" have more behind.
_ENDS, _MORE = bytes(range(48, 80)), bytes(range(80, 112))
# What a run of one character means: 5 bits with a sign.
_SIGNED = bytes((x ^ 16) - 16 & 255 for x in range(32)).rjust(80, b"\0").ljust(256)


def pack(size_hw: Sequence[int], counts: str | bytes) -> RLE:
    """The RLE of a compressed text, as json takes it."""
    text = counts if isinstance(counts, str) else counts.decode("ascii")
    return {"size": list(size_hw), "counts": text}


def encode(mask: Bool[np.ndarray, "h w"]) -> RLE:
    """Encode pixels; a mask may be empty."""
    rle = coco_mask.encode(np.asfortranarray(mask.view(np.uint8)))
    return pack(mask.shape, rle["counts"])


def encode_runs(runs: list[int], hw: Sequence[int]) -> RLE:
    """Encode run lengths, which the caller has checked to fill height x width."""
    rle = coco_mask.frPyObjects({"size": hw, "counts": runs}, 0, 0)
    return pack(rle["size"], rle["counts"])


def encode_polygons(polygons: list, hw: Sequence[int]) -> RLE:
    """Encode what polygons x1, y1, x2, y2, ... (pixels) cover together."""
    return pack(hw, coco_mask.merge(coco_mask.frPyObjects(polygons, *hw))["counts"])


def union(masks: Sequence[RLE]) -> RLE:
    """Encode what masks of one size cover together."""
    return pack(masks[0]["size"], coco_mask.merge([*masks])["counts"])


def decode(rle: RLE) -> Bool[np.ndarray, "h w"]:
    """Pixels of a mask; the inverse of `encode`.

    pycocotools' own warns under numpy 2 and takes longer.
    """
    height, width = rle["size"]
    runs = decode_runs(rle["counts"])
    pixels = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return pixels.reshape(width, height).T


def encode_part(
    part: Bool[np.ndarray, "_ _"], corner: tuple[int, int], hw: tuple[int, int]
) -> RLE:
    """Encode a mask of which only the pixels of a part may be set.

    corner: top and left of the part in the frame, which holds all of it.
    Takes time with the part, not with the frame; the same text as of `encode`.
    """
    columns = np.zeros((part.shape[1], part.shape[0] + 2), np.int8)
    columns[:, 1:-1] = part.T
    column, row = np.nonzero(np.diff(columns, axis=1))
    place = (corner[1] + column) * hw[0] + corner[0] + row
    # Where a run reaches from column to column, it ends where the next one begins.
    joined = np.flatnonzero(place[1:-1:2] == place[2::2]) * 2 + 1
    place = np.delete(place, np.concatenate([joined, joined + 1]))
    runs = np.diff(place, prepend=0, append=hw[0] * hw[1])
    if len(runs) % 2 and not runs[-1]:  # the last pixel of all is set
        runs = runs[:-1]
    return encode_runs(runs.tolist(), hw)


def decode_part(rle: RLE) -> tuple[int, int, Bool[np.ndarray, "h w"]]:
    """Return top and left of the tight box around a mask, and the pixels in it.

    Takes time with the columns of the box, not with the frame. An empty mask gives an
    empty part.
    """
    height = rle["size"][0]
    ends = np.cumsum(decode_runs(rle["counts"]))
    starts, stops = ends[:-1:2], ends[1::2]
    seen = stops > starts
    starts, stops = starts[seen], stops[seen]
    if not starts.size:
        return 0, 0, np.zeros((0, 0), bool)
    left, right = int(starts[0]) // height, int(stops[-1] - 1) // height + 1
    first, last = starts % height, (stops - 1) % height
    whole = (starts // height != (stops - 1) // height).any()
    top, bottom = (0, height) if whole else (int(first.min()), int(last.max()) + 1)
    edges = np.stack([starts, stops], 1).reshape(-1) - left * height
    runs = np.diff(edges, prepend=0, append=(right - left) * height)
    pixels = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    columns = pixels.reshape(right - left, height)[:, top:bottom]
    if whole:  # a run over the edge of a column may still leave rows empty
        rows = np.flatnonzero(columns.any(axis=0))
        top, columns = int(rows[0]), columns[:, rows[0] : rows[-1] + 1]
    return top, left, columns.T


def area(rle: RLE) -> int:
    """Pixels of a mask."""
    return int(coco_mask.area(rle))


def tight_boxes(masks: Sequence[RLE | None]) -> Float32[np.ndarray, "t 4"]:
    """Half-open xyxy boxes around masks, zero where there is none."""
    boxes = np.zeros((len(masks), 4), np.float32)
    seen = [t for t, mask in enumerate(masks) if mask is not None]
    if seen:
        xywh = coco_mask.toBbox([masks[t] for t in seen])
        boxes[seen] = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    return boxes


def palette() -> list[int]:
    """Return colours of id masks that differ between neighbours, as VOC has them."""
    ids = np.arange(256)
    colours = np.zeros((256, 3), int)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((ids >> channel) & 1) << (7 - bit)
        ids = ids >> 3
    return colours.ravel().tolist()


def decode_runs(text: str) -> Int[np.ndarray, " r"]:
    """Run lengths behind one compressed text. Raises: ValueError for any other text."""

    def fail(_: int, rule: str) -> ValueError:
        return ValueError(f"RLE {rule}")

    if not text or not text.isascii():
        rule = "counts are not compressed run lengths, but cut or foreign"
        raise fail(0, f"{rule}: {text!r:.60}")
    runs, _, _ = decode_many(text.encode(), np.array([len(text)]), fail, np.int64)
    return runs


def decode_many(
    text: bytes, ends: Int[np.ndarray, " n"], fail: Fail, dtype: type = np.int32
) -> tuple[Int[np.ndarray, " r"], Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Run lengths of masks end to end, and where those of each mask start and stop.

    A run is written in 5-bit digits, lowest first; digits with more to come carry 32,
    the last one is signed. From a mask's fourth run on it is the difference to the run
    two before (COCO maskApi.c rleFrString).

    Args:
      text: compressed counts of all masks, none of them empty.
      ends: where the text of each mask ends.
      fail: error for a text that is foreign, or cut, or holds a run of 8 digits.
      dtype: of the runs; int32 is as wide as in C, where too large a run wraps too.
    """
    digits = np.frombuffer(text, np.uint8)
    _check_digits(text, digits, ends, fail)
    step = np.frombuffer(text.translate(_SIGNED, _MORE), np.int8).astype(dtype)
    leading = np.flatnonzero(digits >= 80)  # few: most runs are one digit
    stop = ends - np.searchsorted(leading, ends)
    # As many runs end before a leading digit as there are other characters.
    run = leading - np.arange(len(leading))
    last = np.diff(leading, append=-1) != 1  # the digit before the one with the sign
    for number in range(8):
        chosen = np.flatnonzero(last)
        if not chosen.size:
            break
        if number == 6:  # and one more, each of 5 bits
            k = int(np.searchsorted(ends, leading[chosen[0]], side="right"))
            raise fail(k, "counts are not compressed run lengths: above 2^35")
        at = run[chosen]
        step[at] = (step[at] << 5) + (digits[leading[chosen]] - np.uint8(80))
        # Then the one before, of numbers that are longer.
        last = np.append(last[1:] & (np.diff(leading) == 1), False)
    first = np.concatenate([[0], stop[:-1]])
    return _summed(step, first, stop), first, stop


def _check_digits(
    text: bytes, digits: np.ndarray, ends: Int[np.ndarray, " n"], fail: Fail
) -> None:
    """Known characters, and no run cut short."""
    if digits.min() >= 48 and digits.max() < 112 and (digits[ends - 1] < 80).all():
        return
    strange = (digits < 48) | (digits >= 112)
    strange[ends - 1] |= digits[ends - 1] >= 80
    k = int(np.searchsorted(ends, np.flatnonzero(strange)[0], side="right"))
    found = text[ends[k - 1] if k else 0 : ends[k]]
    rule = "counts are not compressed run lengths, but cut or foreign"
    raise fail(k, f"{rule}: {found!r:.60}")


def _summed(step, first, stop) -> np.ndarray:
    """Runs from their differences, for all masks at once.

    Every second run of the whole array is summed up, and what was there before a mask
    begins is taken off again. A mask's first run stands for itself.
    """
    runs = np.empty_like(step)
    for odd in (0, 1):
        np.cumsum(step[odd::2], dtype=step.dtype, out=runs[odd::2])
    before, here = np.where(first > 0, runs[first - 1], 0), runs[first]
    for odd in (0, 1):
        number = (stop - odd + 1) // 2 - (first - odd + 1) // 2  # of runs in each mask
        base = np.where(first % 2 == odd, here, before)
        runs[odd::2] -= np.repeat(base, number).astype(step.dtype, copy=False)
    runs[first] = step[first]
    return runs
