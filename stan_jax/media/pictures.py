"""Frames that are image files: a folder, or a list, in the order people count in."""

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import cache, partial
from pathlib import Path, PurePath

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps

from stan_jax.errors import InputError
from stan_jax.media.source import WHOLE, Raw, Source, Unreadable, Window

RATE = 6.0  # frames a second of images without times, as YouTube-VIS has them


class Pictures(Source):
    """Frames from image files of any type, upright as their EXIF says.

    Raises: InputError where none of the files is an image.
    """

    def __init__(
        self,
        name: str,
        paths: Sequence[Path],
        window: Window = WHOLE,
        *,
        frames_per_s: float = RATE,
    ):
        super().__init__(name, window)
        if not 0 < frames_per_s <= 1000:
            rule = f"must be frames a second above 0, is {frames_per_s}"
            raise InputError("fps", "", rule)
        self.paths = sorted(filter(is_image, paths), key=natural)
        self.skipped = len(paths) - len(self.paths)
        if not self.paths:
            raise InputError(name, "", f"holds no images, but {len(paths)} other files")
        self.rate = Fraction(frames_per_s).limit_denominator(1001)
        self.seconds = float(len(self.paths) / self.rate)
        self.facts = {"format": "images"}
        if self.skipped:
            self.notes.append(f"{self.skipped} files that are no images were skipped")

    def raw(self) -> Iterator[Raw]:
        """Yield every frame."""
        assert self.rate is not None
        for i, path in enumerate(self.paths):
            yield Raw(float(i / self.rate), float(1 / self.rate), partial(read, path))


def read(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """Read an image as RGB, upright. Raises: Unreadable."""
    try:
        with Image.open(path) as image:
            return rgb(image)
    except Exception as error:  # whatever decoders raise for a broken file
        text = str(error).replace(str(path), "").strip()
        raise Unreadable(f"{path} is no whole image: {text:.80}") from error


def holds_ids(image: Image.Image) -> bool:
    """Return whether an open image seems to hold numbers of objects, not a picture.

    It has one channel and in it no more than 32 values, 0 among them.
    """
    if image.mode not in ("P", "L", "1") and not image.mode.startswith("I"):
        return False
    values = np.unique(np.asarray(image))
    return 1 < len(values) <= 32 and not values[0]


def rgb(image: Image.Image, *, upright: bool = True) -> UInt8[np.ndarray, "h w 3"]:
    """Return the pixels of an open image as RGB of 8 bits.

    Grey of 16 bits is cut to its upper 8, as PNG has it; of colours behind an alpha
    channel the alpha is dropped, as OpenCV does.
    upright: turned as its EXIF orientation says; else as stored.
    Raises: ValueError for pixels without a scale of their own, and as pillow.
    """
    kind = image.format  # which a turned copy has forgotten
    if upright:
        image = ImageOps.exif_transpose(image)
    if image.mode == "F" or (image.mode == "I" and kind != "PNG"):
        numbers = "floats" if image.mode == "F" else "whole numbers of 32 bits"
        raise ValueError(f"pixels are {numbers}, without a scale: write it with 8 bits")
    if image.mode.startswith("I"):
        deep = np.asarray(image).astype(np.int64)
        grey = np.clip(deep >> 8, 0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("P", "PA"):  # by way of RGBA, which knows every transparency
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an open image, 1 (upright) to 8."""
    # That of the base class: a PNG's own would decode the whole image first.
    found = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    return found if found in range(1, 9) else 1


def is_image(path: Path) -> bool:
    """Return whether the name is that of an image, hidden files aside."""
    hidden = path.name.startswith(".")
    return path.suffix.lower() in _suffixes() and not hidden


def natural(path: PurePath) -> tuple:
    """Return a key that sorts names as people count: 2 before 10."""
    parts = re.split(r"(\d+)", path.name.lower())
    return tuple(int(x) if i % 2 else x for i, x in enumerate(parts)), path.name


@cache
def _suffixes() -> frozenset[str]:
    Image.init()
    known = Image.registered_extensions().items()
    videos = {".gif", ".mpg", ".mpeg", ".pdf", ".ps", ".eps"}  # read by others, or not
    return frozenset(x for x, kind in known if kind in Image.OPEN and x not in videos)
