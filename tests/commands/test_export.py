import json
import sys

import numpy as np
import onnxruntime
import pytest
import tiny_workdir

from stan_jax.commands import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_workdir.save(tmp_path_factory.mktemp("run"))


def _refused(*words):
    with pytest.raises(SystemExit) as left:
        main.main(["export", *map(str, words)])
    return str(left.value.code)


def test_onnx_is_one_file_of_the_canvas_and_clip_asked_for(folder, tmp_path, capsys):
    out = tmp_path / "tracker.onnx"
    words = f"export --model {folder} --format onnx --out {out}".split()
    main.main([*words, "--canvas", "96,64", "--clip", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{out}: ")
    assert lines[1] == "2 frames of 64 x 96 a call, 3 classes"
    assert [x.name for x in tmp_path.iterdir()] == ["tracker.onnx"]
    opened = onnxruntime.InferenceSession(out)
    shapes = {x.name: x.shape for x in opened.get_inputs()}
    assert shapes["frames"] == [2, 96, 64, 3]
    assert shapes["memory_boxes"][1] == 4
    about = opened.get_modelmeta().custom_metadata_map
    assert json.loads(about["scale_hw"]) == [64, 96]
    results = opened.run(
        None,
        {x.name: np.zeros(x.shape, _dtype(x.type)) for x in opened.get_inputs()},
    )
    assert len(results) == len(opened.get_outputs())
    with pytest.raises(Exception, match="protobuf parsing failed"):
        onnxruntime.InferenceSession(out.read_bytes()[:-100])


def test_objects_to_look_for_are_chosen_at_export(folder, tmp_path, capsys):
    out = tmp_path / "tracker.onnx"
    words = f"export --model {folder} --format onnx --out {out}".split()
    which = "--score 0.3 --classes dog cow --max-objects 4 --class-agnostic-nms"
    main.main([*words, *which.split()])
    about = onnxruntime.InferenceSession(out).get_modelmeta().custom_metadata_map
    found = json.loads(about["thresholds"])
    assert (found["score_threshold"], found["detections"]) == (0.3, 4)
    assert (found["classes"], found["class_agnostic_nms"]) == ([1, 2], True)
    assert "--score: must lie in [0, 1), is 2" in _refused(*words[1:], "--score", "2")
    rule = "--classes: the model knows no horse, but cat, dog, cow"
    assert rule in _refused(*words[1:], "--classes", "horse")


def test_jax_is_a_folder_of_program_and_weights(folder, tmp_path, capsys):
    out = tmp_path / "tracker"
    main.main(["export", "--model", str(folder), "--format", "jax", "--out", str(out)])
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{out}: 0.")
    assert second == "one frame of 96 x 64 a call, 3 classes"
    assert {x.name for x in out.iterdir()} == {"program.jax", "weights.safetensors"}


def _dtype(text):
    name = text.removeprefix("tensor(").removesuffix(")")
    return {"float": np.float32}.get(name, name)


def test_what_cannot_be_exported_is_one_line_before_the_model_is_read(
    tmp_path, monkeypatch
):
    nowhere = ["--model", tmp_path / "none", "--format", "onnx"]
    out = ["--out", tmp_path / "x.onnx"]
    line = _refused(*nowhere, *out, "--canvas", "wide")
    assert line == "error: --canvas: must be H,W, is 'wide'"
    line = _refused("--model", "Mine.ONNX", "--format", "web", *out)
    assert line == "error: Mine.ONNX: is exported already: name what it was made of"
    line = _refused(*nowhere, "--out", tmp_path / "x.txt")
    assert line == f"error: {tmp_path / 'x.txt'}: must end in .onnx"
    absent = tmp_path / "absent"
    line = _refused(*nowhere, "--out", absent / "x.onnx")
    assert line == f"error: {absent / 'x.onnx'}: folder {absent} must exist"
    (tmp_path / "there").touch()
    for kind in ("jax", "web"):
        words = ["--model", tmp_path / "none", "--format", kind]
        line = _refused(*words, "--out", tmp_path / "there")
        assert line == f"error: {tmp_path / 'there'}: must be a folder, is a file"
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    line = _refused(*nowhere, *out)
    assert line == "error: onnx: is not installed; pip install onnx"


def test_precision_and_what_it_is_fitted_to_go_together(tmp_path):
    words = ["--model", tmp_path / "none", "--out", tmp_path / "x"]
    rule = "names the videos that --precision int8 is fitted to: both or neither"
    onnx = [*words, "--format", "onnx"]
    assert _refused(*onnx, "--precision", "int8") == f"error: --calibrate: {rule}"
    assert _refused(*onnx, "--calibrate", "a.mp4") == f"error: --calibrate: {rule}"
    line = _refused(*words, "--format", "jax", "--precision", "float16")
    assert line == "error: --precision: is for onnx and web"


def test_canvas_or_clip_that_does_not_suit_is_one_line(folder, tmp_path):
    words = ["--model", folder, "--format", "onnx", "--out", tmp_path / "x.onnx"]
    for canvas in ("96,65", "0,96", "-32,96"):
        line = _refused(*words, f"--canvas={canvas}")
        rule = f"must have sides that divide by 32, is {canvas}"
        assert line == f"error: --canvas: {rule}"
    assert _refused(*words, "--clip", "0") == "error: clip: must be above 0, is 0"
    assert not list(tmp_path.iterdir())
