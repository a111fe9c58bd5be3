"""Weather: what makes frames of a video hard to read, in short bursts.

Each burst is one or two frames long, or three, and has clean frames on both sides, so
what one frame hides the frame before it usually shows.
"""

import numpy as np
from jaxtyping import Bool, Float, UInt8

from stan_jax.shapes.scene import Film

Lengths = tuple[tuple[int, ...], tuple[float, ...]]  # of runs, and how likely each is
# Of `covered`: three frames of five, and up to three in a row.
LONG: dict[str, Lengths] = {
    "spoilt": ((1, 2, 3), (0.35, 0.4, 0.25)),
    "clean": ((1, 2), (0.75, 0.25)),
}


def clear(rng: np.random.Generator, film: Film) -> UInt8[np.ndarray, "t h w 3"]:
    """Return the frames as they are."""
    return film.frames


def hard(rng: np.random.Generator, film: Film) -> UInt8[np.ndarray, "t h w 3"]:
    """Return the frames, about 45 % of them hard to read; the others untouched.

    Blur, defocus, noise and bars, one or two at once.
    """
    spoilt = film.frames.copy()
    for t in np.flatnonzero(bursts(rng, len(spoilt))):
        frame = spoilt[t].astype(np.float32)
        for kind in rng.choice(len(KINDS), rng.integers(1, 3), replace=False):
            frame = KINDS[kind](rng, frame)
        spoilt[t] = np.clip(frame + 0.5, 0, 255)
    return spoilt


def blank(rng: np.random.Generator, film: Film) -> UInt8[np.ndarray, "t h w 3"]:
    """Return the frames, about 45 % of them without a trace of the scene: grey, noise.

    What is there then only earlier frames know.
    """
    spoilt = film.frames.copy()
    for t in np.flatnonzero(bursts(rng, len(spoilt))):
        grey = rng.uniform(60, 190)
        noise = rng.normal(0, 12, spoilt.shape[1:])
        spoilt[t] = np.clip(grey + noise, 0, 255)
    return spoilt


def covered(rng: np.random.Generator, film: Film) -> UInt8[np.ndarray, "t h w 3"]:
    """Return the frames, in about 60 % of which a plain board hides what objects are.

    Boards show where the objects are, and in their mean colour which is which; of what
    class and outline they are only an earlier frame tells.
    """
    spoilt = film.frames.copy()
    for t in np.flatnonzero(bursts(rng, len(spoilt), **LONG)):
        for row in range(1, len(film.labels) + 1):
            seen = film.ids[t] == row
            if not seen.any():
                continue
            ys, xs = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
            board = (slice(max(x[0] - 1, 0), x[-1] + 2) for x in (ys, xs))
            spoilt[t][tuple(board)] = film.frames[t][seen].mean(0)
    return spoilt


def bursts(
    rng: np.random.Generator,
    frames: int,
    spoilt: Lengths = ((1, 2), (0.65, 0.35)),
    clean: Lengths = ((1, 2, 3), (0.5, 0.35, 0.15)),
) -> Bool[np.ndarray, " t"]:
    """True where a frame is spoilt: spoilt runs between clean ones."""
    runs: list[bool] = []
    while len(runs) < frames + 6:
        for bad, (lengths, odds) in ((True, spoilt), (False, clean)):
            runs += [bad] * int(rng.choice(lengths, p=odds))
    start = rng.integers(6)  # so that first frames are spoilt like any other
    return np.array(runs[start : start + frames])


def _motion_blur(
    rng: np.random.Generator, frame: Float[np.ndarray, "h w 3"]
) -> Float[np.ndarray, "h w 3"]:
    length = rng.uniform(20, 34) * frame.shape[0] / 96
    angle = rng.uniform(0, np.pi)
    steps = np.linspace(-length / 2, length / 2, int(length) + 1)
    return _mean_of_shifts(
        frame, np.stack([steps * np.sin(angle), steps * np.cos(angle)], axis=1)
    )


def _defocus(
    rng: np.random.Generator, frame: Float[np.ndarray, "h w 3"]
) -> Float[np.ndarray, "h w 3"]:
    radius = rng.uniform(6, 10) * frame.shape[0] / 96
    # 64 points of a sunflower fill the lens evenly at any radius.
    k = np.arange(64)
    r, angle = radius * np.sqrt((k + 0.5) / 64), k * np.pi * (3 - np.sqrt(5))
    return _mean_of_shifts(frame, np.stack([r * np.sin(angle), r * np.cos(angle)], 1))


def _noise(
    rng: np.random.Generator, frame: Float[np.ndarray, "h w 3"]
) -> Float[np.ndarray, "h w 3"]:
    noise = rng.normal(0, rng.uniform(90, 140), frame.shape)
    return frame + noise.astype(np.float32)


def _bars(
    rng: np.random.Generator, frame: Float[np.ndarray, "h w 3"]
) -> Float[np.ndarray, "h w 3"]:
    """Parallel bars over more than half of the frame."""
    height, width = frame.shape[:2]
    y, x = np.mgrid[:height, :width]
    angle, period = rng.uniform(0, np.pi), rng.uniform(26, 48) * height / 96
    along = (np.cos(angle) * x + np.sin(angle) * y) / period + rng.uniform()
    bar = along % 1 < rng.uniform(0.5, 0.65)
    return np.where(bar[..., None], rng.uniform(0, 255, 3).astype(np.float32), frame)


KINDS = (_motion_blur, _defocus, _noise, _bars)
WEATHERS = {"clear": clear, "hard": hard, "blank": blank, "covered": covered}


def _mean_of_shifts(
    frame: Float[np.ndarray, "h w 3"], shifts: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, "h w 3"]:
    """Mean of copies moved by (y, x) whole pixels; the border repeats outwards."""
    height, width = frame.shape[:2]
    steps = np.rint(shifts).astype(int)
    reach = int(np.abs(steps).max())
    wide = np.pad(frame, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    total = np.zeros_like(frame)
    for dy, dx in steps + reach:
        total += wide[dy : dy + height, dx : dx + width]
    return total / np.float32(len(steps))
