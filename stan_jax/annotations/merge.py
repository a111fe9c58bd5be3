"""Several annotation files become one, everything in it numbered anew."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stan_jax.annotations import rules, youtube_vis
from stan_jax.errors import InputError


def merge(files: Sequence[str | Path], folders: Sequence[str] = ()) -> dict[str, Any]:
    """Return the content of all files as one in the official format.

    Videos and tracks are numbered from 1 in the order of the files, categories joined
    by name. An id that stands twice in one file is of the record's own video.

    Args:
      folders: of the frames of each file, put in front of its `file_names`.
    Raises: InputError where a file lacks a list, names a video or category that it does
      not have, or where two videos would have the same frames.
    """
    if folders and len(folders) != len(files):
        rule = f"must be one for each of {len(files)} files, are {len(folders)}"
        raise InputError("folders", "", rule)
    videos, tracks = [], []
    categories: dict[str, dict] = {}
    owner: dict[str, Path] = {}
    for number, path in enumerate(map(Path, files)):
        root = youtube_vis.read_plain(path)
        ids: dict[str, dict[int, int]] = {"category_id": {}, "video_id": {}}
        sizes: dict[int, rules.Size] = {}
        for row in youtube_vis.records(path, root, "categories"):
            known = categories.setdefault(
                row["name"], row | {"id": len(categories) + 1}
            )
            ids["category_id"][row["id"]] = known["id"]
        for row in youtube_vis.records(path, root, "videos"):
            names = [rules.posix(name) for name in row["file_names"]]
            if folders:
                names = [f"{folders[number].rstrip('/')}/{name}" for name in names]
            # Within one file two videos may share frames, as check says.
            others = [owner[n] for n in names if owner.get(n, path) != path]
            if other := next(iter(others), None):
                rule = f"has frames that a video of {other} has as well"
                cure = "--folders puts the folder of each file's frames in front"
                raise InputError(path, f"video {row['id']}", rule, cure)
            owner |= dict.fromkeys(names, path)
            ids["video_id"][row["id"]] = len(videos) + 1
            sizes[row["id"]] = rules.size(row)
            videos.append(row | {"id": len(videos) + 1, "file_names": names})
        known = rules.Known(sizes, ids["category_id"])
        for i, row in enumerate(youtube_vis.list_of(path, root, "annotations")):
            where = rules.place("annotations", i, row)
            youtube_vis.masks_of(path, where, row, known)
            new = {key: now[row[key]] for key, now in ids.items()}
            tracks.append(row | new | {"id": len(tracks) + 1})
    return dict(videos=videos, categories=list(categories.values()), annotations=tracks)
