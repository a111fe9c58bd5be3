import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
import tiny_model
import tiny_workdir

from stan_jax import load
from stan_jax.errors import InputError
from stan_jax.export import flat, onnx_file
from stan_jax.export.convert import onnx_of
from stan_jax.model import parameters
from stan_jax.ops import canvas
from stan_jax.pretrained import record
from stan_jax.runtimes import exported, seal, sessions
from stan_jax.runtimes.exported import open_exported
from stan_jax.tracking.program import Program
from stan_jax.tracking.tracker import Tracker
from tests import runs
from tests.export import flat_runs

SIZE = (90, 140)  # of the videos here, neither the canvas nor its ratio
RUNTIMES = list(sessions.RUNTIMES)


@pytest.fixture(scope="module")
def video():
    small = tiny_model.moving(2, 7)
    return [canvas.resize_frame(frame, SIZE) for frame in small]


@pytest.fixture(scope="module", params=flat_runs.MODELS)
def both(request, tmp_path_factory):
    """A file of a preset, and the tracker that it is of."""
    case = flat_runs.case(request.param)
    path = tmp_path_factory.mktemp(request.param) / "tracker.onnx"
    onnx_file.write(case.flat, path)
    structure, values = parameters.split(case.model)
    program = Program(structure, values, case.settings)
    return path, Tracker(program, values, tiny_workdir.NAMES)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A file of the tiny model, and of its clips of 3."""
    folder = tmp_path_factory.mktemp("file")
    for name, length in (("tracker", None), ("clip", 3)):
        onnx_file.write(_flat(length=length), folder / f"{name}.onnx")
    return folder / "tracker.onnx"


def _flat(**options):
    about = record.from_config(tiny_workdir.config(), tiny_workdir.NAMES)
    about = about._replace(settings=tiny_model.TRACKING)
    arrays = parameters.by_path(parameters.split(tiny_model.build())[1])
    return flat.tracker_of("tiny", about, arrays, **options)


def _same(found, wanted):
    found, wanted = list(found), list(wanted)
    assert len(found) == len(wanted) > 0
    for got, want in zip(found, wanted, strict=True):
        assert (got.index, got.size_hw) == (want.index, want.size_hw)
        assert got.evicted == want.evicted
        np.testing.assert_array_equal(got.ids, want.ids)
        assert got.classes == want.classes
        np.testing.assert_allclose(got.scores, want.scores, rtol=0, atol=1e-5)
        np.testing.assert_allclose(got.boxes, want.boxes, rtol=0, atol=1e-3)
        apart = (got.masks != want.masks).sum(axis=(1, 2))
        either = (got.masks | want.masks).sum(axis=(1, 2))
        assert (apart <= np.maximum(1e-3 * either, 1)).all()  # one lies at 0.5
    assert sum(len(x.ids) for x in wanted) > 10


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_file_of_each_preset_tracks_as_the_model_it_is_of(both, video, runtime):
    path, tracker = both
    _same(open_exported(path, runtime).track(video), tracker.track(video))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_frame_by_frame_and_clip_by_clip_agree(file, video, runtime):
    wanted = list(open_exported(file, runtime).track(video))
    of_clips = open_exported(file.with_name("clip.onnx"), runtime)
    assert of_clips.settings.clip_length == 3
    _same(of_clips.track(video), wanted)
    state, found = of_clips.start(SIZE), []
    for frame in video:
        state, tracks = of_clips.step(state, frame)
        found.append(tracks)
    _same(found, wanted)
    assert state.seen == len(video)


def test_load_opens_it_and_lets_nothing_be_changed(file, video):
    assert load(file).categories == tiny_workdir.NAMES
    with pytest.raises(InputError, match="fixed when it was exported"):
        load(file, score_threshold=0.9)


def test_file_is_for_one_orientation_and_says_how_to_get_the_other(file, video):
    tall = [frame.transpose(1, 0, 2) for frame in video]
    with pytest.raises(InputError) as raised:
        list(open_exported(file).track(tall))
    rule = "tracks landscape videos, not portrait ones; stan export --canvas 96,64"
    assert str(raised.value) == f"{file}: {rule}"
    path = file.with_name("tall.onnx")
    onnx_file.write(_flat(canvas_hw=(96, 64)), path)
    wanted = tiny_model.tracker(tiny_model.build()).track(tall)
    _same(open_exported(path).track(tall), wanted)


def test_state_of_another_file_is_refused(file, video):
    state = open_exported(file).start(SIZE)
    smaller = state.memory._replace(embeds=state.memory.embeds[:3])
    with pytest.raises(InputError, match="of another tracker"):
        open_exported(file).step(state._replace(memory=smaller), video[0])


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_cut_or_changed_or_other_file_is_one_line(file, tmp_path, runtime):
    content = file.read_bytes()
    changed = bytearray(content)
    at = len(content) // 2  # among the weights
    changed[at] ^= 1
    other = onnx_of(jnp.sin, jax.ShapeDtypeStruct((3,), jnp.float32))
    path = tmp_path / "x.onnx"
    # OpenVINO opens some that are cut; what they are, which stands at the end, is gone.
    unread = [f"{runtime} cannot open it: ", "is no tracker of stan export, format 1"]
    for given, text in (
        (bytes(changed), ["is not as it was written; export it anew"]),
        (content[:-1], unread),
        (content[: len(content) // 2], unread),
        (b"", unread),
        (b"no model", unread),
        (other.SerializeToString(), unread[1:]),
    ):
        path.write_bytes(given)
        with pytest.raises(InputError) as raised:
            open_exported(path, runtime)
        line = str(raised.value)
        assert line.startswith(tuple(f"{path}: {x}" for x in text))
        assert line.endswith("export it anew")
        assert "\n" not in line
    with pytest.raises(InputError, match="there is no such file"):
        open_exported(tmp_path / "absent.onnx", runtime)
    with pytest.raises(InputError, match="must be a file of stan export"):
        open_exported(tmp_path, runtime)


def test_file_that_a_tool_has_written_anew_is_taken(file, tmp_path, video):
    model = onnx.load(file)
    kept = [x for x in model.metadata_props if x.key != seal.NAME]
    assert len(kept) == len(model.metadata_props) - 1
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    path = tmp_path / "anew.onnx"
    onnx.save(model, path)
    _same(open_exported(path).track(video), open_exported(file).track(video))


def test_sealed_file_passes_the_checker(file):
    model = onnx.load(file)
    onnx.checker.check_model(model, full_check=True)
    (mark,) = (x.value for x in model.metadata_props if x.key == seal.NAME)
    assert len(mark) == 64


def test_runtime_that_is_unknown_or_absent_is_one_line(file, monkeypatch):
    with pytest.raises(InputError, match="must be one of onnxruntime, openvino, is"):
        open_exported(file, "torch")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    rule = "openvino: is not installed; pip install openvino"
    with pytest.raises(InputError, match=rule):
        open_exported(file, "openvino")


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_equal_entries_keep_their_order_in_each_runtime(tmp_path, runtime):
    rng = np.random.default_rng(0)
    for n, given in enumerate(
        (rng.integers(0, 4, 60), np.zeros(300), [-0.0, 0.0, -np.inf, 1, -np.inf])
    ):
        x = np.asarray(given, np.float32)
        order = jnp.argsort(x, descending=True, stable=True)
        path = tmp_path / f"{n}.onnx"
        model = onnx_of(
            lambda x: jnp.argsort(x, descending=True, stable=True),
            jax.ShapeDtypeStruct(x.shape, x.dtype),
        )
        helper = onnx.helper
        helper.set_model_props(model, {"what": "a sort"})
        path.write_bytes(model.SerializeToString())
        found = sessions.open_session(path, runtime).run({"input_0": x})
        np.testing.assert_array_equal(found["output_0"], order)


def test_stan_track_runs_where_there_is_no_jax(file, video, tmp_path):
    from PIL import Image

    folder = tmp_path / "frames"
    folder.mkdir()
    for n, frame in enumerate(video):
        Image.fromarray(frame).save(folder / f"{n:03}.png")
    out = tmp_path / "out"
    line = ["track", folder, "--model", file, "--out", out, "--score", "0.05"]
    barred = "jax jaxlib flax optax orbax onnx".split()
    code = f"import sys\nsys.modules.update(dict.fromkeys({barred}))\n"
    code += "from stan_jax.commands import main\n"
    code += f"main.main({[str(x) for x in line]})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=runs.ROOT,
        capture_output=True,
        text=True,
        env=os.environ,
    )
    assert done.returncode == 0, done.stderr
    assert "device  cpu (onnxruntime)" in done.stdout
    lines = (out / "tracks.jsonl").read_text().splitlines()
    wanted = list(load(file).track(video))
    for text, tracks in zip(lines, wanted, strict=True):
        row = json.loads(text)["tracks"]
        assert [x["id"] for x in row] == tracks.ids.tolist()
        assert [x["segmentation"] for x in row] == [*tracks.segmentations]


def test_openvino_sends_no_word_of_its_use(file):
    open_exported(file, "openvino")
    assert sys.modules["openvino_telemetry"] is None


def test_settings_of_a_file_are_those_that_it_was_exported_with(file):
    tracker = open_exported(file)
    assert isinstance(tracker.program, exported.ExportedProgram)
    found, wanted = tracker.settings, tiny_model.TRACKING
    for name in ("canvas", "scale_hw", "legacy_paste"):
        assert getattr(found, name) == getattr(wanted, name)
    assert found.clip_length == 1
    assert found.score_threshold == wanted.thresholds.score_threshold
