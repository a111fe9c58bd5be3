"""Checkpoint files of other systems, read without running anything that is in them."""

import collections
import contextlib
import io
import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy._core import multiarray  # where pickled arrays point to

from stan_jax.errors import InputError
from stan_jax.files import replacing

WRAPPERS = ("state_dict", "model", "blobs")  # what stands around the tensors
PREFIX = "module."  # of torch's DataParallel
TORCH_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # a pickled magic number
NOTE = "stan_jax"  # a key of the format's free text
DTYPES = {  # of safetensors
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",  # the upper half of a float32
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U8": "|u1",
    "BOOL": "|b1",
}
# All that a pickle may name: arrays, and what holds them.
HARMLESS = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): lambda text, encoding: _latin1(text, encoding),
}
for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    HARMLESS[module, "_reconstruct"] = multiarray._reconstruct
    HARMLESS[module, "scalar"] = multiarray.scalar


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Return the tensors of a file by name, floats as float32.

    Knows .safetensors, .npz, torch's .pth (with torch installed) and .pkl of NumPy
    arrays; by what is in the file, not by its name. What stands beside the tensors,
    such as the state of an optimizer, is left out, and a prefix `module.` as well.
    Raises: InputError for a file that is absent, empty, cut short or of another kind,
    and for one that wants to run code.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(len(TORCH_LEGACY))
    except OSError as error:
        raise InputError(path, "", f"cannot be read: {error.strerror}") from None
    if not head:
        raise InputError(path, "", "must be a checkpoint, is empty")
    try:
        found = _reader(path, head)(path)
    except InputError:
        raise
    except Exception as error:  # each format breaks in its own way
        text = " ".join(str(error).split())[:200]
        rule = f"must be a whole checkpoint, cannot be read: {text or type(error)}"
        raise InputError(path, "", rule) from error
    tensors = {
        name.removeprefix(PREFIX): _float32(value)
        for name, value in _unwrap(found).items()
        if isinstance(value, np.ndarray)
    }
    if not tensors:
        raise InputError(path, "", "must hold tensors by name, holds none")
    return tensors


def note(path: str | Path) -> dict[str, Any]:
    """Return what `write` noted beside the arrays; empty for files of others."""
    with open(path, "rb") as file:
        if not _is_safetensors(file.read(9)):
            return {}
    with safetensors.safe_open(path, framework="np") as file:
        return json.loads((file.metadata() or {}).get(NOTE, "{}"))


def write(
    path: str | Path,
    arrays: Mapping[str, np.ndarray],
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write a .safetensors file of these arrays, whole or not at all.

    Args:
      path: the file.
      arrays: by name. Equal arrays make equal files, whatever their order.
      about: a note for `note`, anything that json knows.

    Raises: InputError where it cannot be written.
    """
    data = safetensors.numpy.save(
        {name: np.asarray(array, order="C") for name, array in arrays.items()},
        {NOTE: json.dumps(about or {})},
    )
    try:
        with replacing(path) as partial:
            partial.write_bytes(data)
    except OSError as error:
        rule = f"cannot be written: {error.strerror or error}; no partial file is left"
        raise InputError(path, "", rule) from error


def _reader(path: Path, head: bytes) -> Any:
    if head.startswith(b"PK"):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        return _read_npz if all(n.endswith(".npy") for n in names) else _read_torch
    if head == TORCH_LEGACY:
        return _read_torch
    if _is_safetensors(head):
        return _read_safetensors
    if head[:1] == b"\x80":
        return _read_pickle
    kinds = ".safetensors, .npz, .pth or .pkl"
    raise InputError(path, "", f"must be one of {kinds}, begins with {head[:8]!r}")


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _is_safetensors(head: bytes) -> bool:
    return head[8:9] == b"{"  # behind the length of the header, which is json


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    # Not by `safetensors.numpy`, which fails at bfloat16 since NumPy has no such type.
    found = {}
    for name, about in sorted(safetensors.deserialize(path.read_bytes())):
        if about["dtype"] not in DTYPES:
            raise InputError(path, name, f"is of unknown type {about['dtype']}")
        raw = np.frombuffer(about["data"], DTYPES[about["dtype"]])
        if about["dtype"] == "BF16":
            raw = (raw.astype(np.uint32) << 16).view(np.float32)
        found[name] = raw.reshape(about["shape"])
    return found


def _read_torch(path: Path) -> Any:
    try:
        import torch  # ty: ignore[import-not-found]
    except ImportError:
        rule = "is a file of torch: needs the extra `torch`, or make it safetensors"
        raise InputError(path, "", rule) from None
    # Torch before 2.5 lets nothing through.
    allow = getattr(getattr(torch, "serialization", None), "safe_globals", None)
    try:
        with allow(_stand_ins()) if allow else contextlib.nullcontext():
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f" it names {named[1]}." if named else ""
        rule = f"wants to run code, refused:{what} Where you trust it, keep the tensors"
        rule += " only: torch.save(torch.load(FILE, weights_only=False)['state_dict'],"
        rule += " OTHER)"
        raise InputError(path, "", rule) from None

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(x) for key, x in value.items()}
        if isinstance(value, torch.Tensor):
            value = value.detach()
            return (value.float() if value.is_floating_point() else value).numpy()
        return value

    return plain(found)


def _stand_ins() -> list[Any]:
    """What mmengine keeps beside the weights, under its names but without its code.

    Its files hold the history of the losses, which points to methods by `getattr`.
    Source: mmengine 0.10.7, logging/history_buffer.py.
    """

    def named(thing: Any, module: str, name: str) -> Any:
        thing.__module__, thing.__name__, thing.__qualname__ = module, name, name
        return thing

    buffer = named(type("", (), {}), "mmengine.logging.history_buffer", "HistoryBuffer")
    methods = [
        named(lambda *_: None, module, "getattr")
        for module in ("builtins", "__builtin__")
    ]
    arrays = [(f, f"{module}.{name}") for (module, name), f in HARMLESS.items()]
    kinds = [type(np.dtype(code)) for code in ("f8", "f4", "i8", "i4", "bool")]
    return [buffer, *methods, *arrays, *kinds]


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in HARMLESS:
            raise pickle.UnpicklingError(f"names {module}.{name}")
        return HARMLESS[module, name]


def _read_pickle(path: Path) -> Any:
    try:
        return _Unpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except pickle.UnpicklingError as error:
        if not str(error).startswith("names "):
            raise
        rule = f"must hold arrays only, {error}: it wants to run code, refused"
        raise InputError(path, "", rule) from None


def _latin1(text: str, encoding: str) -> bytes:
    # How Python 3 pickles bytes for Python 2; no other codec is let in.
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"names the codec {encoding}")
    return text.encode("latin1")


def _unwrap(found: Any) -> Mapping:
    while isinstance(found, Mapping):
        inner = [found[k] for k in WRAPPERS if isinstance(found.get(k), Mapping)]
        if not inner:
            return found
        found = inner[0]
    return {}


def _float32(value: np.ndarray) -> np.ndarray:
    return value.astype(np.float32) if value.dtype.kind == "f" else value
