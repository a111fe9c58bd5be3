"""Which batch is the largest that fits, found by compiling few."""

import math
from collections.abc import Callable

_COMPILES = 6  # at most, beside that of the start


def largest(
    peak: Callable[[int], float],
    start: tuple[int, float],
    step: int,
    limit: float,
    fixed: float,
) -> tuple[int, dict[int, float]]:
    """Return the largest batch whose peak is below the limit, and all peaks found.

    Memory grows almost linearly with the batch: the line through two batches says
    where it meets the limit, and the batch there is tried. Where memory bends, that
    moves the line, and the batch there is tried next. 0: none was found to fit.

    Args:
      peak: bytes that a batch takes; inf where it is unknown how far it is off.
      start: a batch and its peak.
      step: what a batch must divide by.
      limit: bytes that there are.
      fixed: bytes of what is there at any batch, parameters and optimizer; 0 where
        it is unknown. They give the first line without a second compile.
    """
    peaks = {0: fixed, start[0]: start[1]}
    if not math.isfinite(start[1]) and step not in peaks:
        peaks[step] = peak(step)
    for _ in range(_COMPILES):
        line = sum(map(math.isfinite, peaks.values())) > 1
        guess = max(step, (_on_line if line else _halfway)(peaks, step, limit))
        if guess in peaks:
            break
        peaks[guess] = peak(guess)
    return _bounds(peaks, limit)[0], {b: p for b, p in peaks.items() if b}


def _on_line(peaks: dict[int, float], step: int, limit: float) -> int:
    """Where the line through the two batches nearest to the limit meets it."""
    fit, unfit = _bounds(peaks, limit)
    known = [b for b, bytes in peaks.items() if math.isfinite(bytes)]
    low, high = sorted(sorted(known, key=lambda b: abs(peaks[b] - limit))[:2])
    if peaks[high] <= peaks[low]:  # near the limit a compiler may save as it can
        low, high = 0, fit
    rise = peaks[high] - peaks[low]
    if rise <= 0:
        return fit
    guess = int(low + (limit - peaks[low]) * (high - low) / rise) // step * step
    return max(fit, guess if unfit is None else min(guess, unfit - step))


def _halfway(peaks: dict[int, float], step: int, limit: float) -> int:
    fit, unfit = _bounds(peaks, limit)
    return (fit + (unfit or fit)) // 2 // step * step


def _bounds(peaks: dict[int, float], limit: float) -> tuple[int, int | None]:
    """The largest batch that is known to fit, and the smallest known not to."""
    fit = max((b for b, bytes in peaks.items() if bytes <= limit), default=0)
    return fit, min((b for b, bytes in peaks.items() if bytes > limit), default=None)
