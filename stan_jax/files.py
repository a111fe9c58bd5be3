"""Files that appear whole or not at all."""

import contextlib
import os
import shutil
from collections.abc import Generator
from pathlib import Path

from stan_jax.errors import InputError

LOCK = ".in_use"
VIDEOS = frozenset(  # how names of videos end
    ".mp4 .m4v .mov .mkv .webm .avi .gif .ts .mts .m2ts .mpg .mpeg .wmv .flv .3gp .ogv"
    " .h264 .h265 .264 .265 .y4m .mxf".split()
)


@contextlib.contextmanager
def replacing(path: str | Path) -> Generator[Path]:
    """A temporary path beside `path` that takes its place on a clean exit.

    On an error the temporary file is removed and `path` is as it was; an OSError that
    names the temporary file or none, as that of a full disk, names `path` afterwards.
    What is no regular file, such as /dev/null, is written to and not replaced.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        yield path
        return
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is not None and error.filename != str(temporary):
            raise
        # Not set on the error at hand: those of other libraries may not allow it.
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_or_as_before(folder: str | Path) -> Generator[None]:
    """On an error remove what the block has put into a folder, there or not.

    What was in it before stays; files directly in older folders are not looked at.
    """
    folder = Path(folder)
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else None
    try:
        yield
    except BaseException:
        for path in list(folder.iterdir()) if folder.is_dir() else []:
            if there is None or path.name not in there:
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        if there is None and folder.is_dir():
            folder.rmdir()
        raise


def require_place(path: str | Path | None, *sources: str | Path) -> None:
    """Raise InputError unless a file can be written there and is none of the sources.

    Raises: InputError.
    """
    if path is None:
        return
    path = Path(path)
    if not path.parent.is_dir():
        raise InputError(path, "", f"folder {path.parent} must exist")
    if path.resolve() in [Path(source).resolve() for source in sources]:
        raise InputError(path, "", "must not be written over its own source")


def require_room(folder: str | Path, room: int) -> None:
    """Raise InputError unless the disk of a folder, there or not, has `room` bytes."""
    folder = Path(folder)
    above = next(x for x in (folder, *folder.absolute().parents) if x.is_dir())
    if (free := shutil.disk_usage(above).free) < room:
        rule = f"has {free >> 20} MB left on its disk, needs at least {room >> 20}"
        raise InputError(folder, "", rule)


@contextlib.contextmanager
def sole_user(folder: str | Path) -> Generator[None]:
    """Keep other processes that ask likewise out of a folder, until the block ends.

    Raises: InputError where one is in it already, with its number.
    """
    try:
        import fcntl
    except ImportError:  # Windows has no such locks
        yield
        return
    folder = Path(folder)
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            number = file.read().strip() or "another"
            rule = f"is in use by process {number}: wait for it, or name another"
            raise InputError(folder, "", rule) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        try:
            yield
        finally:
            if made and os.listdir(folder) == [LOCK]:  # nothing came of it
                (folder / LOCK).unlink()
                folder.rmdir()
