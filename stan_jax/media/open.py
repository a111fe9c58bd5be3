"""What a person names becomes sources: files, folders, globs, pipes, cameras."""

import glob
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path

from stan_jax.errors import InputError
from stan_jax.files import VIDEOS
from stan_jax.media import pictures
from stan_jax.media.live import Live
from stan_jax.media.pictures import Pictures
from stan_jax.media.source import WHOLE, Source, Window
from stan_jax.media.video_file import VideoFile

Entry = str | Path | tuple[Path, list[Path]]  # an address, a file, files of a folder
ADDRESS = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]+)://", re.IGNORECASE)
FILES_BEHIND = ("http", "https", "file")  # may be a whole file as well as a stream
# Texts and tables that people hand in by mistake, and what reads them.
OTHERS = {
    ".json": "is no video: eval.py tracks the videos of a json",
    ".gz": "is an archive: unpack it first",
    ".zip": "is an archive: unpack it first",
    ".tar": "is an archive: unpack it first",
}


def open_source(
    given: str | Path,
    window: Window = WHOLE,
    *,
    frames_per_s: float = pictures.RATE,
) -> Source:
    """Return the one source that a text names.

    Args:
      given: a video file, a folder or glob of images, "-" for standard input, the
        number of a camera, or an address (rtsp, http, tcp, ...).
      window: the frames that are wanted.
      frames_per_s: of images, which have no times.
    Raises: InputError where nothing can be read, or where it names several videos.
    """
    found = sources([given], window, frames_per_s=frames_per_s)
    if len(found) > 1:
        raise InputError(str(given), "", f"names {len(found)} videos: name one")
    return found[0]()


def sources(
    given: Sequence[str | Path],
    window: Window = WHOLE,
    *,
    frames_per_s: float = pictures.RATE,
) -> list[Callable[[], Source]]:
    """Return what opens each of the sources; image files in a row are one video.

    Raises: InputError for a name behind which nothing is.
    """
    window.check()

    def kind(entry):
        return isinstance(entry, Path) and pictures.is_image(entry) and entry.parent

    found: list[Callable[[], Source]] = []
    entries = [entry for text in given for entry in _entries(str(text))]
    for images, group in groupby(entries, key=kind):
        together = list(group)
        if images and len(together) > 1:
            together = [(images, together)]
        for entry in together:
            found.append(partial(_source, entry, window, frames_per_s))
    return found


def is_live(given: str | Path) -> bool:
    """Return whether a text names a camera or a stream that will not wait."""
    text = str(given)
    scheme = ADDRESS.match(text)
    if scheme is not None:
        return scheme["scheme"].lower() not in FILES_BEHIND
    return text.isdigit() and not Path(text).exists()


def _source(entry: str | Path | tuple, window: Window, frames_per_s: float) -> Source:
    if isinstance(entry, tuple):
        folder, paths = entry
        return Pictures(_name_of(folder), paths, window, frames_per_s=frames_per_s)
    if isinstance(entry, Path) and pictures.is_image(entry):
        return Pictures(entry.stem, [entry], window, frames_per_s=frames_per_s)
    if isinstance(entry, Path):
        return VideoFile(entry, window)
    if entry == "-":
        return VideoFile(sys.stdin.buffer, window, name="pipe")
    if entry.isdigit():
        return Live.camera(int(entry), window)
    scheme = ADDRESS.match(entry)
    assert scheme is not None
    if scheme["scheme"].lower() in FILES_BEHIND:
        whole = VideoFile(entry, window)
        if whole.seconds is not None:
            return whole
        whole.__exit__()
    options = {"rtsp_transport": "tcp"} if scheme["scheme"].lower() == "rtsp" else {}
    return Live(entry, window, options=options)


def _entries(text: str) -> list[Entry]:
    """What a text names."""
    path = Path(text).expanduser()
    if text == "-" or ADDRESS.match(text) or (text.isdigit() and not path.exists()):
        return [text]
    if path.is_dir():
        return _in_folder(path)
    if path.exists():
        if (rule := OTHERS.get(path.suffix.lower())) is not None:
            raise InputError(text, "", rule)
        return [path]
    if found := [Path(name) for name in glob.glob(str(path), recursive=True)]:
        folders = sorted((x for x in found if x.is_dir()), key=pictures.natural)
        if folders and len(folders) == len(found):
            return [entry for folder in folders for entry in _in_folder(folder)]
        files = [x for x in found if x.is_file()]
        images = [x for x in files if pictures.is_image(x)]
        if images:
            return [(images[0].parent, files)]
        return [*sorted(files, key=pictures.natural)]
    raise InputError(text, "", "there is no such file, folder or camera")


def _in_folder(folder: Path) -> list[Entry]:
    files = [x for x in folder.iterdir() if x.is_file()]
    if any(pictures.is_image(x) for x in files):
        return [(folder, files)]
    videos = [x for x in files if x.suffix.lower() in VIDEOS]
    if videos:
        return [*sorted(videos, key=pictures.natural)]
    inner = [x.name for x in folder.iterdir() if x.is_dir()]
    more = f"; name one of its folders, such as {sorted(inner)[0]}" if inner else ""
    raise InputError(folder, "", f"holds neither images nor videos{more}")


def _name_of(folder: Path) -> str:
    return folder.resolve().name or "images"
