import numpy as np
import onnx
import onnxruntime
import pytest
import tiny_model
from onnx import numpy_helper
from PIL import Image

from stan_jax.errors import InputError
from stan_jax.export import onnx_file, smaller
from stan_jax.runtimes.exported import open_exported
from tests.export import flat_runs


@pytest.fixture(scope="module")
def case():
    return flat_runs.case("original")


@pytest.fixture(scope="module")
def model(case):
    return onnx_file.model_of(case.flat)


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """A folder of images."""
    folder = tmp_path_factory.mktemp("frames")
    for n, frame in enumerate(tiny_model.moving(2, 5)):
        Image.fromarray(frame).save(folder / f"{n}.png")
    return folder


def _run(model, case):
    opened = onnxruntime.InferenceSession(model.SerializeToString())
    names = [x.name for x in opened.get_outputs()]
    walk = flat_runs.walk(
        lambda given: dict(zip(names, opened.run(None, given), strict=True)), case
    )
    return [{k: x[k] for k in names} for x in walk]


def _read_by_weighted(graph):
    names = {x.input[1] for x in graph.node if x.op_type in ("Conv", "MatMul")}
    for node in graph.node:
        for attribute in node.attribute:
            names |= _read_by_weighted(attribute.g)
    return names


def test_half_computes_with_rounded_weights_and_nothing_else_is_rounded(case, model):
    before = model.SerializeToString()
    found = smaller.half(model)
    assert model.SerializeToString() == before
    onnx.checker.check_model(found, full_check=True)
    rounded = onnx.ModelProto()
    rounded.CopyFrom(model)
    read, changed = _read_by_weighted(model.graph), 0
    for held in rounded.graph.initializer:
        array = numpy_helper.to_array(held)
        if held.name in read and array.dtype == np.float32 and array.size >= 256:
            close = array.astype(np.float16).astype(np.float32)
            held.CopyFrom(numpy_helper.from_array(close, held.name))
            changed += 1
    assert changed > 20
    for got, want in zip(_run(found, case), _run(rounded, case), strict=True):
        for name in want:
            np.testing.assert_array_equal(got[name], want[name])
    kinds = [numpy_helper.to_array(x).dtype for x in found.graph.initializer]
    assert kinds.count(np.float16) == changed


def test_quantised_computes_in_8_bits_close_to_the_model(case, model, frames):
    found = smaller.quantised(model, [str(frames)])
    onnx.checker.check_model(found, full_check=True)
    made = {name: node for node in found.graph.node for name in node.output}
    weighted = [x for x in found.graph.node if x.op_type == "Conv"]
    assert len(weighted) > 10
    for node in weighted:
        for name in node.input[:2]:
            assert made[name].op_type == "DequantizeLinear"
    wanted, got = (_run(x, case)[0] for x in (model, found))
    apart = 0.0
    for name in wanted:
        if name.startswith("new_memory_features"):
            scale = np.abs(wanted[name]).max()
            furthest = np.abs(got[name] - wanted[name]).max() / scale
            apart = max(apart, furthest)
    assert 0 < apart < 0.3, apart
    kinds = [numpy_helper.to_array(x).dtype for x in found.graph.initializer]
    assert kinds.count(np.int8) > 10


def test_calibration_walks_through_the_frames_with_their_memory(
    model, frames, tmp_path, monkeypatch
):
    path = tmp_path / "x.onnx"
    path.write_bytes(model.SerializeToString())
    calls = list(smaller._calls(path, [str(frames)] * 2))
    seen = [int(x["memory_frame"]) for x in calls]
    assert seen == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]
    np.testing.assert_array_equal(calls[1]["frame"], tiny_model.moving(2, 5)[1])
    assert calls[1]["memory_live"].any()
    monkeypatch.setattr(smaller, "FRAMES", 3)
    assert len(list(smaller._calls(path, [str(frames)]))) == 3


@pytest.mark.parametrize("precision", smaller.PRECISIONS)
def test_file_of_each_precision_opens_and_says_which(case, frames, tmp_path, precision):
    path = tmp_path / "x.onnx"
    videos = [str(frames)] if precision == "int8" else []
    onnx_file.write(case.flat, path, precision, videos)
    tracker = open_exported(path)
    assert len(list(tracker.track(list(tiny_model.moving(2, 3))))) == 3
    about = {x.key: x.value for x in onnx.load(path).metadata_props}
    assert about["precision"] == precision
    content = path.read_bytes()
    assert str(tmp_path).encode() not in content
    assert b"/tmp/" not in content


def test_what_quantises_or_is_to_be_tracked_may_be_absent(model, monkeypatch, tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        smaller.quantised(model, [str(tmp_path / "nowhere")])
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(InputError, match="onnxruntime: is not installed; pip install"):
        smaller.quantised(model, [])
