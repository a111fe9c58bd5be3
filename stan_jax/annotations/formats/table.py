"""The formats by the names that `stan convert` has for them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from stan_jax.annotations import youtube_vis
from stan_jax.annotations.formats import (
    coco,
    cvat_xml,
    id_images,
    label_studio,
    labelme,
    mots_text,
    writers,
)
from stan_jax.annotations.formats.collected import Balance, Collected
from stan_jax.annotations.youtube_vis import Dataset


class Reader(NamedTuple):
    """A format that is read; `options` are keyword arguments of `read`."""

    about: str
    read: Callable[..., Collected]
    options: tuple[str, ...] = ()


class Writer(NamedTuple):
    """A format that the official one is written to."""

    about: str
    write: Callable[[Dataset, Path], Balance]


def _cocovid(source: str | Path) -> Collected:
    return coco.read_tracks(youtube_vis.read_json(Path(source)), source)


NAMES = "suffix", "classes"
SOURCES: dict[str, Reader] = {
    "davis": Reader("id-mask PNGs, also YouTube-VOS", id_images.davis, NAMES),
    "mots": Reader("16-bit PNGs, also CVAT's", id_images.mots, NAMES),
    "mots-txt": Reader("MOTS as text", mots_text.read, NAMES),
    "objects": Reader("one PNG an object, as of SAM 2", id_images.objects, NAMES),
    "colours": Reader(
        "PNGs with a colour an object", id_images.colours, ("suffix", "palette")
    ),
    "bdd100k": Reader("bitmasks of BDD100K", id_images.bdd100k, ("suffix",)),
    "cocovid": Reader("CocoVID, or COCO with tracks", _cocovid),
    "cvat": Reader("XML of CVAT for video", cvat_xml.read, ("suffix",)),
    "labelme": Reader("folder of json of labelme", labelme.read),
    "label-studio": Reader("json of Label Studio", label_studio.read),
}


def _to(videos: bool, dataset: Dataset, out: Path) -> Balance:
    return writers.coco(dataset, out, videos=videos)


TARGETS: dict[str, Writer] = {
    "to-cocovid": Writer("json of CocoVID", lambda d, out: _to(True, d, out)),
    "to-coco": Writer("COCO with track_id", lambda d, out: _to(False, d, out)),
    "to-mots-txt": Writer("MOTS as text", writers.mots_text),
    "to-pngs": Writer("id-mask PNGs", writers.id_images),
    "to-cvat": Writer("XML of CVAT for video", cvat_xml.write),
}
FILES = "to-cocovid", "to-coco"  # targets that are one file
OPTIONS: dict[str, Any] = {name: {*source.options} for name, source in SOURCES.items()}
OPTIONS |= {"coco": {"images", "frames", "length", "seed"}}
OPTIONS |= {name: {"results"} for name in TARGETS}
