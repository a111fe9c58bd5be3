import collections
import json
import os
import pickle
import struct
import sys

import numpy as np
import pytest

from stan_jax.errors import InputError
from stan_jax.pretrained import tensors

RNG = np.random.default_rng(0)
ARRAYS = {
    "a.weight": RNG.normal(size=(3, 2)).astype(np.float32),
    "a.half": RNG.normal(size=4).astype(np.float16),
    "a.steps": np.array(7),
}


class Evil:
    """Runs a command where it is unpickled without care."""

    def __reduce__(self):
        return os.mkdir, ("evil_was_here",)


def _safetensors(path, table):
    """table: name -> (dtype of the format, shape, bytes)."""
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for name, (dtype, shape, data) in table.items():
        offsets = [len(body), len(body) + len(data)]
        header[name] = dict(dtype=dtype, shape=shape, data_offsets=offsets)
        body += data
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def _assert_same(got, want=ARRAYS):
    assert got.keys() == want.keys()
    for name, array in want.items():
        if array.dtype.kind == "f":
            assert got[name].dtype == np.float32
        np.testing.assert_array_equal(got[name], array)


def test_npz_is_read_and_floats_are_float32(tmp_path):
    np.savez(tmp_path / "x.npz", **ARRAYS)
    _assert_same(tensors.read(tmp_path / "x.npz"))


def test_safetensors_are_read_whatever_the_file_is_called(tmp_path):
    names = {"float32": "F32", "float16": "F16", "int64": "I64"}
    table = {k: (names[str(x.dtype)], x.shape, x.tobytes()) for k, x in ARRAYS.items()}
    _assert_same(tensors.read(_safetensors(tmp_path / "weights", table)))


def test_bfloat16_is_the_upper_half_of_float32(tmp_path):
    exact = np.array([1.0, -2.5, 3e38, 0.0, 2.0**-126], np.float32)
    exact = (exact.view(np.uint32) & 0xFFFF0000).view(np.float32)
    halves = (exact.view(np.uint32) >> 16).astype("<u2")
    path = _safetensors(tmp_path / "x", {"a": ("BF16", [5], halves.tobytes())})
    np.testing.assert_array_equal(tensors.read(path)["a"], exact)


@pytest.mark.parametrize("protocol", [2, 4])
def test_pickle_of_arrays_is_read_without_what_stands_around(tmp_path, protocol):
    inner = collections.OrderedDict((f"module.{k}", x) for k, x in ARRAYS.items())
    whole = {"model": inner, "optimizer": {"lr": np.ones(2)}, "__author__": "x"}
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(whole, protocol=protocol))
    _assert_same(tensors.read(path))


def test_pickle_that_wants_to_run_code_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"a": Evil(), **ARRAYS}))
    with pytest.raises(InputError, match=r"x.pkl.*mkdir.* wants to run code, refused"):
        tensors.read(path)
    assert not (tmp_path / "evil_was_here").exists()


def test_npz_of_objects_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "x.npz", a=np.array([Evil()], object))
    with pytest.raises(InputError, match="cannot be read: .*allow_pickle"):
        tensors.read(tmp_path / "x.npz")
    assert not (tmp_path / "evil_was_here").exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_torch_files_are_read_in_both_archives(tmp_path, legacy):
    torch = pytest.importorskip("torch")
    state = {k: torch.from_numpy(x) for k, x in ARRAYS.items()}
    state["b"] = torch.arange(6.0).reshape(2, 3).T  # not contiguous
    state["c"] = torch.tensor([1.5, -3.0]).bfloat16()
    whole = {"state_dict": state, "optimizer": {"x": torch.ones(2)}}
    path = tmp_path / "x.pth"
    torch.save(whole, path, _use_new_zipfile_serialization=not legacy)
    more = {
        "b": np.array([[0, 3], [1, 4], [2, 5]], np.float32),
        "c": np.array([1.5, -3], np.float32),
    }
    _assert_same(tensors.read(path), ARRAYS | more)


@pytest.mark.parametrize("legacy", [False, True])
def test_torch_file_that_wants_to_run_code_is_refused(tmp_path, monkeypatch, legacy):
    torch = pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.pth"
    torch.save({"a": Evil()}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(InputError, match="x.pth: wants to run code, refused"):
        tensors.read(path)
    assert not (tmp_path / "evil_was_here").exists()


def test_torch_file_without_torch_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / "x.pth"
    path.write_bytes(tensors.TORCH_LEGACY + b"rest")
    with pytest.raises(InputError, match="needs the extra `torch`"):
        tensors.read(path)


def _cut(kind, path):
    if kind == "npz":
        with path.open("wb") as file:
            np.savez(file, **ARRAYS)
    elif kind == "safetensors":
        _safetensors(path, {"a": ("F32", [3, 2], ARRAYS["a.weight"].tobytes())})
    else:
        path.write_bytes(pickle.dumps(ARRAYS))
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize("kind", ["npz", "safetensors", "pickle"])
def test_file_that_is_cut_short_is_refused(tmp_path, kind):
    _cut(kind, tmp_path / "x")
    with pytest.raises(InputError, match=r"/x: .*(cannot be read|ends at byte)"):
        tensors.read(tmp_path / "x")


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"", "is empty"),
        (b"no checkpoint at all", "must be one of .*begins with b'no chec"),
        (None, "cannot be read: No such file"),
        (pickle.dumps({"lr": 0.1}), "must hold tensors by name, holds none"),
    ],
)
def test_file_that_is_no_checkpoint_is_refused(tmp_path, content, rule):
    if content is not None:
        (tmp_path / "x").write_bytes(content)
    with pytest.raises(InputError, match=rule):
        tensors.read(tmp_path / "x")
