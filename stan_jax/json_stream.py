"""Json files, plain or gzipped, read piece by piece: as large as one likes."""

import gc
import gzip
import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from stan_jax.errors import InputError
from stan_jax.files import VIDEOS

PIECE = 1 << 21  # characters read at a time
START = -1  # index of what `members` says at the opening of a list
_SPACE = " \t\n\r"
_BEGINNING = re.compile(r'\{\s*"[^"\\]+"')  # of an object, with its first key


def rows(path: str | Path) -> Iterator[dict]:
    """The objects of a file that is one list, one after the other, never all at once.

    Raises: InputError where the file cannot be read or is no json list of objects.
    """
    with _Text(path) as text:
        if (first := text.peek()) != "[":
            found = f"begins with {first!r}" if first else "is empty"
            cure = "are these annotations, and the two files swapped?"
            cure = cure if first == "{" else ""
            raise InputError(path, "", f"must hold a list, {found}", cure)
        text.name = "results"
        for row in text.elements("[", "]"):
            if not isinstance(row, dict):
                raise text.error(f"must be an object, not {row!r:.40}")
            yield row
        text.end("must end where its list ends")


def members(path: str | Path) -> Iterator[tuple[str, int | None, Any]]:
    """Yield the members of a file that is one object, lists one element at a time.

    Yields key, index, value. A list begins with index START and value None; its
    elements follow. A value that is no list has index None.
    Raises: InputError where the file cannot be read or is no json object.
    """
    with _Text(path) as text:
        if (first := text.peek()) != "{":
            with text.naming():
                value = text.value() if first else ""
            rule = f"must hold an object, not {value!r:.40}"
            raise InputError(path, "", rule, instead(value))
        for key in text.elements("{", "}"):
            text.expect(":")
            text.name, text.number = key, 0
            if text.peek() == "[":
                yield key, START, None
                for i, value in enumerate(text.elements("[", "]")):
                    yield key, i, value
            else:
                with text.naming():
                    value = text.value()
                yield key, None, value
            text.name = ""
        text.end("must end where its object ends")


def instead(value: object) -> str:
    """Return what to do where a file should be annotations and holds something else."""
    first = value[0] if isinstance(value, list) and value else None
    keys = set(first) if isinstance(first, dict) else set()
    if "segmentations" in keys:
        return "these are results: are the two files swapped?"
    if "image_id" in keys:
        return "these are results of COCO, of images: tracks are needed"
    return "`stan convert auto` names the formats of tools" if keys else ""


class _Text:
    """A window on an open file, and where in it reading stands."""

    def __init__(self, path: str | Path):
        self.path, self.name, self.number = path, "", 0
        self._decoder = json.JSONDecoder()
        self._text, self._place = "", 0
        self._file: io.TextIOWrapper | None = None

    def __enter__(self) -> "_Text":
        # Of all that is made of a file nothing is garbage in cycles; looking for some
        # after every few hundred objects takes a twentieth of the time.
        self._collects = gc.isenabled()
        gc.disable()
        return self

    def __exit__(self, *_) -> None:
        if self._collects:
            gc.enable()
        if self._file is not None:
            self._file.close()

    def error(self, rule: str) -> InputError:
        record = self.name and f"{self.name}[{self.number}]"
        return InputError(self.path, record, rule)

    def naming(self) -> "_Naming":
        return _Naming(self)

    def peek(self) -> str:
        """The next character that is no space; "" at the end."""
        while True:
            while self._place < len(self._text):
                if self._text[self._place] not in _SPACE:
                    return self._text[self._place]
                self._place += 1
            if not self._more():
                return ""

    def expect(self, wanted: str) -> None:
        if (found := self.peek()) != wanted:
            seen = repr(found) if found else "the end"
            rule = f"is not valid json: {wanted!r} must stand here, not {seen}"
            raise self.error(rule)
        self._place += 1

    def end(self, rule: str) -> None:
        if self.peek():
            raise InputError(self.path, "", rule)

    def elements(self, opening: str, closing: str) -> Iterator[Any]:
        """The values of a list, or the keys of an object, which leave theirs unread."""
        self.expect(opening)
        if self.peek() == closing:
            self._place += 1
            return
        number, bulk = 0, opening == "["
        while True:
            if opening == "[":
                self.number = number
            elif self.peek() != '"':
                raise self.error("is not valid json: a key must be a text")
            values = self._many() if bulk else None
            bulk = values is not None
            if not values:
                with self.naming():
                    values = [self.value()]
            for self.number, value in enumerate(values, start=number):
                yield value
            number += len(values)
            if self.peek() == closing:
                self._place += 1
                return
            self.expect(",")

    def _many(self) -> list | None:
        """Elements of a list, all in the window but the last of them; perhaps none.

        None where they have to be read one by one, which also finds what is wrong.
        """
        # In a list of objects that begin alike the last such beginning is where those
        # before it end: it cannot stand in a text, where quotes are escaped, and if it
        # stands deeper or in another list, then what is before it is no json.
        self.peek()
        while True:
            key = _BEGINNING.match(self._text, self._place)
            end = key and self._text.rfind(key[0], key.end())
            if end is not None and end >= 0:
                break
            # Perhaps the list has ended and the rest is of another kind: no further.
            if len(self._text) - self._place > PIECE or not self._more():
                return []
        before = self._text[self._place : end].rstrip(_SPACE)
        if not before.endswith(","):
            return None
        try:
            values = orjson.loads(f"[{before[:-1]}]")
        except ValueError:  # also for NaN, which only the other reader takes
            return None
        if any(map(_rounded, values)):
            return None
        self._place += len(before) - 1
        return values

    def value(self) -> Any:
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._place)
            except ValueError:
                if not self._more():
                    raise
                continue
            # A number at the end of the window may have more digits behind it.
            if end == len(self._text) and not isinstance(value, dict | list | str):
                before = len(self._text) - self._place
                if self._more() and len(self._text) > before:
                    continue
                end = len(self._text)
            self._place = end
            return value

    def _more(self) -> bool:
        """Move the window on and drop what was read; return false at the end."""
        rest, mark = len(self._text) - self._place, ""
        try:
            if self._file is None:
                self._file = open_text(self.path)
                mark = self._file.read(1).removeprefix("\ufeff")
            piece = mark + self._file.read(max(rest, PIECE))
        except UnicodeDecodeError as error:
            rule = f"is not UTF-8 text: {error.reason}"
            raise InputError(self.path, "", rule) from error
        except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
            reason = getattr(error, "strerror", None) or error
            cure = "name the json in it" * isinstance(error, IsADirectoryError)
            rule = f"cannot be read: {reason}"
            raise InputError(self.path, "", rule, cure) from error
        if piece:
            self._text, self._place = self._text[self._place :] + piece, 0
        return bool(piece)


class _Naming:
    """Says of an error in json where in the file it is."""

    def __init__(self, text: _Text):
        self._text = text

    def __enter__(self) -> None:
        pass

    def __exit__(self, _, error: BaseException | None, __) -> None:
        if isinstance(error, (ValueError, RecursionError)) and not isinstance(
            error, InputError
        ):
            reason = getattr(error, "msg", error)
            raise self._text.error(f"is not valid json: {reason}") from error


def _rounded(row: object) -> bool:
    """Return whether a number of an object is too large for what read it."""
    values = row.values() if isinstance(row, dict) else ()
    return any(type(value) is float and abs(value) >= 2**63 for value in values)


def open_bytes(
    path: str | Path,
) -> gzip.GzipFile | io.BufferedReader | zipfile.ZipExtFile:
    """A file, unpacked if it is gzipped or a zip of one json, whatever its name.

    Raises: InputError for a video, which people hand in where a json is wanted, and
    for a zip of anything else.
    """
    if Path(path).suffix.lower() in VIDEOS and Path(path).is_file():
        raise InputError(path, "", "is a video: stan track reads it")
    with open(path, "rb") as file:
        mark = file.read(4)
    if mark == b"PK\x03\x04":  # as evaluation servers want results
        return _in_zip(path)
    return gzip.GzipFile(path) if mark[:2] == b"\x1f\x8b" else open(path, "rb")


# What zipfile raises for an unknown compression, and for a password.
_UNPACKED_ELSEWHERE = (NotImplementedError, RuntimeError)


def _in_zip(path: str | Path) -> zipfile.ZipExtFile:
    try:
        archive = zipfile.ZipFile(path)
        visible = [
            name
            for name in archive.namelist()
            if name.endswith(".json")
            and not any(x.startswith((".", "__MACOSX")) for x in name.split("/"))
        ]
        if len(visible) == 1:
            file: Any = archive.open(visible[0])
            return file
    except (zipfile.BadZipFile, *_UNPACKED_ELSEWHERE) as error:
        raise InputError(path, "", f"is a zip that cannot be read: {error}") from None
    found = ", ".join(visible[:3]) or "none"
    raise InputError(path, "", f"is a zip, and must hold one json, holds {found}")


def open_text(path: str | Path) -> io.TextIOWrapper:
    """Open a file, plain or gzipped, as text; UTF-8's mark stands in it."""
    # Not utf-8-sig, which decodes in Python; newlines are as good as spaces.
    return io.TextIOWrapper(open_bytes(path), encoding="utf-8", newline="")
