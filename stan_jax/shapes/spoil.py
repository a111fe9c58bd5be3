"""Weather on top of real videos in YouTube-VIS format.

    python -m stan_jax.shapes.spoil instances.json JPEGImages --out=DIR --weather=hard

DIR/JPEGImages with the frames as they then look, DIR/instances.json with the labels as
they were, and DIR/spoilt.json: which frames the weather met, by video.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from stan_jax import errors
from stan_jax.annotations import youtube_vis
from stan_jax.errors import InputError
from stan_jax.files import replacing
from stan_jax.shapes.generate import JPEG, LABELS, SPOILT
from stan_jax.shapes.scene import Film
from stan_jax.shapes.weather import WEATHERS


def spoil(
    annotations: str | Path,
    frames: str | Path,
    out: str | Path,
    *,
    weather: str,
    seed: int = 0,
) -> None:
    """Write a copy of a set on whose frames the weather lies.

    Does nothing where it is there already. The same arguments give the same pixels.

    Args:
      annotations, frames: json and folder of the set; frames that are JPEG files.
      weather: a key of WEATHERS.
    Raises: InputError for another weather, or a set that cannot be read.
    """
    if weather not in WEATHERS:
        rule = f"must be one of {', '.join(WEATHERS)}, is '{weather}'"
        raise InputError("weather", "", rule)
    out = Path(out)
    if (out / LABELS).exists():
        return
    dataset, met = youtube_vis.load(annotations, frames), {}
    for number, video in enumerate(dataset.videos):
        shown = [
            youtube_vis.read_frame(dataset, video, t)
            for t in range(len(video.file_names))
        ]
        film = Film(
            np.stack(shown), np.zeros((len(shown), *shown[0].shape[:2]), int), ()
        )
        for row, track in enumerate(video.tracks, start=1):
            for t, rle in enumerate(track.segmentations):
                if rle is not None:
                    seen = youtube_vis.mask(rle, video.height, video.width)
                    film.ids[t][seen] = row
        film = film._replace(labels=tuple(track.label for track in video.tracks))
        spoilt = WEATHERS[weather](np.random.default_rng([seed, number]), film)
        changed = (spoilt != film.frames).any((1, 2, 3))
        met[video.id] = np.flatnonzero(changed).tolist()
        for name, picture in zip(video.file_names, spoilt, strict=True):
            path = out / "JPEGImages" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path, "JPEG", **JPEG)
    # The labels last: where they are the set is complete.
    for name, text in (
        (SPOILT, json.dumps(met)),
        (LABELS, Path(annotations).read_text()),
    ):
        with replacing(out / name) as temporary:
            temporary.write_text(text)


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("annotations", help="json in YouTube-VIS format")
    parser.add_argument("frames", help="folder that its file names start from")
    parser.add_argument("--out", required=True, help="folder to fill")
    parser.add_argument("--weather", default="hard", choices=list(WEATHERS))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    given = args.annotations, args.frames, args.out
    spoil(*given, weather=args.weather, seed=args.seed)
    print(f"spoil: {args.out} is ready", file=sys.stderr)


if __name__ == "__main__":
    with errors.as_messages():
        main()
