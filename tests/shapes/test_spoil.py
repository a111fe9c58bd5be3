"""Weather on a set that is there already."""

import json

import numpy as np
import pytest

from stan_jax.annotations import youtube_vis
from stan_jax.errors import InputError
from stan_jax.shapes import generate, spoil, weather


@pytest.fixture(scope="module")
def clear(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clear")
    counts = dict(train_videos=1, val_videos=2, frames=6, height=48, width=80)
    generate.generate(folder, seed=3, **counts)
    return folder / "val"


def _frames(folder):
    dataset = youtube_vis.load(folder / "instances.json", folder / "JPEGImages")
    return {
        video.id: np.stack(
            [youtube_vis.read_frame(dataset, video, t) for t in range(6)]
        ).astype(int)
        for video in dataset.videos
    }


@pytest.mark.parametrize("kind", ["hard", "blank", "covered"])
def test_frames_change_where_it_is_noted_and_labels_stay(clear, tmp_path, kind):
    given = clear / "instances.json", clear / "JPEGImages"
    spoil.main([*map(str, given), f"--out={tmp_path}", f"--weather={kind}", "--seed=1"])
    before, after = _frames(clear), _frames(tmp_path)
    assert json.loads(given[0].read_text()) == json.loads(
        (tmp_path / "instances.json").read_text()
    )
    noted = json.loads((tmp_path / "spoilt.json").read_text())
    for i, video in before.items():
        # A frame that is written as JPEG once more changes by little.
        gaps = np.abs(after[i] - video).mean((1, 2, 3))
        assert set(np.flatnonzero(gaps > 1.5)) == set(noted[str(i)])
    assert 0 < sum(map(len, noted.values())) < 12
    stamp = (tmp_path / "spoilt.json").stat().st_mtime_ns
    spoil.spoil(*given, tmp_path, weather=kind)  # done already
    assert (tmp_path / "spoilt.json").stat().st_mtime_ns == stamp


def test_another_weather_is_refused(clear, tmp_path):
    given = clear / "instances.json", clear / "JPEGImages"
    with pytest.raises(InputError, match=f"one of {', '.join(weather.WEATHERS)}, is"):
        spoil.spoil(*given, tmp_path, weather="snow")
