"""A mark at the end of a model's file that tells whether the file is whole.

It is one more entry of an ONNX model's metadata, the last bytes of the file: the sum of
all bytes before it. Runtimes notice some files that were cut, and none whose weights
were changed.
"""

import hashlib
from pathlib import Path

from stan_jax.errors import InputError

NAME = "sha256"
_DIGITS = 64
_CURE = "export it anew"


def sealed(content: bytes) -> bytes:
    """Return the content of a model's file with the mark behind it."""
    return content + _head() + hashlib.sha256(content).hexdigest().encode()


def check(path: Path) -> None:
    """Raise InputError for a marked file that is not as it was written.

    A file without a mark is not of `stan export`, or not all of it: nothing is said of
    it, the runtime must.
    """
    head = _head()
    length = path.stat().st_size - len(head) - _DIGITS
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while length > 0 and (part := file.read(min(length, 1 << 20))):
            digest.update(part)
            length -= len(part)
        mark = file.read()
    if mark.startswith(head) and mark[len(head) :] != digest.hexdigest().encode():
        raise InputError(path, "", "is not as it was written", _CURE)


def _head() -> bytes:
    """What stands before the digits: one entry of field 14 of ModelProto."""
    key = bytes([0x0A, len(NAME)]) + NAME.encode()
    value = bytes([0x12, _DIGITS])
    return bytes([0x72, len(key) + len(value) + _DIGITS]) + key + value
