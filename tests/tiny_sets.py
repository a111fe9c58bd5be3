"""Small folders in YouTube-VIS layout, whose frames tell which frame they are."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image


class Folder(NamedTuple):
    """A json that can be changed before `write`, and the folder of its frames."""

    path: Path
    frames: Path
    content: dict

    def write(self) -> "Folder":
        self.path.write_text(json.dumps(self.content))
        return self


def runs(mask: np.ndarray) -> dict:
    """Uncompressed RLE of a mask, by a plain loop."""
    counts, value = [0], 0
    for pixel in mask.ravel(order="F").tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return {"size": list(mask.shape), "counts": counts}


def box_mask(height: int, width: int, box: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def colour(video: int, t: int) -> tuple[int, int, int]:
    """What frame t of a video is painted with; far enough apart to survive JPEG."""
    return (20 + 30 * video, 20 + 10 * t, 120)


def make(root: Path, videos: Sequence[tuple[int, int, int]]) -> Folder:
    """Write videos of (height, width, frames); each has one object, which moves right.

    Object of video v: label v % 2, 10 rows high, from row 4, from column t, 8 wide.
    """
    content: dict = {
        "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
        "videos": [],
        "annotations": [],
    }
    for v, (height, width, length) in enumerate(videos):
        names = [f"v{v}/{t:05d}.jpg" for t in range(length)]
        content["videos"].append(
            {
                "id": 10 + 5 * v,
                "height": height,
                "width": width,
                "length": length,
                "file_names": names,
            }
        )
        content["annotations"].append(
            track(100 + v, 10 + 5 * v, (3, 7)[v % 2], moving(height, width, length))
        )
        for t in range(length):
            path = root / "JPEGImages" / names[t]
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (width, height), colour(v, t)).save(path, quality=95)
    return Folder(root / "instances.json", root / "JPEGImages", content).write()


def moving(height: int, width: int, length: int, top: int = 4) -> list[np.ndarray]:
    """Masks of an object 10 high and 8 wide that moves right by a pixel a frame."""
    return [box_mask(height, width, (t, top, t + 8, top + 10)) for t in range(length)]


def track(number: int, video: int, category: int, masks: list[np.ndarray]) -> dict:
    """An entry of `annotations`; its boxes and areas are not to be relied on."""
    return {
        "id": number,
        "video_id": video,
        "category_id": category,
        "iscrowd": 0,
        "segmentations": [runs(mask) for mask in masks],
        "bboxes": [None] * len(masks),
        "areas": [0] * len(masks),
    }


def whose(frame: np.ndarray) -> tuple[int, int]:
    """Video and frame number of a painted frame, from its colour away from objects."""
    red, green, _ = frame[1, 1].astype(float)
    return round((red - 20) / 30), round((green - 20) / 10)
