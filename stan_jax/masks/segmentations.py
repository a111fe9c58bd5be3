"""Every way a json may write a mask, checked and brought into one: compressed RLE."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int64

from stan_jax.masks import codec
from stan_jax.masks.codec import RLE

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
        joined = from_polygons(segmentation, height, width)
        return joined if codec.area(joined) else None
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
        return codec.pack(size, given)
    return codec.encode_runs(runs.tolist(), size)


def compress_texts(
    entries: Sequence, height: int, width: int
) -> tuple[list[RLE | None], Bool[np.ndarray, " n"]] | None:
    """Bring masks that are texts already through `compress`, all at once.

    Returns: the masks, and which have `odd_runs`; or None where some entry is neither
    null nor a sound text: then `compress` says which, and why.
    """
    size, at = [height, width], [t for t, entry in enumerate(entries) if entry]
    texts = []
    for t in at:
        entry = entries[t]
        if not isinstance(entry, dict) or entry.get("size") != size:
            return None
        counts = entry.get("counts")
        if not isinstance(counts, str) or not counts or not counts.isascii():
            return None
        texts.append(counts)
    masks: list[RLE | None] = [None] * len(entries)
    odd = np.zeros(len(entries), bool)
    if any(entry is not None and entry != [] for entry in entries if not entry):
        return None
    if not texts:
        return masks, odd
    ends = np.cumsum([len(text) for text in texts])
    try:
        runs, first, stop = codec.decode_many(
            "".join(texts).encode(), ends, lambda _, rule: ValueError(rule), np.int64
        )
    except ValueError:
        return None
    cells = height * width
    if (
        runs.min() < 0
        or runs.max() > cells
        or (np.add.reduceat(runs, first) != cells).any()
    ):
        return None
    place = np.arange(len(runs)) - np.repeat(first, stop - first)
    shown = np.logical_or.reduceat((place % 2 == 1) & (runs > 0), first)
    odd[at] = np.logical_or.reduceat((place > 0) & (runs == 0), first)
    for t, text, seen in zip(at, texts, shown, strict=True):
        masks[t] = codec.pack(size, text) if seen else None
    return masks, odd


def pack_counts(entry: dict) -> dict:
    """An RLE with its list of counts as an array, in place; anything else unchanged."""
    if isinstance(entry.get("counts"), list):
        entry["counts"] = _array(entry["counts"])
    return entry


def from_polygons(polygons: list, height: int, width: int) -> RLE:
    """Compressed RLE of what polygons x1, y1, x2, y2, ... cover; perhaps no pixel.

    A last x without its y is passed over, as pycocotools does, and so are parts of one
    or two points beside a whole polygon: see `loose_ends`.
    Raises: ValueError with the broken rule.
    """
    side = max(height, width)
    if not (0 < height < MOST and 0 < width < MOST):
        raise ValueError(f"polygon needs a frame, has one of {height} x {width}")
    if polygons and all(type(x) in (int, float) for x in polygons):
        raise ValueError("must be a list of polygons: write [[x1, y1, ...]]")
    for polygon in polygons:
        if not isinstance(polygon, list) or not set(map(type, polygon)) <= {int, float}:
            raise ValueError("polygon must be a list x1, y1, x2, y2, ... of numbers")
        # Drawing takes memory in proportion to the length of the outline.
        if polygon and not (
            -side <= min(polygon)
            and max(polygon) <= 2 * side
            and not math.isnan(sum(polygon))  # which min and max may pass over
        ):
            raise ValueError(
                f"polygon must lie in or near its {height} x {width} frame"
            )
    whole = [polygon for polygon in polygons if len(polygon) >= 6]
    if polygons and not whole:
        most = max(map(len, polygons))
        rule = f"polygon must have at least 3 points, has {most // 2}"
        if most == 4:
            rule += ": two corners of a box? write all four"
        raise ValueError(rule)
    return codec.encode_polygons(whole, (height, width))


def loose_ends(segmentation: object) -> str:
    """Return what of valid polygons is passed over, or nothing."""
    if not isinstance(segmentation, list):
        return ""
    if stray := sum(len(polygon) < 6 for polygon in segmentation):
        return f"{stray} of {len(segmentation)} polygons have fewer than 3 points"
    odd = [len(polygon) for polygon in segmentation if len(polygon) % 2]
    return f"polygon has {odd[0]} numbers, the last x has no y" if odd else ""


def odd_runs(segmentation: object) -> bool:
    """Return whether a valid RLE has a run of length 0 after the first: none should."""
    counts = segmentation.get("counts") if isinstance(segmentation, dict) else None
    return counts is not None and not _runs(counts)[1:].all()


def _runs(counts: object) -> Int64[np.ndarray, " r"]:
    if isinstance(counts, str):
        return codec.decode_runs(counts)
    runs = _array(counts) if isinstance(counts, list) else counts
    if not isinstance(runs, np.ndarray) or runs.dtype != np.int64 or runs.ndim != 1:
        raise ValueError("RLE counts must be a text or a list of whole numbers")
    return runs


def _array(counts: list) -> np.ndarray:
    try:
        return np.array(counts)
    except ValueError:  # lists of several lengths in the list
        return np.array(None)
