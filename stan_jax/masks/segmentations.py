"""Every way a json may write a mask, checked and brought into one: compressed RLE.

An RLE gives the lengths of runs of background, object, background, ... going down
the columns, left to right. Compressed, it takes a few hundred bytes a mask.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int64
from pycocotools import mask as coco_mask

RLE = dict[str, Any]  # {"size": [height, width], "counts": bytes}
MOST = 2**24  # height and width of a frame are below it


def compress(segmentation: object, height: int, width: int) -> RLE | None:
    """Compressed RLE with at least one pixel, or None for null and for empty masks.

    segmentation: null, RLE (counts as text or as list), or list of polygons (pixels).
    Raises: ValueError with the broken rule, if it is none of these, has another size
    than height x width, or its runs or points cannot make a mask.
    """
    if segmentation is None or segmentation == []:
        return None
    if isinstance(segmentation, list):
        if any(isinstance(points, list) and len(points) % 2 for points in segmentation):
            raise ValueError("polygon must be a list x1, y1, x2, y2, ... of numbers")
        joined = from_polygons(segmentation, height, width)
        return joined if coco_mask.area(joined) else None
    if not isinstance(segmentation, dict):
        kind = type(segmentation).__name__
        raise ValueError(f"must be null, an RLE or a list of polygons, is a {kind}")
    size, given = [height, width], segmentation.get("counts")
    if segmentation.get("size") != size:
        found = segmentation.get("size")
        raise ValueError(f"RLE size must be that of the video, {size}, is {found}")
    runs = _runs(given)
    cells = height * width
    if runs.min() < 0 or runs.max() > cells or runs.sum() != cells:
        raise ValueError(
            f"RLE counts must not be negative and add up to {height} x {width} ="
            f" {cells}, add up to {sum(runs.tolist())}"
        )
    if not runs[1::2].any():
        return None
    if isinstance(given, str):
        return {"size": size, "counts": given.encode()}
    return coco_mask.frPyObjects({"size": size, "counts": runs.tolist()}, height, width)


def pack_counts(entry: dict) -> dict:
    """An RLE with its list of counts as an array, in place; anything else unchanged."""
    if isinstance(entry.get("counts"), list):
        entry["counts"] = _array(entry["counts"])
    return entry


def from_polygons(polygons: list, height: int, width: int) -> RLE:
    """Compressed RLE of what polygons x1, y1, x2, y2, ... cover; perhaps no pixel.

    A last x without its y is passed over, as pycocotools does.
    Raises: ValueError with the broken rule.
    """
    side = max(height, width)
    if not (0 < height < MOST and 0 < width < MOST):
        raise ValueError(f"polygon needs a frame, has one of {height} x {width}")
    for polygon in polygons:
        numbers = isinstance(polygon, list) and all(
            type(x) in (int, float) for x in polygon
        )
        if not numbers:
            raise ValueError("polygon must be a list x1, y1, x2, y2, ... of numbers")
        if len(polygon) < 6:
            rule = f"polygon must have at least 3 points, has {len(polygon) // 2}"
            raise ValueError(rule)
        # Drawing takes memory in proportion to the length of the outline.
        if not all(-side <= x <= 2 * side for x in polygon):
            raise ValueError(
                f"polygon must lie in or near its {height} x {width} frame"
            )
    return coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))


def decode(rle: RLE) -> Bool[np.ndarray, "h w"]:
    """Pixels of a compressed mask; the inverse of `compress`.

    Own code, since pycocotools' decode warns under numpy 2 and takes longer.
    """
    height, width = rle["size"]
    runs = _runs_of_text(rle["counts"])
    pixels = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return pixels.reshape(width, height).T


def area(rle: RLE) -> int:
    """Pixels of a compressed mask."""
    return int(coco_mask.area(rle))


def odd_runs(segmentation: object) -> bool:
    """Whether a valid RLE has a run of length 0 after the first: none should."""
    counts = segmentation.get("counts") if isinstance(segmentation, dict) else None
    return counts is not None and not _runs(counts)[1:].all()


def encode(mask: Bool[np.ndarray, "h w"]) -> RLE | None:
    """Compressed RLE, fit for json (`counts` is a text); None for an empty mask."""
    if not mask.any():
        return None
    rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")}


def tight_boxes(masks: Sequence[RLE | None]) -> Float32[np.ndarray, "t 4"]:
    """Half-open xyxy boxes around compressed masks, zero where there is none."""
    boxes = np.zeros((len(masks), 4), np.float32)
    seen = [t for t, mask in enumerate(masks) if mask is not None]
    if seen:
        xywh = coco_mask.toBbox([masks[t] for t in seen])
        boxes[seen] = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    return boxes


def _runs(counts: object) -> Int64[np.ndarray, " r"]:
    if isinstance(counts, str):
        return _runs_of_text(counts)
    runs = _array(counts) if isinstance(counts, list) else counts
    if not isinstance(runs, np.ndarray) or runs.dtype != np.int64 or runs.ndim != 1:
        raise ValueError("RLE counts must be a text or a list of whole numbers")
    return runs


def _array(counts: list) -> np.ndarray:
    try:
        return np.array(counts)
    except ValueError:  # lists of several lengths in the list
        return np.array(None)


def _runs_of_text(text: str | bytes) -> Int64[np.ndarray, " r"]:
    """Run lengths behind a compressed text.

    Five bits a character, lowest first; bit 5 says that more follow, the highest bit
    of the last is the sign. From the fourth number on, each is the difference to the
    number two before it.
    """
    raw = text.encode() if isinstance(text, str) else text
    codes = np.frombuffer(raw, np.uint8).astype(np.int64) - 48
    if not codes.size or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError(
            "RLE counts must be a whole compressed text, are cut or foreign"
        )
    ends = np.flatnonzero(codes & 32 == 0)
    starts = np.append(0, ends[:-1] + 1)
    lengths = ends - starts + 1
    if lengths.max() > 7:
        raise ValueError("RLE counts must be below 2^34")
    place = np.arange(codes.size) - np.repeat(starts, lengths)
    runs = np.add.reduceat((codes & 31) << (5 * place), starts)
    runs -= np.where(codes[ends] & 16, 1 << (5 * lengths), 0)
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    return runs
