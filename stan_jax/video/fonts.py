"""Fonts for names in any script: the one that comes with pillow, else the system's."""

import os
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

FOLDERS = {
    "linux": ("/usr/share/fonts", "/usr/local/share/fonts", "~/.fonts"),
    "darwin": ("/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts"),
    "win32": ("C:/Windows/Fonts",),
}
# Parts of the names of fonts that hold many scripts, looked at first.
WIDE = (
    "cjk",
    "notosans",
    "unicode",
    "unifont",
    "wqy",
    "pingfang",
    "msyh",
    "dejavusans",
)


def font(text: str, size: int) -> ImageFont.FreeTypeFont:
    """Return a font of this size with the letters of the text, if there is one."""
    return _opened(_path_for(frozenset(text)), size)


@lru_cache(maxsize=32)
def _opened(path: str | None, size: int) -> ImageFont.FreeTypeFont:
    if path is None:
        default = ImageFont.load_default(size=size)
        assert isinstance(default, ImageFont.FreeTypeFont)
        return default
    return ImageFont.truetype(path, size)


def shown(names: Sequence[str], numbers: Sequence[int]) -> tuple[list[str], list[str]]:
    """Return the names as they can be drawn, and those that cannot.

    A name with letters that no font here has is drawn as its number.
    """
    missing = [name for name in names if not has_letters(name)]
    drawn = [
        str(number) if name in missing else name
        for name, number in zip(names, numbers, strict=True)
    ]
    return drawn, missing


def has_letters(text: str) -> bool:
    """Return whether some font here has every letter of a text."""
    return _covers(None, frozenset(text)) or _path_for(frozenset(text)) is not None


@lru_cache(maxsize=512)
def _path_for(letters: frozenset[str]) -> str | None:
    """The first font of the system with these letters; None: pillow's own will do."""
    if _covers(None, letters):
        return None
    return next((path for path in _installed() if _covers(path, letters)), None)


@lru_cache(maxsize=4096)
def _covers(path: str | None, letters: frozenset[str]) -> bool:
    try:
        face = ImageFont.truetype(path, 16) if path else ImageFont.load_default(size=16)
    except OSError:
        return False
    # What no font has looks like this character, which Unicode promises not to use.
    absent = _look(face, "\U0010ffff")
    return all(letter.isspace() or _look(face, letter) != absent for letter in letters)


def _look(face, letter: str) -> tuple:
    mask = face.getmask(letter)
    return mask.size, bytes(mask)


@lru_cache(maxsize=1)
def _installed() -> tuple[str, ...]:
    folders = FOLDERS.get(sys.platform, FOLDERS["linux"])
    found = [path for folder in folders for path in _fonts_in(Path(folder))]

    def rank(path: str) -> tuple[int, int, str]:
        plain = Path(path).stem.lower().replace("-", "").replace("_", "")
        wide = next((i for i, part in enumerate(WIDE) if part in plain), len(WIDE))
        odd = sum(word in plain for word in ("italic", "oblique", "bold", "mono"))
        return wide, odd, plain

    return tuple(sorted(found, key=rank))


def _fonts_in(folder: Path) -> Iterator[str]:
    for place, _, files in os.walk(folder.expanduser()):
        for name in files:
            if name.lower().endswith((".ttf", ".otf", ".ttc")):
                yield os.path.join(place, name)
