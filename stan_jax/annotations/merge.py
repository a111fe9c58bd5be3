"""Several annotation files become one, everything in it numbered anew."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stan_jax.annotations import youtube_vis
from stan_jax.annotations.youtube_vis import field
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
        ids: dict[str, dict[int, int]] = {}  # new by old
        ids["category_id"] = {}
        for old, where, row in _records(path, root, "categories", "category"):
            name = field(path, where, row, "name", str)
            known = categories.setdefault(name, row | {"id": len(categories) + 1})
            ids["category_id"][old] = known["id"]
        ids["video_id"] = {}
        for old, where, row in _records(path, root, "videos", "video"):
            given = field(path, where, row, "file_names", list)
            names = [youtube_vis.posix(str(name)) for name in given]
            if folders:
                names = [f"{folders[number].rstrip('/')}/{name}" for name in names]
            if other := next((owner[n] for n in names if n in owner), None):
                rule = f"has frames that a video of {other} has as well"
                cure = "--folders puts the folder of each file's frames in front"
                raise InputError(path, where, rule, cure)
            owner |= dict.fromkeys(names, path)
            ids["video_id"][old] = len(videos) + 1
            videos.append(row | {"id": len(videos) + 1, "file_names": names})
        for i, row in enumerate(youtube_vis.list_of(path, root, "annotations")):
            where, new = f"entry {i} of annotations", {"id": len(tracks) + 1}
            for key, known in ids.items():
                if (old := field(path, where, row, key, int)) not in known:
                    raise InputError(path, where, f"{key} {old} is not in the file")
                new[key] = known[old]
            tracks.append(row | new)
    return dict(videos=videos, categories=list(categories.values()), annotations=tracks)


def _records(path: Path, root: dict, key: str, what: str):
    """Id, name and content of each record of a list whose ids are its own."""
    rows = youtube_vis.list_of(path, root, key)
    ids = [field(path, f"entry {i} of {key}", x, "id", int) for i, x in enumerate(rows)]
    youtube_vis.require_unique(path, what, ids)
    return [(i, f"{what} {i}", row) for i, row in zip(ids, rows, strict=True)]
