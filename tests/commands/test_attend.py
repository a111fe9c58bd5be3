"""`stan attend`: a picture of where the attention looks."""

import numpy as np
import pytest
import tiny_workdir
from PIL import Image

from stan_jax.commands import main
from stan_jax.tracking.look import Look
from stan_jax.training import mesh
from stan_jax.video.look import rows
from tests import clips


@pytest.fixture(autouse=True)
def configured(monkeypatch):
    """JAX is set up already, which a process does once."""
    monkeypatch.setattr(mesh, "configure", lambda **_: None)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("attend")
    return tiny_workdir.save(folder / "model"), clips.write(folder / "street.mp4")


def attend(given, *options):
    model, clip = map(str, given)
    main.main(["attend", clip, "--model", model, *map(str, options)])


def test_command_leaves_the_picture_and_prints_each_level(given, tmp_path, capsys):
    out = tmp_path / "new" / "look.png"
    attend(given, "--point", "20,30", "--frame", 3, "--out", out)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[:4]] == [
        ["stride", "8"],
        ["stride", "16"],
        ["stride", "32"],
        ["stride", "64"],
    ]
    assert lines[4] == str(out)
    with Image.open(out) as image:
        assert image.width == 5 * 326 + 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--point", "a,3"), "--point: must be X,Y, is 'a,3'"),
        (("--point", "9000,3"), "point: must lie in the frame of"),
        (("--point", "1,1", "--frame", 0), "--frame: must be at least 1"),
        (("--point", "1,1", "--frame", 999), "has no frame 999, but"),
    ],
)
def test_wrong_arguments_are_one_line(given, tmp_path, options, message):
    with pytest.raises(SystemExit, match=message):
        attend(given, *options, "--out", tmp_path / "look.png")
    assert not list(tmp_path.iterdir())


def test_picture_is_brightest_where_the_weight_lies():
    weights = np.zeros((4, 8), np.float32)
    weights[1, 6] = 1
    level = Look(8, (0, 0), weights, 0.5, np.full((4, 8), 0.1, np.float32))
    frame = np.full((80, 160, 3), 90, np.uint8)
    upper, lower = rows(frame, frame, (10, 10), [level])
    assert [x.shape for x in (*upper, *lower)] == [(160, 320, 3)] * 4
    heat = upper[1].astype(int).sum(-1)
    heat = heat[:120, 60:]  # below is the text, on the left the point
    y, x = np.unravel_index(heat.argmax(), heat.shape)
    assert (y // 40, (x + 60) // 40) == (1, 6)
