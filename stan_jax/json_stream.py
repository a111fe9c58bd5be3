"""Reads json files, plain or gzipped, piece by piece: as large as one likes."""

import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from stan_jax.errors import InputError

PIECE = 1 << 20  # characters read at a time
START = -1  # index of what `members` says at the opening of a list


def rows(path: str | Path) -> Iterator[dict]:
    """The objects of a file that is one list, one after the other, never all at once.

    Raises: InputError where the file cannot be read or is no json list of objects.
    """
    with _Text(path) as text:
        text.name = "results"
        for row in text.elements("[", "]"):
            if not isinstance(row, dict):
                raise text.error(f"must be an object, not {row!r:.40}")
            yield row
        text.end("must end where its list ends")


def members(
    path: str | Path, hook: Callable[[dict], Any] | None = None
) -> Iterator[tuple[str, int | None, Any]]:
    """What a file that is one object holds, lists one element at a time.

    hook: as `object_hook` of `json.load`.
    Yields key, index, value. A list begins with index START and value None; its
    elements follow. A value that is no list has index None.
    Raises: InputError where the file cannot be read or is no json object.
    """
    with _Text(path, hook) as text:
        if (first := text.peek()) != "{":
            with text.naming():
                value = text.value() if first else ""
            raise InputError(path, "", f"must hold an object, not {value!r:.40}")
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


class _Text:
    """A window on an open file, and where in it reading stands."""

    def __init__(self, path: str | Path, hook: Callable[[dict], Any] | None = None):
        self.path, self.name, self.number = path, "", 0
        self._decoder = json.JSONDecoder(object_hook=hook)
        self._text, self._place = "", 0
        self._file: io.TextIOWrapper | None = None

    def __enter__(self) -> "_Text":
        return self

    def __exit__(self, *_) -> None:
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
                if self._text[self._place] not in " \t\n\r":
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
        number = 0
        while True:
            if opening == "[":
                self.number = number
            elif self.peek() != '"':
                raise self.error("is not valid json: a key must be a text")
            with self.naming():
                value = self.value()
            yield value
            number += 1
            if self.peek() == closing:
                self._place += 1
                return
            self.expect(",")

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
        """Whether the window could be moved on; what was read is let go."""
        try:
            if self._file is None:
                self._file = _open(self.path)
            rest = len(self._text) - self._place
            piece = self._file.read(max(rest, PIECE))
        except UnicodeDecodeError as error:
            rule = f"is not UTF-8 text: {error.reason}"
            raise InputError(self.path, "", rule) from error
        except (OSError, EOFError, zlib.error) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(self.path, "", f"cannot be read: {reason}") from error
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


def _open(path: str | Path) -> io.TextIOWrapper:
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    if packed:
        return io.TextIOWrapper(gzip.open(path), encoding="utf-8-sig")
    return open(path, encoding="utf-8-sig")
