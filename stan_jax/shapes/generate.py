"""The demo dataset: YouTube-VIS 2019 files of moving shapes, made from a seed.

    python -m stan_jax.shapes --out=DIR [--weather=hard]

DIR/{train,val}/JPEGImages/<video>/<00000>.jpg and DIR/{train,val}/instances.json; and
DIR/demo.mp4, six seconds without labels, for `stan track`.
Video number i depends on the seed, its split, its length and size alone.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from PIL import Image

from stan_jax.errors import InputError
from stan_jax.files import replacing
from stan_jax.media.mp4 import Mp4
from stan_jax.shapes import scene
from stan_jax.shapes.weather import WEATHERS

SPLITS = ("train", "val")
LABELS = "instances.json"
SPOILT = "spoilt.json"  # the frames that the weather met, by video
STAMP = "shapes.json"  # the arguments the folder was filled with
MP4, MP4_HW = "demo.mp4", (384, 640)
MP4_SCENE = 25  # of seed 0: a scene whose four objects mostly stay in the picture
VERSION = 2  # raise when other pictures or labels come from the same arguments
JPEG = dict(quality=92, subsampling=0)


def generate(
    folder: str | Path,
    *,
    seed: int,
    train_videos: int,
    val_videos: int,
    frames: int,
    height: int,
    width: int,
    val_frames: int | None = None,
    weather: str = "clear",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write both splits; does nothing where `folder` already holds exactly this set.

    A run cut short is taken up again by the next call with the same arguments.

    Args:
      frames: per video.
      val_frames: per video of val; default: as many.
      weather: a key of WEATHERS, which spoils many of the frames; labels stay those of
        the clean scene; which frames it met stands in SPOILT.
      progress: called with (videos done, videos in all) after each video.
    Raises: InputError where `folder` holds anything else, or a number is out of range.
    """
    if weather not in WEATHERS:
        rule = f"must be one of {', '.join(WEATHERS)}, is '{weather}'"
        raise InputError("weather", "", rule)
    counts = (train_videos, val_videos)
    lengths = (frames, frames if val_frames is None else val_frames)
    stamp: dict[str, Any] = dict(
        version=VERSION,
        seed=seed,
        videos=list(counts),
        frames=list(lengths),
        height=height,
        width=width,
        hard=weather == "hard",
    )
    if weather not in ("clear", "hard"):  # stamps are older than the other kinds
        stamp["weather"] = weather
    if seed < 0 or min(*counts, *lengths) < 1 or min(height, width) < 16:
        rule = f"seed >= 0, counts >= 1, sizes >= 16 must hold, got {stamp}"
        raise InputError("shapes", "", rule)
    folder = Path(folder)
    _claim(folder, stamp)
    for s, split in enumerate(SPLITS):
        if not (folder / split / LABELS).exists():
            _write_split(folder / split, s, stamp, weather, progress)


def _write_split(
    folder: Path,
    s: int,
    stamp: dict,
    weather: str,
    progress: Callable[[int, int], None],
) -> None:
    """Write the frames, then the json: where that exists the split is complete."""
    videos, annotations, spoilt = [], [], {}
    for i in range(stamp["videos"][s]):
        rng, bad_luck = (
            np.random.default_rng([stamp["seed"], s, i, k]) for k in (0, 1)
        )
        film = scene.draw(rng, stamp["frames"][s], stamp["height"], stamp["width"])
        video = _video(i, SPLITS[s], film)
        shown = WEATHERS[weather](bad_luck, film)
        if weather != "clear":
            met = (shown != film.frames).any((1, 2, 3))
            spoilt[video["id"]] = np.flatnonzero(met).tolist()
        _write_frames(folder / "JPEGImages", video, shown)
        videos.append(video)
        annotations += _annotations(film, video["id"], len(annotations))
        progress(sum(stamp["videos"][:s]) + i + 1, sum(stamp["videos"]))
    if spoilt:
        _write_json(folder / SPOILT, spoilt)
    content = _header() | dict(videos=videos, annotations=annotations)
    _write_json(folder / LABELS, content)


def _claim(folder: Path, stamp: dict) -> None:
    """Mark the folder as holding this set, or refuse it."""
    path = folder / STAMP
    if path.exists():
        try:
            found = json.loads(path.read_text())
        except ValueError as error:
            raise InputError(path, "", f"must be a json file: {error}") from None
        if found != stamp:
            rule = f"holds another set: {found}, asked for {stamp}; delete the folder"
            raise InputError(path, "", rule)
        return
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        rule = f"must be an empty folder or one filled earlier, found no {STAMP}"
        raise InputError(folder, "", rule)
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(path, stamp)


def _header() -> dict:
    return dict(
        info=dict(
            description="Moving shapes in the layout of YouTube-VIS 2019",
            version=str(VERSION),
            year=2019,
            contributor="stan_jax",
            date_created="2019-01-01",
            url="",
        ),
        licenses=[dict(id=1, name="Apache-2.0", url="")],
        categories=[
            dict(id=k, name=name, supercategory="shape")
            for k, name in enumerate(scene.SHAPES, start=1)
        ],
    )


def _video(index: int, split: str, film: scene.Film) -> dict:
    name = f"{split}_{index:04d}"
    length, height, width = film.ids.shape
    return dict(
        id=index + 1,
        height=height,
        width=width,
        length=length,
        file_names=[f"{name}/{t:05d}.jpg" for t in range(length)],
        license=1,
        date_captured="",
        coco_url="",
        flickr_url="",
    )


def _annotations(film: scene.Film, video_id: int, before: int) -> list[dict]:
    """One record per object that is seen in some frame; ids go on from `before`."""
    length, height, width = film.ids.shape
    minimum = max(scene.MIN_AREA * (height / 96) ** 2, 1)
    records = []
    for row, label in enumerate(film.labels, start=1):
        masks = film.ids == row
        areas = masks.sum((1, 2))
        seen = areas >= minimum
        if not seen.any():
            continue
        records.append(
            dict(
                id=before + len(records) + 1,
                video_id=video_id,
                category_id=label + 1,
                iscrowd=0,
                height=height,
                width=width,
                length=length,
                segmentations=_where(seen, masks, _rle),
                bboxes=_where(seen, masks, _box),
                areas=_where(seen, areas, int),
            )
        )
    return records


def _where(seen: Bool[np.ndarray, " t"], values: np.ndarray, form: Callable) -> list:
    return [form(v) if ok else None for ok, v in zip(seen, values, strict=True)]


def _rle(mask: Bool[np.ndarray, "h w"]) -> dict:
    """Uncompressed runs down the columns, starting with zeros, as in the 2019 files."""
    flat = np.concatenate([[False], mask.ravel(order="F")])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    return dict(
        counts=np.diff(edges, prepend=0, append=mask.size).tolist(),
        size=list(mask.shape),
    )


def _box(mask: Bool[np.ndarray, "h w"]) -> list[float]:
    """Corner and extent in pixels: x, y, width, height."""
    (x0, x1), (y0, y1) = (_span(np.any(mask, axis)) for axis in (0, 1))
    return [float(x0), float(y0), float(x1 - x0), float(y1 - y0)]


def _span(line: Bool[np.ndarray, " n"]) -> Int[np.ndarray, "2"]:
    return np.flatnonzero(line)[[0, -1]] + (0, 1)


def _write_frames(folder: Path, video: dict, frames: np.ndarray) -> None:
    (folder / video["file_names"][0]).parent.mkdir(parents=True, exist_ok=True)
    for name, frame in zip(video["file_names"], frames, strict=True):
        try:
            Image.fromarray(frame).save(folder / name, "JPEG", **JPEG)
        except OSError as error:
            rule = f"cannot be written: {error.strerror or error}"
            raise InputError(folder / name, "", rule) from error


def _write_json(path: Path, content: dict) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content))


def main(argv: list[str] | None = None) -> None:
    """Command line; by default the demo set: 320 videos to learn from, 24 held out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, help="folder to fill")
    parser.add_argument(
        "--weather", default="clear", choices=list(WEATHERS), help="what spoils frames"
    )
    parser.add_argument(
        "--hard", dest="weather", action="store_const", const="hard", help="the same"
    )
    defaults = dict(seed=0, train_videos=320, val_videos=24, frames=8, val_frames=12)
    for name, value in (defaults | dict(height=96, width=160)).items():
        parser.add_argument(f"--{name}", type=int, default=value, help=f"({value})")
    arguments = vars(parser.parse_args(argv))
    out = arguments.pop("out")
    generate(out, **arguments, progress=_show)
    write_mp4(Path(out) / MP4, arguments["seed"])
    print(f"shapes: {out} is ready")


def write_mp4(path: Path, seed: int) -> None:
    """Write a video to try a trained model on, larger and longer than the set's."""
    if not path.exists():
        rng = np.random.default_rng([seed, len(SPLITS), MP4_SCENE])
        film = scene.draw(rng, 60, *MP4_HW)
        with Mp4(path, rate=10) as video:
            for frame in film.frames:
                video.add(frame)


def _show(done: int, total: int) -> None:
    if done < total and (done % 8 or not sys.stderr.isatty()):
        return
    end = "\n" if done == total else ""
    print(f"\rshapes: video {done}/{total}", end=end, file=sys.stderr, flush=True)
