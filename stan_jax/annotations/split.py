"""Deals the videos of a file into parts that hold every category in proportion.

Source: Sechidis, Tsoumakas and Vlahavas, On the stratification of multi-label data,
2011: the rarest category first, each of its videos to the part that lacks it most.
"""

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from stan_jax import json_stream
from stan_jax.annotations import rules
from stan_jax.errors import InputError
from stan_jax.files import replacing


def parts(
    categories: Mapping[int, set[int]], shares: Sequence[float], seed: int = 0
) -> dict[int, int]:
    """Return the part that each video goes to: 0, 1, ...

    categories: of each video, by id of the video; may be empty.
    shares: of the parts, adding up to 1.
    The same on every machine and whatever the order of the file. A category of
    as many videos as there are parts stands in all of them, wherever that leaves the
    others theirs; where classes are rare a share of 0.1 may become 0.15 for it.
    """
    left = {video: set(found) for video, found in categories.items()}
    order = sorted(left, key=lambda video: _shuffled(seed, video))
    number = Counter(c for found in left.values() for c in found)
    wanted = {c: [share * n for share in shares] for c, n in number.items()}
    room = [share * len(left) for share in shares]
    dealt: dict[int, int] = {}

    def deal(video: int, category: int | None) -> None:
        def need(part: int) -> tuple:
            lacks = wanted[category][part] if category is not None else 0.0
            return round(lacks, 9), round(room[part], 9), -part

        part = max(range(len(shares)), key=need)
        dealt[video] = part
        room[part] -= 1
        for c in left[video]:
            wanted[c][part] -= 1

    while open_ := [video for video in order if video not in dealt]:
        rest = Counter(c for video in open_ for c in left[video])
        if not rest:
            for video in open_:
                deal(video, None)
            break
        rarest = min(rest, key=lambda c: (rest[c], c))
        for video in open_:
            if rarest in left[video]:
                deal(video, rarest)
    _correct(left, order, dealt, len(shares))
    for part in range(len(shares)):  # a side of no videos is no file
        sizes = Counter(dealt.values())
        if not sizes[part] and sizes and max(sizes.values()) > 1:
            most = max(sizes, key=lambda p: (sizes[p], -p))
            dealt[next(video for video in order if dealt[video] == most)] = part
    return dealt


def _shuffled(seed: int, video: int) -> str:
    # Not `random`: its sequence is not promised to stay the same between versions.
    return hashlib.sha256(f"{seed}:{video}".encode()).hexdigest()


def _correct(
    categories: dict[int, set[int]], order: list[int], dealt: dict[int, int], n: int
) -> None:
    """Move videos until no category that could stand in every part lacks one."""
    have = [Counter() for _ in range(n)]
    for video, part in dealt.items():
        have[part].update(categories[video])
    total = sum(have, Counter())

    def lost(video: int) -> bool:
        """Return whether its part would lose a category that it should keep."""
        here = have[dealt[video]]
        return any(here[c] == 1 and total[c] >= n for c in categories[video])

    for category in sorted(total, key=lambda c: (total[c], c)):
        if total[category] < n:
            continue
        for part in range(n):
            if have[part][category]:
                continue
            holders = [v for v in order if category in categories[v] and not lost(v)]
            if holders:
                # Of the part that has most of it, the video with the fewest others.
                lacking = [c for c in total if total[c] >= n and not have[part][c]]
                # The one that brings most of what is lacking, and least beside it.
                video = max(
                    holders,
                    key=lambda v: (
                        len(categories[v].intersection(lacking)),
                        -len(categories[v]),
                    ),
                )
                have[dealt[video]].subtract(categories[video])
                have[part].update(categories[video])
                dealt[video] = part


def categories_of(path: str | Path) -> dict[int, set[int]]:
    """The categories that stand in each video of a sound file, by id of the video."""
    found: dict[int, set[int]] = {}
    for key, i, row in json_stream.members(path):
        if i is None or i == json_stream.START:
            continue
        if key == "videos":
            found.setdefault(row["id"], set())
        elif key == "annotations":
            found.setdefault(row["video_id"], set()).add(row["category_id"])
    return found


def listed(path: str | Path, names: str | Path) -> set[int]:
    """The ids of the videos that a text names, one a line, by id or by folder.

    Raises: InputError for a line that names none, or several, and where none is named.
    """
    known: dict[str, list[int]] = {}
    for key, i, row in json_stream.members(path):
        if key == "videos" and i not in (None, json_stream.START):
            where = rules.place(key, i, row)
            for record in ("entry", "video"):
                rules.require(record, row, file=path, where=where)
            rules.require_each("file name", row["file_names"], file=path, where=where)
            first = PurePosixPath(rules.posix(row["file_names"][0]))
            for name in {str(row["id"]), str(first.parent), first.parent.name}:
                known.setdefault(name, []).append(row["id"])
    try:
        lines = Path(names).read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(names, "", f"must be a readable text: {error}") from None
    chosen = set()
    for n, line in enumerate(lines, start=1):
        if not (name := line.strip().rstrip("/")):
            continue
        found = known.get(name, [])
        if len(found) != 1:
            rule = f"'{name}' must be one video of {path}, is {len(found)}"
            raise InputError(names, f"line {n}", rule)
        chosen.add(found[0])
    if not chosen:
        raise InputError(names, "", "must name a video in each line, names none")
    return chosen


def write(path: str | Path, sides: Mapping[Path, set[int]]) -> None:
    """Write files with some of the videos each; all else stands there as it was.

    sides: the ids of the videos, by file. Memory holds one record at a time; the files
    appear whole or not at all.
    """
    with contextlib.ExitStack() as stack:
        files = {}
        for side, chosen in sides.items():
            partial = stack.enter_context(replacing(side))
            files[stack.enter_context(_Object(partial))] = chosen
        for key, i, value in json_stream.members(path):
            # What names a video goes with it, everything else to all.
            name = {"videos": "id", "annotations": "video_id"}.get(key)
            chooses = name is not None and i not in (None, json_stream.START)
            for file, chosen in files.items():
                if not chooses or value[name] in chosen:
                    file.add(key, i, value)


class _Object:
    """A json object that is written as `json_stream.members` reads it."""

    def __init__(self, path: Path):
        self._file = open(path, "w", encoding="utf-8")
        self._separator, self._end = "{", ""

    def __enter__(self) -> "_Object":
        return self

    def add(self, key: str, i: int | None, value: Any) -> None:
        if i is None or i == json_stream.START:
            self._file.write(f"{self._end}{self._separator}{json.dumps(key)}: ")
            self._separator, self._end = ", ", ""
        if i is None:
            self._file.write(json.dumps(value))
        elif i == json_stream.START:
            self._file.write("[")
            self._end = "]"
            self._first = True
        else:
            self._file.write(f"{'' if self._first else ', '}{json.dumps(value)}")
            self._first = False

    def __exit__(self, *_) -> None:
        with self._file:
            self._file.write(self._end + "}")
