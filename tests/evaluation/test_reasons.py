"""Each cause of a score of 0 is named, it alone, and none where the score is good."""

import json
from typing import Any

import numpy as np
import pytest
from tiny_sets import box_mask, runs

from stan_jax.commands import main
from stan_jax.errors import InputError
from stan_jax.evaluation import score
from stan_jax.masks import segmentations

SIZE, FRAMES = (40, 60), 5


def _rle(size, x, side=8):
    scale = size[0] / SIZE[0]
    box = tuple(int(scale * v) for v in (x, 4, x + side, 4 + side))
    return dict(segmentations.compress(runs(box_mask(*size, box)), *size) or {})


def _truth(size=SIZE) -> dict[str, Any]:
    rows = [
        dict(id=10 * v + k, video_id=v, category_id=2 * k, iscrowd=0)
        | dict(segmentations=[_rle(size, 2 * t + 14 * k) for t in range(FRAMES)])
        | dict(areas=[64] * FRAMES)
        for v in (1, 2, 3)
        for k in (1, 2)
    ]
    videos = [
        dict(id=v, height=SIZE[0], width=SIZE[1])
        | dict(file_names=[f"{v}/{t}.jpg" for t in range(FRAMES)])
        for v in (1, 2, 3)
    ]
    categories = [dict(id=2, name="cat"), dict(id=4, name="dog")]
    return dict(videos=videos, categories=categories, annotations=rows)


def _results(size=SIZE) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    keys = "video_id category_id segmentations".split()
    return [
        {key: row[key] for key in keys} | dict(score=float(rng.uniform(0.4, 1)))
        for row in _truth(size)["annotations"]
    ]


def _all(**change):
    return [row | change for row in _results()]


def _shift(by):
    return [row | dict(category_id=row["category_id"] + by) for row in _results()]


def _cut(row, keep):
    return row | dict(segmentations=keep(row["segmentations"]))


NOWHERE = [_rle(SIZE, 50, 3)] * FRAMES
CAUSES: dict[str, tuple[Any, Any, str]] = {
    "sizes": (
        _truth(),
        _results((20, 30)),
        "6 results of 3 videos are 20 x 30, the videos 40 x 60: they cannot overlap",
    ),
    "sizes of the truth": (
        _truth((20, 30)),
        _results(),
        "6 tracks of the annotations in 3 videos are 20 x 30, the videos 40 x 60",
    ),
    "one below": (
        _truth(),
        _shift(-1),
        "6 results overlap an object by 0.5, but 6 of them are of another category: "
        "each category_id is 1 below",
    ),
    "swapped": (
        _truth(),
        [row | dict(category_id=6 - row["category_id"]) for row in _results()],
        "of another category, e.g. 3 of 4 on objects of 2",
    ),
    "another set": (
        _truth(),
        [_cut(row, lambda x: [None] * 7) for row in _results()],
        "6 of 6 results in 3 videos have another number of frames, e.g. 7 where the "
        "video has 5: of another set?",
    ),
    "one frame": (
        _truth(),
        [_cut(row, lambda x: [x[0], *[None] * 4]) for row in _results()],
        "6 of 6 results show one frame alone",
    ),
    "equal scores": (
        _truth(),
        [
            row | dict(score=1.0, **more)
            for row in _results()
            for more in [dict(segmentations=NOWHERE)] * 60 + [{}]
        ],
        "all 366 results have the score 1: AP needs them ranked",
    ),
    "nothing found": (
        _truth(),
        _all(segmentations=NOWHERE),
        "no usual cause: 0 of 6 results overlap one of the 6 objects by 0.5",
    ),
}


def _write(folder, truth, results):
    paths = folder / "truth.json", folder / "results.json"
    for path, content in zip(paths, (truth, results), strict=True):
        path.write_text(json.dumps(content))
    return paths


@pytest.mark.parametrize("name", CAUSES)
def test_each_cause_of_a_zero_is_named_with_its_figures(name, tmp_path, capsys):
    truth, results, text = CAUSES[name]
    paths = _write(tmp_path, truth, results)
    scores = score.score_files(*paths)
    assert scores.official["AP"] < 0.02
    assert text in scores.reason
    others = [other for _, _, other in CAUSES.values() if other != text]
    assert not [other for other in others if other in scores.reason]
    assert score.as_json(scores)["reason"] == scores.reason
    main.main(["score", *map(str, paths)])
    assert (
        f"AP is about 0: {scores.reason.partition(': ')[2]}" in capsys.readouterr().out
    )
    assert score.score_files(*paths, workers=2).reason == scores.reason


def test_a_good_score_has_no_reason(tmp_path):
    scores = score.score_files(*_write(tmp_path, _truth(), _results()))
    assert scores.official["AP"] > 0.9
    assert scores.reason == ""
    # Nor has a middling one of which half is at fault.
    half = [*_results((20, 30))[:3], *_results()[3:]]
    scores = score.score_files(*_write(tmp_path, _truth(), half))
    assert 0.2 < scores.official["AP"] < 0.9
    assert scores.reason == ""


@pytest.mark.parametrize("annotations", [None, [], "absent"])
def test_a_set_without_annotations_is_not_scored(annotations, tmp_path):
    truth = _truth() | dict(annotations=annotations)
    if annotations == "absent":
        del truth["annotations"]
    with pytest.raises(InputError, match="has no annotations: nothing to score; `stan"):
        score.score_files(*_write(tmp_path, truth, _results()))


def test_a_video_without_names_of_frames_is_asked_all_the_same(tmp_path):
    truth = _truth()
    truth["videos"][0]["file_names"] = None
    wrong = [row | {"category_id": 99} for row in _results()]
    assert score.score_files(*_write(tmp_path, truth, wrong)).reason
