"""Still images become clips: a window glides over the image, with its masks."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from stan_jax.annotations.formats import coco
from stan_jax.annotations.formats.collected import Collected
from stan_jax.errors import InputError
from stan_jax.masks import codec
from stan_jax.media import glide


def read(
    root: dict,
    images: str | Path,
    *,
    file: str | Path = "annotations",
) -> Collected:
    """Read COCO stills whose images are there, each a video of one frame.

    Raises: InputError for a broken record or image, and for a file with tracks, whose
    images are the frames of a video.
    """
    rows = coco.with_masks(root, file)
    tracked = [i for i, row in enumerate(rows) if coco.track_of(row) is not None]
    if tracked:
        rule = "has a track_id: the images are frames of a video"
        cure = "`stan convert cocovid` takes it"
        raise InputError(file, f"annotations[{tracked[0]}]", rule, cure)
    for i, image in enumerate(coco.records(root, "images", file)):
        where = f"images[{i}]"
        size = _size(Path(images) / str(coco.need(image, "file_name", file, where)))
        if coco.size_of(image, file, where) != size:
            rule = f"must have the size of its file, {size} (height, width)"
            raise InputError(file, where, rule)
    return coco.read_stills(root, file)


def write(
    found: Collected,
    images: str | Path,
    out: str | Path,
    *,
    length: int = 8,
    seed: int = 0,
    watch: Callable[[int], None] = lambda number: None,
) -> Collected:
    """Turn stills into pseudo-videos: a window glides over the still image.

    The window turns and zooms smoothly and never leaves the image; masks go through the
    same map as the pixels. The frames are written as JPEGs under `out`.

    Args:
      found: as of `read`.
      images: folder of the stills.
      out: folder of the frames.
      length: frames of each video.
      seed: of the paths; with it all is the same each time.
      watch: called with the number of images done.
    Returns: the clips; what they leave out is counted in the balance of `found`.
    """
    root = found.official()
    clips = Collected(found.file)
    clips.categories = root["categories"]
    by_video: dict[int, list[dict]] = {video["id"]: [] for video in root["videos"]}
    for row in root["annotations"]:
        by_video[row["video_id"]].append(row)
    for i, still in enumerate(root["videos"]):
        pixels = _picture(Path(images) / still["file_names"][0])
        size = still["height"], still["width"]
        path = glide.glide(size, length, np.random.default_rng([seed, i]))
        folder = Path(out) / f"{i + 1:06}"
        folder.mkdir(parents=True, exist_ok=True)
        for t, step in enumerate(path):
            view = glide.warp(pixels, step, size)
            view.save(folder / f"{t:05}.jpg", quality=95)
        names = [f"{folder.name}/{t:05}.jpg" for t in range(length)]
        video = clips.video(names, size)
        for row in by_video[still["id"]]:
            mask = row["segmentations"][0]
            views = [glide.warp_mask(mask, step, size) for step in path]
            masks = [None if view is None else codec.encode(view) for view in views]
            where = f"annotation {row['id']}"
            if not any(masks):
                reason = "lie where the clip never looks"
                found.balance.leave("tracks", reason, where)
                found.balance.leave("masks", f"of tracks that {reason}", where)
            for t, rle in enumerate(masks):
                if rle is not None:
                    clips.mask(
                        video,
                        row["id"],
                        t,
                        rle,
                        category=row["category_id"],
                        crowd=bool(row["iscrowd"]),
                        where=where,
                    )
        watch(i + 1)
    made = clips.balance
    found.balance.notes.append(
        f"each image is a clip of {length} frames: {made.read['frames']:,} frames,"
        f" {made.read['masks']:,} masks"
    )
    return clips


def _size(path: Path) -> tuple[int, int]:
    """Height and width of an image, all of which is there."""
    pixels = _picture(path)
    return pixels.height, pixels.width


def _picture(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(path, "", f"must be a whole image: {error}") from None
