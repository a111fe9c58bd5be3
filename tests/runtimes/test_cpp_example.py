import json
import subprocess
import sys

import numpy as np
import pytest

from stan_jax.export import onnx_file
from stan_jax.masks.paste import paste
from tests import runs
from tests.export import flat_runs, site_runs

NAMES = '"an \\"odd\\" nam\\u00e9"', '"dog"', '"cat"'  # as json has them


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
def case():
    return flat_runs.case("torchvision")


@pytest.fixture(scope="module")
def file(case, tmp_path_factory):
    path = tmp_path_factory.mktemp("file") / "tracker.onnx"
    names = tuple(json.loads(x) for x in NAMES)
    case.flat.record = case.flat.record._replace(categories=names)
    onnx_file.write(case.flat, path)
    return path


def _run(*line, **options):
    return subprocess.run([str(x) for x in line], capture_output=True, **options)


def _frames():
    height, width = flat_runs.SIZE
    return flat_runs.VIDEO[:, :height, :width]


def test_example_prints_the_tracks_of_frames_from_a_pipe(program, file, case):
    assert _run(program, file).stdout.split() == [b"64", b"96"]
    done = _run(program, file, *flat_runs.SIZE, input=_frames().tobytes())
    assert done.returncode == 0, done.stderr
    lines = iter(done.stdout.decode().splitlines())
    _, wanted = case.steps()
    for t, tracks in enumerate(wanted):
        ids = tracks.ids.tolist()
        for row in np.flatnonzero(tracks.valid):
            if ids[row] in ids[row + 1 :]:
                continue
            number, id_, *rest = next(lines).split(" ")
            assert (int(number), int(id_)) == (t, ids[row])
            *name, score, x1, y1, x2, y2 = rest
            assert " ".join(name) == NAMES[tracks.labels[row]]
            assert float(score) == pytest.approx(tracks.scores[row], abs=1e-5)
            box = np.array([x1, y1, x2, y2], np.float32)
            np.testing.assert_allclose(box, tracks.boxes[row], atol=2e-3)
    assert next(lines, None) is None
    assert sum(x.valid.sum() for x in wanted) > 10


def test_example_paints_the_masks_into_the_frames(program, file, case):
    frames = _frames()
    done = _run(program, file, *flat_runs.SIZE, "draw", input=frames.tobytes())
    drawn = np.frombuffer(done.stdout, np.uint8).reshape(frames.shape)
    assert done.stderr.count(b"\n") > 10
    _, wanted = case.steps()
    for t, tracks in enumerate(wanted):
        inside = np.zeros(frames.shape[1:3], bool)
        for row in np.flatnonzero(tracks.valid):
            top, left, probs = paste(tracks.masks[row], tracks.boxes[row], inside.shape)
            height, width = probs.shape
            inside[top : top + height, left : left + width] |= probs >= 0.5
        painted = (drawn[t] != frames[t]).any(axis=-1)
        assert not (painted & ~inside).any()  # painting may meet the colour that it has
        assert painted.sum() >= 0.99 * inside.sum()
        assert inside.any()


def test_example_says_in_a_line_what_it_cannot_do(program, file, tmp_path):
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(file.read_bytes()[:-5000])
    for words, rule in (
        ([], "usage: track tracker.onnx"),
        ([tmp_path / "none.onnx"], "Could not open the file"),
        ([cut], "parsed"),
        ([file, 65, 96], "height and width of frames: 1 1 to 64 96"),
        ([file, 64, 96], "the last frame is cut: 7 bytes"),
    ):
        done = _run(program, *words, input=b"\0" * (64 * 96 * 3 + 7))
        assert done.returncode in (1, 2)
        assert len(done.stderr.splitlines()) == 1
        assert rule in done.stderr.decode()
