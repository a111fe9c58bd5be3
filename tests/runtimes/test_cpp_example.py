import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_model

from stan_jax.export import onnx_file
from stan_jax.runtimes.exported import open_exported
from tests import runs
from tests.export import flat_runs, site_runs

NAMES = '"an \\"odd\\" nam\\u00e9"', '"dog"', '"cat"'  # as json has them
BY_NAME = {json.loads(x): x for x in NAMES}
HW = 64, 96  # of the canvas


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The built example; it takes a compiler, CMake, and the wheel of OpenVINO."""
    cmake = site_runs.program("cmake")
    site_runs.program("c++", "g++", "clang++")
    build = tmp_path_factory.mktemp("build")
    source = runs.ROOT / "examples/cpp"
    python = f"-DPython3_EXECUTABLE={sys.executable}"
    for line in (["-S", source, "-B", build, python], ["--build", build]):
        done = subprocess.run(
            [cmake, *map(str, line)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning" not in done.stdout + done.stderr
    return build / "track"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A tracker whose tracks expire, and of whose rows some have the id of another."""
    path = tmp_path_factory.mktemp("file") / "tracker.onnx"
    flat = flat_runs.case("openmmlab").flat
    names = tuple(json.loads(x) for x in NAMES)
    flat.record = flat.record._replace(categories=names)
    onnx_file.write(flat, path)
    return path


@pytest.fixture(scope="module")
def video():
    moving = tiny_model.moving(2, 4)
    return np.concatenate([moving[:2], 0 * moving[:3], moving])


def _run(*line, **options):
    return subprocess.run([str(x) for x in line], capture_output=True, **options)


def test_example_prints_the_tracks_of_frames_from_a_pipe(program, file, video):
    assert _run(program, file).stdout.split() == [b"64", b"96"]
    done = _run(program, file, *HW, input=video.tobytes())
    assert done.returncode == 0, done.stderr
    lines = iter(done.stdout.decode().splitlines())
    for tracks in open_exported(file).track(list(video)):
        rows = tracks.ids, tracks.classes, tracks.scores, tracks.boxes
        for id_, name, score, box in zip(*rows, strict=True):
            about, _, rest = next(lines).rpartition('" ')
            assert about + '"' == f"{tracks.index} {id_} {BY_NAME[name]}"
            found = np.array(rest.split(" "), np.float32)
            np.testing.assert_allclose(found[0], score, rtol=0, atol=1e-5)
            np.testing.assert_allclose(found[1:], box, rtol=0, atol=1e-3)
    assert next(lines, None) is None


def test_example_paints_the_masks_into_the_frames(program, file, video):
    done = _run(program, file, *HW, "draw", input=video.tobytes())
    drawn = np.frombuffer(done.stdout, np.uint8).reshape(video.shape)
    assert done.stderr.count(b"\n") > 10
    for tracks in open_exported(file).track(list(video)):
        inside = tracks.masks.any(axis=0)
        painted = (drawn[tracks.index] != video[tracks.index]).any(axis=-1)
        assert not (painted & ~inside).any()  # paint may meet the colour that it has
        assert painted.sum() >= 0.99 * inside.sum() > 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("draw", [(), ("draw",)])
def test_example_says_where_it_cannot_write(program, file, video, draw):
    with open("/dev/full", "w") as full:
        line = [program, file, *HW, *draw]
        line, given = [str(x) for x in line], video.tobytes()
        pipe = subprocess.PIPE
        done = subprocess.run(line, input=given, stdout=full, stderr=pipe)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == b"track: the output cannot be written"


def test_example_says_in_a_line_what_it_cannot_do(program, file, tmp_path):
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(file.read_bytes()[:-5000])
    for words, rule in (
        ([], "usage: track tracker.onnx"),
        ([tmp_path / "none.onnx"], "Could not open the file"),
        ([cut], "parsed"),
        ([file, 65, 96], "height and width of frames: 1 1 to 64 96"),
        ([file, "64x", 96], "height and width of frames: 1 1 to 64 96"),
        ([file, 64, 96], "the last frame is cut: 7 bytes"),
    ):
        done = _run(program, *words, input=b"\0" * (64 * 96 * 3 + 7))
        assert done.returncode in (1, 2)
        assert len(done.stderr.splitlines()) == 1
        assert rule in done.stderr.decode()
