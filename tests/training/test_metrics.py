import json
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from stan_jax.errors import InputError
from stan_jax.training import metrics


def _steps(workdir):
    return [line["step"] for line in metrics.read(workdir)]


def _write(workdir, steps, first_step=0):
    with metrics.MetricWriter(workdir, first_step=first_step) as writer:
        for step in steps:
            writer.scalars(step, {"loss": 0.5 * step})


def test_scalars_come_back_as_written(tmp_path):
    with metrics.MetricWriter(tmp_path) as writer:
        writer.scalars(3, {"loss": jnp.float32(0.25), "lr": np.float64(0.1), "n": 2})
    assert metrics.read(tmp_path) == [{"step": 3, "loss": 0.25, "lr": 0.1, "n": 2.0}]


def test_full_disk_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with (
        pytest.raises(InputError, match="metrics.jsonl: step 1: cannot be written"),
        metrics.MetricWriter(tmp_path) as writer,
    ):
        writer.scalars(1, {"loss": 1.0})


def test_scalars_are_on_disk_before_close(tmp_path):
    writer = metrics.MetricWriter(tmp_path)
    writer.scalars(1, {"loss": 1.0})
    assert _steps(tmp_path) == [1]
    writer.close()


def test_scalars_that_are_not_finite_stay_valid_json(tmp_path):
    with metrics.MetricWriter(tmp_path) as writer:
        writer.scalars(1, {"ap": float("nan"), "loss": float("inf")})

    def refuse(name):
        raise AssertionError(name)

    text = (tmp_path / "metrics.jsonl").read_text()
    line = json.loads(text, parse_constant=refuse)
    assert line == {"step": 1, "ap": None, "loss": None}


def test_resumed_writer_appends_and_no_step_stands_twice(tmp_path):
    _write(tmp_path, [10, 20, 30, 40])  # killed after 40, last checkpoint at 20
    _write(tmp_path, [30, 40, 50], first_step=21)
    assert _steps(tmp_path) == [10, 20, 30, 40, 50]


def test_resumed_writer_drops_the_line_of_its_first_step(tmp_path):
    _write(tmp_path, [10, 20])
    _write(tmp_path, [20], first_step=20)
    assert _steps(tmp_path) == [10, 20]


@pytest.mark.parametrize("torn", ['{"step": 3, "lo', '{"step": 3, "loss": 1.5}'])
def test_resumed_writer_removes_a_half_written_line(tmp_path, torn):
    _write(tmp_path, [1, 2])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(torn)
    _write(tmp_path, [4], first_step=4)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 4]


def test_new_writer_starts_the_record_anew(tmp_path):
    _write(tmp_path, [1, 2])
    _write(tmp_path, [5])
    assert _steps(tmp_path) == [5]


def test_images_come_back_pixel_by_pixel(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    with metrics.MetricWriter(tmp_path) as writer:
        writer.images(12, {"val/overlay": image})
    path = tmp_path / "images" / "val" / "overlay" / "0000012.png"
    np.testing.assert_array_equal(np.asarray(Image.open(path)), image)


def test_events_hold_scalars_and_images(tmp_path):
    with metrics.MetricWriter(tmp_path) as writer:
        writer.scalars(4, {"loss": 0.5, "average_precision": float("nan")})
        writer.images(4, {"overlay": np.zeros((4, 4, 3), np.uint8)})
    (path,) = (tmp_path / "events").iterdir()
    events = path.read_bytes()
    assert b"loss" in events
    assert b"overlay" in events
    assert b"average_precision" not in events  # not a number: nothing to draw


def test_writer_works_without_tensorboardx(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with metrics.MetricWriter(tmp_path) as writer:
        writer.scalars(1, {"loss": 1.0})
        writer.images(1, {"overlay": np.zeros((4, 4, 3), np.uint8)})
    assert _steps(tmp_path) == [1]
    assert not (tmp_path / "events").exists()
