"""Traced programs on disk: the same tracks, and never those of another model."""

import numpy as np
import pytest
import tiny_model
import tiny_workdir

from stan_jax.errors import InputError
from stan_jax.pretrained import load as loading
from stan_jax.pretrained import programs
from stan_jax.pretrained.programs import KeptProgram


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tiny_workdir.save(tmp_path_factory.mktemp("run"))


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "folder", lambda: tmp_path / "programs")
    return tmp_path / "programs"


def track(tracker, size_hw=(64, 96)):
    frames = tiny_model.moving(2, 7, canvas=size_hw)
    return [(x.ids.tolist(), x.segmentations) for x in tracker.track(frames)]


def test_a_second_start_traces_nothing_and_tracks_the_same(workdir, place, monkeypatch):
    monkeypatch.setattr(programs, "folder", lambda: None)
    want = track(loading.load(workdir))
    assert sum(len(ids) for ids, _ in want) > 10
    monkeypatch.setattr(programs, "folder", lambda: place)
    assert track(loading.load(workdir)) == want
    assert len(list(place.iterdir())) == 1

    def fail(*_):
        raise AssertionError("traced")

    monkeypatch.setattr(KeptProgram, "_traced", fail)
    second = loading.load(workdir)
    assert isinstance(second.program, KeptProgram)
    assert track(second) == want


def test_every_canvas_and_length_has_its_own(workdir, place):
    tracker = loading.load(workdir)
    track(tracker)
    track(tracker, (96, 64))
    state = tracker.start((64, 96))
    tracker.step(state, np.zeros((64, 96, 3), np.uint8))
    assert len(list(place.iterdir())) == 3


def test_other_settings_are_another_program(workdir, place):
    for changes in ({}, {"score_threshold": 0.5}, {"slots": 20}, {"classes": (1,)}):
        loading.load(workdir, **changes)
    assert len(list(place.iterdir())) == 4


def test_other_source_is_another_program(workdir, place, monkeypatch):
    loading.load(workdir)
    monkeypatch.setattr(programs, "_source", lambda: "changed")
    loading.load(workdir)
    assert len(list(place.iterdir())) == 2


def test_a_damaged_file_is_made_anew(workdir, place):
    want = track(loading.load(workdir))
    (path,) = place.iterdir()
    path.write_bytes(path.read_bytes()[:500])
    assert track(loading.load(workdir)) == want
    assert path.stat().st_size > 500


def test_settings_that_do_not_fit_are_refused_as_ever(workdir, place):
    with pytest.raises(InputError, match="slots"):
        loading.load(workdir, slots=1)
    with pytest.raises(InputError, match="expire_after: must be above 0, is 0"):
        loading.load(workdir, expire_after=0)
    assert not place.exists()
