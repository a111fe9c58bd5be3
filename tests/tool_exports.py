"""Small exports of every tool that `stan convert` reads, written where one stands.

Two videos of four frames, two objects in each; `SOURCES` has a function for each.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from stan_jax.annotations import youtube_vis
from stan_jax.annotations.formats import table
from stan_jax.masks import codec

HW, LENGTH, VIDEOS = (64, 96), 4, ("one", "two")
BOXES = (2, 2, 30, 30), (50, 20, 36, 36)  # x, y, width, height of each object at first
CLASSES = "cat", "dog"


def box(n, t):
    """Corners of object n in frame t."""
    x, y, w, h = BOXES[n]
    return x + t, y + t, x + t + w, y + t + h


def polygon(n, t):
    x1, y1, x2, y2 = box(n, t)
    return [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]


def ids(t):
    pixels = np.zeros(HW, np.int64)
    for n in range(2):
        x1, y1, x2, y2 = box(n, t)
        pixels[y1:y2, x1:x2] = n + 1
    return pixels


def image(path, pixels=None):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if pixels is None:
        rng = np.random.default_rng(len(str(path)))
        pixels = rng.integers(0, 256, (*HW, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def write(path, value):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))


def frames(folder, name="{t:05}.jpg"):
    for video in VIDEOS:
        for t in range(LENGTH):
            image(f"{folder}/{video}/{name.format(t=t, video=video)}")


def official():
    videos = [
        {"id": v, "height": HW[0], "width": HW[1]}
        | {"file_names": [f"{name}/{t:05}.jpg" for t in range(LENGTH)]}
        for v, name in enumerate(VIDEOS, start=1)
    ]
    rows = [
        {"id": 2 * v + n + 1, "video_id": v + 1, "category_id": n + 1}
        | {"segmentations": [codec.encode(ids(t) == n + 1) for t in range(LENGTH)]}
        for v in range(2)
        for n in range(2)
    ]
    names = [{"id": n, "name": name} for n, name in enumerate(CLASSES, start=1)]
    root = {"videos": videos, "categories": names, "annotations": rows}
    return youtube_vis.of_json(Path("i.json"), root, ".")


def coco(folders, *, tracks):
    """Images and annotations by image; a track has the number of its object."""
    found, rows = [], []
    for folder in folders:
        for t in range(LENGTH):
            size = {"height": HW[0], "width": HW[1]}
            number = len(found) + 1
            name = f"{folder}/{t:05}.jpg".lstrip("/")
            found.append({"id": number, "file_name": name, **size})
            for n in range(2):
                outline = [[v for point in polygon(n, t) for v in point]]
                about = {"id": len(rows) + 1, "image_id": number, "category_id": n + 1}
                track = {"attributes": {"track_id": n}} if tracks else {}
                rows.append({**about, "segmentation": outline, "iscrowd": 0, **track})
    names = [{"id": n, "name": name} for n, name in enumerate(CLASSES, start=1)]
    return {"images": found, "annotations": rows, "categories": names}


def cvat():
    table.TARGETS["to-cvat"].write(official(), "xml")
    for video in VIDEOS:
        text = Path(f"xml/{video}.xml").read_text()
        write(f"tasks/{video}/annotations.xml", text)
        for t in range(LENGTH):
            image(f"tasks/{video}/images/frame_{t:06}.PNG")


def cvat_coco():
    path = "coco/annotations/instances_default.json"
    write(path, coco(VIDEOS, tracks=True))
    frames("coco/images")


def cvat_mots():
    for video in VIDEOS:
        write(f"{video}/default/labels.txt", "cat\ndog\n")
        for t in range(LENGTH):
            image(f"{video}/default/images/frame_{t:06}.PNG")
            pixels = (ids(t) * 1000 + (ids(t) > 0)).astype(np.uint16)
            image(f"{video}/default/instances/frame_{t:06}.png", pixels)


def labelme():
    frames("videos")
    for video in VIDEOS:
        for t in range(LENGTH):
            shapes = [
                {"label": CLASSES[n], "points": polygon(n, t), "group_id": n}
                | {"shape_type": "polygon"}
                for n in range(2)
            ]
            size = {"imageHeight": HW[0], "imageWidth": HW[1]}
            about = {"shapes": shapes, "imagePath": f"{t:05}.jpg", **size}
            write(f"videos/{video}/{t:05}.json", about)


def label_studio():
    frames("images")
    tasks = []
    for video in VIDEOS:
        for t in range(LENGTH):
            rows = []
            for n in range(2):
                points = [[100 * x / HW[1], 100 * y / HW[0]] for x, y in polygon(n, t)]
                value = {"points": points, "polygonlabels": [CLASSES[n]]}
                size = {"original_height": HW[0], "original_width": HW[1]}
                about = {"id": f"{video}{t}{n}", "type": "polygonlabels", **size}
                rows.append(about | {"value": value})
            name = f"/data/local-files/?d=set/{video}/{t:05}.jpg"
            tasks.append({"data": {"image": name}, "annotations": [{"result": rows}]})
    write("export.json", tasks)


def roboflow():
    for split in ("train", "valid"):
        write(f"{split}/_annotations.coco.json", coco([""], tracks=False))
        for t in range(LENGTH):
            image(f"{split}/{t:05}.jpg")


def davis(masks="Annotations", pictures="JPEGImages"):
    frames(pictures)
    for video in VIDEOS:
        for t in range(LENGTH):
            image(f"{masks}/{video}/{t:05}.png", ids(t).astype(np.uint8))


def objects():
    frames("JPEGImages")
    for video in VIDEOS:
        for t in range(LENGTH):
            for n in range(2):
                pixels = 255 * (ids(t) == n + 1).astype(np.uint8)
                image(f"masks/{video}/{n:03}/{t:05}.png", pixels)


def colours():
    frames("JPEGImages")
    write("colours.txt", "#c80000 cat\n0 7 255 dog\n")
    palette = np.array([[0, 0, 0], [200, 0, 0], [0, 7, 255]], np.uint8)
    for video in VIDEOS:
        for t in range(LENGTH):
            image(f"masks/{video}/{t:05}.png", palette[ids(t)])


def youtube_vos():
    davis("train/Annotations", "train/JPEGImages")
    kinds = {str(n + 1): {"category": name} for n, name in enumerate(CLASSES)}
    write("train/meta.json", {"videos": {v: {"objects": kinds} for v in VIDEOS}})


def bdd100k():
    frames("images/train", "{video}-{t:07}.jpg")
    for video in VIDEOS:
        for t in range(LENGTH):
            pixels = np.zeros((*HW, 4), np.uint8)
            pixels[..., 0] = pixels[..., 3] = ids(t)
            image(f"bitmasks/train/{video}/{video}-{t:07}.png", pixels)


def mots_text():
    frames("images", "{t:06}.png")
    table.TARGETS["to-mots-txt"].write(official(), "instances_txt")


# What stands behind `stan convert`, and what writes it.
SOURCES = {
    "cvat tasks": cvat,
    "cocovid coco/annotations/instances_default.json": cvat_coco,
    "mots one/default": cvat_mots,
    "labelme videos": labelme,
    "label-studio export.json": label_studio,
    "coco train/_annotations.coco.json": roboflow,
    "davis Annotations": davis,
    "objects masks": objects,
    "colours masks": colours,
    "davis train/Annotations": youtube_vos,
    "bdd100k bitmasks/train": bdd100k,
    "mots-txt instances_txt": mots_text,
}
