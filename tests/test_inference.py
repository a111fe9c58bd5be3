import json

import jax
import numpy as np
import pytest
import tiny_model

from stan_jax import inference
from stan_jax.annotations import youtube_vis
from stan_jax.errors import InputError
from stan_jax.evaluation import youtube_vis_ap
from stan_jax.shapes import generate
from stan_jax.tracking.program import on_device


@pytest.fixture(scope="module")
def tracker():
    return tiny_model.tracker(tiny_model.build(num_classes=6))


def make(folder, height, width, frames=4):
    generate.generate(
        folder,
        seed=3,
        train_videos=1,
        val_videos=2,
        frames=frames,
        height=height,
        width=width,
    )
    return youtube_vis.load(
        folder / "val" / "instances.json", folder / "val" / "JPEGImages"
    )


def test_clip_is_traced_once_per_canvas_over_all_videos(tmp_path, tracker):
    wide = make(tmp_path / "wide", 64, 96, frames=7)
    tall = make(tmp_path / "tall", 96, 64, frames=4)
    for i, dataset in enumerate((wide, tall, wide)):
        inference.evaluate(tracker, dataset, tmp_path / f"{i}.json")
    assert tracker.program.traces == 2


def test_results_and_numbers_agree_with_the_official_reading(tmp_path, tracker):
    dataset = make(tmp_path / "set", 64, 96)
    seen = []
    scores = inference.evaluate(
        tracker, dataset, tmp_path / "r.json", watch=lambda v, f: seen.append((v, f))
    )
    assert [f.index for _, f in seen] == [0, 1, 2, 3] * 2
    assert all(f.masks.shape[1:] == (64, 96) for _, f in seen)
    stats = youtube_vis_ap.evaluate_files(dataset.path, tmp_path / "r.json")
    assert scores == {k: stats[k] for k in inference.OFFICIAL}
    results = json.loads((tmp_path / "r.json").read_text())
    ids = {(v.id, int(i)) for v, f in seen for i in f.ids}
    assert 0 < len(results) <= len(ids)
    assert all(len(r["segmentations"]) == 4 for r in results)


def test_two_devices_give_the_results_of_one_byte_for_byte(tmp_path, tracker):
    dataset = make(tmp_path / "set", 64, 96)
    seen = {1: [], 2: []}
    scores = [
        inference.evaluate(
            tracker,
            dataset,
            tmp_path / f"{n}.json",
            watch=lambda v, f, n=n: seen[n].append((v.id, f.index)),
            devices=jax.devices()[:n],
        )
        for n in (1, 2)
    ]
    assert scores[0] == scores[1]
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()
    assert sorted(seen[1]) == sorted(seen[2])


def test_tracker_on_a_device_computes_there(tracker):
    device = jax.devices()[1]
    moved = on_device(tracker, device)
    state, _ = moved.step(moved.start(64, 96), np.zeros((64, 96, 3), np.uint8))
    for x in jax.tree.leaves((moved.parameters, state.memory)):
        assert x.devices() == {device}


def test_dataset_without_annotations_gives_results_and_no_numbers(tmp_path, tracker):
    make(tmp_path / "set", 64, 96)
    path = tmp_path / "set" / "val" / "instances.json"
    content = json.loads(path.read_text())
    del content["annotations"]
    path.write_text(json.dumps(content))
    dataset = youtube_vis.load(path, path.parent / "JPEGImages")
    assert inference.evaluate(tracker, dataset, tmp_path / "r.json") == {}
    assert json.loads((tmp_path / "r.json").read_text())


def test_nothing_found_scores_zero(tmp_path):
    high = tiny_model.THRESHOLDS._replace(score_threshold=2.0)
    settings = tiny_model.TRACKING._replace(thresholds=high)
    blind = tiny_model.tracker(tiny_model.build(num_classes=6), settings)
    dataset = make(tmp_path / "set", 64, 96)
    scores = inference.evaluate(blind, dataset, tmp_path / "r.json")
    assert scores == dict.fromkeys(inference.OFFICIAL, 0.0)
    assert json.loads((tmp_path / "r.json").read_text()) == []


def test_broken_frame_leaves_no_results_behind(tmp_path, tracker):
    dataset = make(tmp_path / "set", 64, 96)
    frame = dataset.frames_dir / dataset.videos[1].file_names[2]
    frame.write_bytes(frame.read_bytes()[:200])
    with pytest.raises(InputError, match=frame.name):
        inference.evaluate(tracker, dataset, tmp_path / "r.json")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["set"]
