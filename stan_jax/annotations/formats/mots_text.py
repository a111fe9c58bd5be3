"""MOTS as text: a file a video, a mask a line."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from stan_jax.annotations.formats.collected import Collected, found_below, named
from stan_jax.annotations.formats.id_images import (
    MOTS_IGNORE,
    mots_object,
    note_unnamed,
    read_lines,
)
from stan_jax.errors import InputError
from stan_jax.masks import segmentations
from stan_jax.masks.codec import RLE

MOST_FRAMES = 100_000  # of a video: an hour at 25 a second has 90,000
Line = tuple[int, int, int, tuple[int, int], RLE | None]


def read(
    source: str | Path, *, suffix: str = ".jpg", classes: Sequence[str] = ()
) -> Collected:
    """Read lines of frame, id, class, height, width and a compressed RLE, by spaces.

    Id 10000 is an ignored region, a crowd. Frames without a line, between others, are
    frames all the same.

    Args:
      source: a txt, or a folder of them.
      suffix: of the frames; frame n is <video>/<n, six digits>.
      classes: names of class 1, 2, ...
    Raises: InputError for a line that is none.
    """
    source = Path(source)
    files = [source]
    if not source.is_file():
        files = [f for f in found_below(source, ".txt") if f.parent == source]
    if not files:
        raise InputError(source, "", "must be a txt of MOTS, or a folder of them")
    found, kinds = Collected(source), set()
    for file in files:
        rows = list(_lines(file))
        if not rows:
            raise InputError(file, "", "must hold at least one line")
        times = [row[0] for row in rows]
        first, length = min(times), max(times) - min(times) + 1
        if first < 0 or length > MOST_FRAMES:
            most = f"{MOST_FRAMES:,}"
            rule = f"frames must lie within {most}, are {first} to {max(times)}"
            raise InputError(file, "", rule)
        size = rows[0][3]
        names = [f"{file.stem}/{first + t:06}{suffix}" for t in range(length)]
        video = found.video(names, size)
        numbered = sorted(enumerate(rows, start=1), key=lambda x: x[1][1:3])
        for n, (time, instance, kind, its, mask) in numbered:
            where = f"{file.name}, mask {n}"
            if its != size:
                rule = f"must have the size of the others, {size}, has {its}"
                raise InputError(file, f"mask {n}", rule)
            key = instance if instance // 1000 == kind else (instance, kind)
            twice = found.has(video, key, time - first)
            if twice and instance != MOTS_IGNORE:
                rule = f"object {instance} has two masks in frame {time}"
                raise InputError(file, f"mask {n}", rule)
            _, crowd = mots_object(instance)
            kinds.add(kind := 1 if crowd else kind)
            found.mask(
                video,
                key,
                time - first,
                mask,
                category=kind,
                where=where,
                crowd=crowd,
            )
    found.categories = named(kinds, [*classes])
    note_unnamed(found, classes)
    return found


def _lines(file: Path) -> Iterator[Line]:
    """Frame, id, class, size and mask of each line."""
    for n, line in enumerate(read_lines(file), start=1):
        if not (parts := line.split()):
            continue
        try:
            time, instance, kind, height, width = map(int, parts[:5])
            (counts,) = parts[5:]
            mask = {"size": [height, width], "counts": counts}
            rle = segmentations.compress(mask, height, width)
        except ValueError as error:
            rule = f"must be frame, id, class, height, width, RLE: {error}"
            raise InputError(file, f"line {n}", rule) from None
        yield time, instance, kind, (height, width), rle
