"""Several annotation files become one, everything in it numbered anew."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stan_jax.annotations import youtube_vis
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
        rows = {key: _rows(path, root, key) for key in ("videos", "categories")}
        rows["annotations"] = _rows(path, root, "annotations")
        for key in ("videos", "categories"):
            _unique(path, key, rows[key])
        kinds, place = {}, {}
        for row in rows["categories"]:
            name = str(row.get("name", row.get("id")))
            known = categories.setdefault(name, row | {"id": len(categories) + 1})
            kinds[row.get("id")] = known["id"]
        for row in rows["videos"]:
            names = [youtube_vis.posix(str(name)) for name in row.get("file_names", ())]
            if folders:
                names = [f"{folders[number].rstrip('/')}/{name}" for name in names]
            if other := next((owner[n] for n in names if n in owner), None):
                rule = f"has frames that a video of {other} has as well"
                cure = "--folders puts the folder of each file's frames in front"
                raise InputError(path, f"video {row.get('id')}", rule, cure)
            owner |= dict.fromkeys(names, path)
            place[row.get("id")] = len(videos) + 1
            videos.append(row | {"id": len(videos) + 1, "file_names": names})
        for i, row in enumerate(rows["annotations"]):
            for key, known in (("video_id", place), ("category_id", kinds)):
                if row.get(key) not in known:
                    rule = f"{key} {row.get(key)!r:.40} is not in the file"
                    raise InputError(path, f"entry {i} of annotations", rule)
            new = dict(video_id=place[row["video_id"]], id=len(tracks) + 1)
            tracks.append(row | new | dict(category_id=kinds[row["category_id"]]))
    return dict(videos=videos, categories=list(categories.values()), annotations=tracks)


def _rows(path: Path, root: dict, key: str) -> list[dict]:
    rows = root.get(key)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(path, key, "must be a list of objects")
    return rows


def _unique(path: Path, key: str, rows: list[dict]) -> None:
    for number, often in Counter(str(row.get("id")) for row in rows).items():
        if often > 1:
            raise InputError(path, key, f"id {number} must be used only once")
