import collections
import json
import os
import pickle
import struct
import sys
import types

import numpy as np
import pytest

from stan_jax.errors import InputError
from stan_jax.published import tensors

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
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    body = b""
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


def test_written_file_reads_back_equal(tmp_path):
    arrays = ARRAYS | {
        "transposed": np.arange(6, dtype=np.int32).reshape(2, 3).T,
        "big endian": np.arange(3, dtype=">f4"),
        "empty": np.zeros((0, 4), np.float32),
        "flags": np.array([True, False, True]),
    }
    note = {"sta": {"strides": [8]}, "categories": ["é", "a"]}
    tensors.write(tmp_path / "x", arrays, note)
    got = tensors.read(tmp_path / "x")
    _assert_same(got, arrays)
    assert list(got) == sorted(arrays)
    assert tensors.note(tmp_path / "x") == note


def test_written_bytes_follow_from_names_and_values_alone(tmp_path):
    backwards = dict(reversed(ARRAYS.items()))
    files = [tmp_path / name for name in "xyz"]
    for path, arrays in zip(files, (ARRAYS, ARRAYS, backwards), strict=True):
        tensors.write(path, arrays, {"categories": ["a"]})
    assert len({path.read_bytes() for path in files}) == 1


def test_file_as_an_earlier_version_wrote_it_is_read(tmp_path):
    flags, doubles = np.array([True, False, True]), np.arange(2.0)
    header = {
        "__metadata__": {"stan_jax": '{"sta": null}'},
        "flags": dict(dtype="BOOL", shape=[3], data_offsets=[0, 3]),
        "doubles": dict(dtype="F64", shape=[2], data_offsets=[3, 19]),
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    body = flags.tobytes() + doubles.tobytes()
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(text)) + text + body)
    _assert_same(tensors.read(tmp_path / "x"), dict(flags=flags, doubles=doubles))
    assert tensors.note(tmp_path / "x") == {"sta": None}


def test_file_of_others_has_no_note(tmp_path):
    np.savez(tmp_path / "x.npz", **ARRAYS)
    assert tensors.note(tmp_path / "x.npz") == {}
    path = _safetensors(tmp_path / "x", {"a": ("I8", [1], b"a")})
    assert tensors.note(path) == {}


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


def test_torch_file_of_mmengine_is_read_without_its_history_of_losses(
    tmp_path, monkeypatch
):
    torch = pytest.importorskip("torch")
    name = "mmengine.logging.history_buffer"

    def mean(self):
        raise AssertionError("code of the file ran")

    mean.__module__, mean.__qualname__ = name, "HistoryBuffer.mean"
    buffer = type("HistoryBuffer", (), {"__module__": name, "mean": mean})
    monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setattr(sys.modules[name], "HistoryBuffer", buffer, raising=False)
    history = buffer()
    vars(history).update(values=np.array([0.5, 0.25]), methods={"mean": mean})
    state = {k: torch.from_numpy(x) for k, x in ARRAYS.items()}
    hub = {"log_scalars": {"train/loss": history}}
    torch.save({"state_dict": state, "message_hub": hub}, tmp_path / "x.pth")
    monkeypatch.delitem(sys.modules, name)
    _assert_same(tensors.read(tmp_path / "x.pth"), ARRAYS)


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


@pytest.mark.parametrize(
    "header",
    [
        '{"a": ',
        '["a"]',
        '{"a": {"dtype": "F32", "shape": [2]}}',
        '{"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}',
        '{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}',
        '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [8, 4]}}',
        '{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},'
        ' "b": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}',
        '{"a": {"dtype": "C64", "shape": [1], "data_offsets": [0, 8]}}',
        '{"a": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}}',
    ],
)
@pytest.mark.parametrize("length", [None, 0, 10**4, 2**63])
def test_safetensors_with_a_broken_header_are_refused_in_a_line(
    tmp_path, header, length
):
    text = header.encode()
    length = struct.pack("<Q", len(text) if length is None else length)
    (tmp_path / "x").write_bytes(length + text + bytes(8))
    with pytest.raises(InputError) as error:
        tensors.read(tmp_path / "x")
    assert str(tmp_path / "x") in str(error.value)
    assert "\n" not in str(error.value)
