"""Results that are perfect, and the errors that are planted in them, kind by kind."""

import json

import numpy as np

from stan_jax.evaluation import breakdown
from stan_jax.masks import codec

HW, FRAMES = (40, 60), 9


def mask(x, y, size=10):
    bitmap = np.zeros(HW, bool)
    bitmap[y : y + size, x : x + size] = True
    return codec.encode(bitmap)


def planted():
    """Four videos with three objects each, all found as they are."""
    videos, rows, found = [], [], []
    for v in range(1, 5):
        size = {"height": HW[0], "width": HW[1]}
        names = [f"{v}/{t}.jpg" for t in range(FRAMES)]
        videos.append({"id": v, "file_names": names, **size})
        for k in range(3):
            masks = [mask(18 * k + t, 5 + 6 * k) for t in range(FRAMES)]
            row = {"video_id": v, "category_id": k + 1, "segmentations": masks}
            rows.append({"id": len(rows) + 1, "iscrowd": 0, "areas": [100] * FRAMES})
            rows[-1] |= row
            score = 0.9 - 0.01 * len(found)
            found.append({**row, "segmentations": [*masks], "score": score})
    names = [{"id": k, "name": f"class {k}"} for k in (1, 2, 3)]
    return {"videos": videos, "categories": names, "annotations": rows}, found


def wrong_class(found):
    found[1]["category_id"] = 3


def loose(found):
    for i in (1, 7):
        found[i]["segmentations"] = [mask(18 + t, 11, 17) for t in range(FRAMES)]


def duplicate(found):
    found.append({**found[0], "score": 0.95})
    found.append({**found[4], "score": 0.2})


def background(found):
    far = [mask(2 + t, 29) for t in range(FRAMES)]
    found.append({**found[0], "segmentations": far, "score": 0.95})


def missed(found):
    del found[1], found[7]


def switch(found):
    # Objects 0 and 1 of the first video change places half way.
    one, two = found[0]["segmentations"], found[1]["segmentations"]
    found[0]["segmentations"] = one[:4] + two[4:]
    found[1]["segmentations"] = two[:4] + one[4:]


def short_switch(found):
    # Only the last two frames: both tracks still have their objects.
    one, two = found[0]["segmentations"], found[1]["segmentations"]
    found[0]["segmentations"] = one[:7] + two[7:]
    found[1]["segmentations"] = two[:7] + one[7:]


def lingering(found):
    # The object leaves, the track stays where it was: see `leave`.
    found[1]["segmentations"][5:] = [found[1]["segmentations"][4]] * 4


def gap(found):
    # Three frames of nine: it still has its object.
    found[1]["segmentations"][3:6] = [None] * 3


def fragment(found):
    whole, nothing = found[1]["segmentations"], [None] * 3
    pieces = [
        nothing * k + whole[3 * k : 3 * k + 3] + nothing * (2 - k) for k in range(3)
    ]
    found[1]["segmentations"] = pieces[0]
    found += [{**found[1], "segmentations": piece} for piece in pieces[1:]]


def taken_by_two(found):
    # A wrong class on an object that has its track already: one too many.
    found.append({**found[0], "category_id": 2, "score": 0.95})


# kind, what plants it, how many tracks are of that kind then
PLANTED = [
    ("class", wrong_class, 1),
    ("class", taken_by_two, 1),
    ("loose", loose, 2),
    ("duplicate", duplicate, 2),
    ("background", background, 1),
    ("missed", missed, 2),
    ("switch", switch, 2),
    ("switch", short_switch, 2),
    ("fragment", fragment, 3),
    ("fragment", gap, 1),
]


def broken_down(tmp_path, root, found, **options):
    paths = tmp_path / "instances.json", tmp_path / "results.json"
    for path, value in zip(paths, (root, found), strict=True):
        path.write_text(json.dumps(value))
    return breakdown.evaluate_files(*paths, **options)
