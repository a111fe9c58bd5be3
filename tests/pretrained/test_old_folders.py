"""What earlier code left on people's disks opens, tracks and trains on."""

import inspect
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest

from stan_jax.annotations import youtube_vis
from stan_jax.errors import InputError
from stan_jax.masks import codec
from stan_jax.model import build, parameters
from stan_jax.pretrained import record, start
from stan_jax.pretrained.load import blueprint, load
from stan_jax.published import detectors, tensors
from stan_jax.training import metrics
from tests import runs

OLD = runs.ROOT / "tests/old_folders"


def _unpack(name: str, folder: Path) -> Path:
    with zipfile.ZipFile(OLD / f"{name}.zip") as packed:
        packed.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return _unpack("workdir", tmp_path_factory.mktemp("workdir"))


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    return _unpack("import", tmp_path_factory.mktemp("import"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return runs.dataset(tmp_path_factory.mktemp("shapes") / "set")


def test_workdir_gives_the_results_it_gave(workdir, data):
    tracker = load(workdir)
    assert tracker.categories[:3] == ("disc", "square", "triangle")
    want = {1: {}, 2: {}}
    for row in json.loads((workdir / "results.json").read_text()):
        for t, rle in enumerate(row["segmentations"]):
            if rle is not None:
                want[row["video_id"]].setdefault(t, []).append(codec.area(rle))
    dataset = youtube_vis.load(data / "val/instances.json", data / "val/JPEGImages")
    for video in dataset.videos:
        frames = [youtube_vis.read_frame(dataset, video, t) for t in range(3)]
        got = {}
        for frame in tracker.track(frames):
            areas = [codec.area(rle) for rle in frame.segmentations]
            got[frame.index] = sorted(area for area in areas if area)
        # Other versions of JAX round otherwise: a pixel more or less.
        for t, areas in want[video.id].items():
            np.testing.assert_allclose(got[t], sorted(areas), atol=2)


@pytest.mark.slow
@pytest.mark.parametrize("grown", [False, True], ids=["as it is", "model has grown"])
def test_workdir_resumes(data, tmp_path, grown):
    """Also where the model has an argument that it did not have, with a default."""
    folder = _unpack("workdir", tmp_path / "run")
    (tmp_path / "config.py").write_text(CONFIG.format(folder / "config.json"))
    line = [sys.executable, "train.py", f"--config={tmp_path / 'config.py'}"]
    line += [f"--workdir={folder}", "--config.optim.steps=4"]
    for split in ("train", "val"):
        place = data / split
        line.append(f"--config.data.{split}.annotations={place / 'instances.json'}")
        line.append(f"--config.data.{split}.frames={place / 'JPEGImages'}")
    if grown:
        script = "import runpy, sys\n" + GROW + "\nsys.argv = sys.argv[1:]\n"
        script += "runpy.run_path('train.py', run_name='__main__')"
        line = [line[0], "-c", script, *line[1:]]
    code, output = runs.finish(line)
    assert code == 0, output
    assert "resumed at step 2" in output
    changed = [x for x in output.splitlines() if x.startswith("changed since")]
    names = {x.split()[2].removeprefix("config.") for x in changed}
    assert names <= {"optim.steps"} | {
        f"data.{split}.{kind}"
        for split in ("train", "val")
        for kind in ("annotations", "frames")
    }
    assert [x["step"] for x in metrics.read(folder)] == [1, 2, 3, 4]


# A config as the workdir has noted it, with the names of today.
CONFIG = """
import json
from ml_collections import ConfigDict
from stan_jax.pretrained import record

def get_config():
    return ConfigDict(tuples(record.modern(json.load(open("{}")))))

def tuples(x):
    if isinstance(x, dict):
        return {{key: tuples(value) for key, value in x.items()}}
    return tuple(map(tuples, x)) if isinstance(x, list) else x
"""
# An argument of the model that nobody knew when the workdir was made.
GROW = """
import inspect
from stan_jax.model import build
real, signed = build.assemble, inspect.signature(build.assemble)
def assemble(*args, shiny=False, **rest):
    assert not shiny
    return real(*args, **rest)
new = inspect.Parameter("shiny", inspect.Parameter.KEYWORD_ONLY, default=False)
assemble.__signature__ = signed.replace(parameters=[*signed.parameters.values(), new])
build.assemble = assemble
"""


def test_workdir_refuses_a_new_argument_that_is_not_at_its_default(
    workdir, monkeypatch
):
    monkeypatch.setattr(build, "assemble", build.assemble)  # put back afterwards
    exec(GROW, {})
    theirs, _ = start.open_folder(workdir)
    assert inspect.signature(build.assemble).parameters["shiny"].default is False
    ours = theirs._replace(model=build.architecture(dict(theirs.model)))
    record.require_same(workdir, theirs, ours)
    model = build.architecture(theirs.model | {"shiny": True})
    with pytest.raises(InputError, match="step 2: model.shiny was False, is True"):
        record.require_same(workdir, theirs, ours._replace(model=model))


def test_import_tracks_and_starts_a_training(imported):
    tracker = load(imported)
    assert tracker.categories == ("cat", "dog", "owl")
    frame = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    shown = list(tracker.track([frame, frame]))
    assert [x.index for x in shown] == [0, 1]
    theirs, arrays = start.open_folder(imported)
    assert theirs.origin == "masktrack_tiny.pth, original"
    _, like = blueprint(theirs)
    fresh = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)
    values, lines = start.start(imported, fresh, theirs)
    assert lines == [f"started from {imported}"]
    for path, array in parameters.by_path(values).items():
        np.testing.assert_array_equal(array, arrays[path])


def test_export_is_imported_with_all_it_said_of_itself(tmp_path):
    header = json.loads((OLD / "export.json").read_text())
    note = json.loads(header.pop("__metadata__")["stan_jax"])
    rng = np.random.default_rng(0)
    arrays = {
        name: np.abs(rng.normal(0, 0.05, entry["shape"])).astype(np.float32)
        for name, entry in header.items()
    }
    assert {entry["dtype"] for entry in header.values()} == {"F32"}
    tensors.write(tmp_path / "x.safetensors", arrays, note)
    found = detectors.load(tmp_path / "x.safetensors")
    assert found.family == "mmdet"
    assert found.categories == ["cat", "dog", "owl"]
    assert found.settings["sta"]["key_channels"] == 4
    assert not found.missing
    tracker = load(tmp_path / "x.safetensors")
    assert tracker.categories == ("cat", "dog", "owl")
    used = parameters.by_path(tracker.parameters)
    assert len(used) == len(arrays)
    sta = used["params/sta/value/kernel"]
    np.testing.assert_array_equal(sta, arrays["stan.sta.value.kernel"])


def test_folder_of_neither_kind_says_what_is_missing(workdir, tmp_path):
    folder = _unpack("workdir", tmp_path)
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match="neither config.json nor import.json"):
        load(folder)


def test_nothing_of_them_needs_a_second_process(workdir, tmp_path):
    """The door is one import: what the README shows, in a folder of its own."""
    code = f"import stan_jax; print(stan_jax.load({str(workdir)!r}).categories[0])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(runs.ROOT), "JAX_PLATFORMS": "cpu", "PATH": "/bin"},
    )
    assert done.stdout == "disc\n", done.stderr
    assert jax.default_backend()
