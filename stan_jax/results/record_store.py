"""Record store: on disk, one record after the other, what would not fit in memory."""

import pickle
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any, BinaryIO


class RecordStore:
    """A temporary file of records; memory holds none of them.

    It stands where `tempfile` puts files (the environment's TMPDIR) and goes away with
    the store.
    """

    def __init__(self) -> None:
        folder = tempfile.mkdtemp(prefix="stan_jax-")
        self._path = Path(folder) / "records"
        self._opened: list[BinaryIO] = []
        weakref.finalize(self, _remove, folder, self._opened)

    def add(self, record: Any) -> int:
        """Store a record; return the place to `get` it from."""
        if not self._opened:
            self._opened.append(open(self._path, "wb"))
        place = self._opened[0].tell()
        pickle.dump(record, self._opened[0], pickle.HIGHEST_PROTOCOL)
        return place

    def get(self, place: int) -> Any:
        """The record that was added there; no more can be added afterwards."""
        if not self._opened or self._opened[0].writable():
            while self._opened:
                self._opened.pop().close()
            self._opened.append(open(self._path, "rb"))
        self._opened[0].seek(place)
        return pickle.load(self._opened[0])  # written by `add`, by nobody else


def _remove(folder: str, opened: list[BinaryIO]) -> None:
    for file in opened:
        file.close()
    shutil.rmtree(folder, ignore_errors=True)
