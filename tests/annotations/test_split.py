import json
import random

import numpy as np
import pytest

from stan_jax.annotations import split, youtube_vis
from stan_jax.commands import main


def many(rng, videos=200, classes=30):
    """Videos with one to four classes, some classes much rarer than others."""
    weight = 1 / np.arange(1, classes + 1)
    weight /= weight.sum()
    found = {}
    for v in range(videos):
        size = int(rng.integers(1, 5))
        chosen = rng.choice(classes, size, replace=False, p=weight)
        found[int(3 * v + 1)] = {int(c) for c in chosen}
    return found


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("shares", [[0.8, 0.2], [0.5, 0.5], [0.9, 0.1]])
def test_every_category_of_two_videos_stands_on_both_sides(seed, shares):
    categories = many(np.random.default_rng(seed))
    dealt = split.parts(categories, shares, seed)
    assert dealt.keys() == categories.keys()
    sides = [
        [c for v, p in dealt.items() if p == part for c in categories[v]]
        for part in (0, 1)
    ]
    for c in {c for found in categories.values() for c in found}:
        number = sides[0].count(c), sides[1].count(c)
        if sum(number) >= 2:
            assert all(number), (c, number)
        if sum(number) >= 40:  # as many as it should be, more or less
            assert number[1] == pytest.approx(shares[1] * sum(number), abs=7)
    second = sum(part == 1 for part in dealt.values())
    assert second == pytest.approx(shares[1] * len(dealt), abs=14)


def test_split_does_not_depend_on_the_order_of_the_file():
    categories = many(np.random.default_rng(0))
    rows = list(categories.items())
    random.Random(1).shuffle(rows)
    assert split.parts(dict(rows), [0.7, 0.3]) == split.parts(categories, [0.7, 0.3])
    assert split.parts(categories, [0.7, 0.3], 1) != split.parts(categories, [0.7, 0.3])


def test_split_is_the_same_on_every_machine():
    # Written down once: a change here changes the splits that people published.
    dealt = split.parts({v: {v % 3} for v in range(1, 13)}, [0.75, 0.25], seed=0)
    assert sorted(v for v, part in dealt.items() if part) == EXPECTED


EXPECTED = [1, 6, 11]


def official(categories, rng):
    videos, rows = [], []
    for v, found in categories.items():
        size = {"height": 4, "width": 5, "length": 1}
        videos.append({"id": v, "file_names": [f"{v}/0.jpg"], **size})
        for c in sorted(found):
            mask = [{"size": [4, 5], "counts": [3, 5, 12]}]
            rows.append({"id": len(rows) + 1, "video_id": v, "category_id": c})
            rows[-1] |= {"segmentations": mask, "areas": [5], "iscrowd": 0}
    rng.shuffle(videos)
    names = [{"id": c, "name": f"class {c}"} for c in range(30)]
    info = {"info": {"year": 2019, "text": "née"}}
    return {**info, "videos": videos, "categories": names, "annotations": rows}


def test_command_writes_official_files_that_share_no_video(tmp_path, capsys):
    root = official(many(np.random.default_rng(2), 60), random.Random(0))
    source = tmp_path / "instances.json"
    source.write_text(json.dumps(root))
    main.main(["split", str(source), str(tmp_path / "out"), "--val=0.3"])
    assert " videos (" in capsys.readouterr().out
    halves = [json.loads((tmp_path / f"out/{n}.json").read_text()) for n in SIDES]
    ids = [[video["id"] for video in half["videos"]] for half in halves]
    assert sorted(ids[0] + ids[1]) == sorted(video["id"] for video in root["videos"])
    for half, mine in zip(halves, ids, strict=True):
        # In the order of the file, every entry as it was, counts as lists.
        assert half["videos"] == [v for v in root["videos"] if v["id"] in mine]
        rows = [r for r in root["annotations"] if r["video_id"] in mine]
        assert half["annotations"] == rows
        assert half["categories"] == root["categories"]
        assert half["info"] == root["info"]
    assert youtube_vis.load(tmp_path / "out/val.json", ".").annotated


SIDES = "train", "val"


def test_folds_hold_every_video_for_validation_once(tmp_path):
    root = official(many(np.random.default_rng(3), 50), random.Random(0))
    source = tmp_path / "instances.json"
    source.write_text(json.dumps(root))
    main.main(["split", str(source), str(tmp_path), "--folds=4"])
    seen = []
    for fold in range(4):
        train, val = (
            {v["id"] for v in json.loads(path.read_text())["videos"]}
            for path in (tmp_path / f"{side}_{fold}.json" for side in SIDES)
        )
        assert not train & val
        assert len(train | val) == 50
        seen += val
    assert len(seen) == len(set(seen)) == 50


@pytest.mark.parametrize(
    ("option", "rule"),
    [
        ("--val=0", "must lie between 0 and 1"),
        ("--val=nan", "must lie between 0 and 1"),
        ("--folds=1", "must be at least 2"),
        ("--folds=9", "must have at least 9 videos, has 3"),
    ],
)
def test_splits_that_cannot_be_are_refused(tmp_path, option, rule):
    root = official({1: {0}, 2: {0}, 3: set()}, random.Random(0))
    (tmp_path / "i.json").write_text(json.dumps(root))
    with pytest.raises(SystemExit, match=rule):
        main.main(["split", str(tmp_path / "i.json"), str(tmp_path), option])


def test_files_with_errors_or_of_other_formats_are_refused(tmp_path, shared_data):
    root = official({1: {0}, 2: {0}, 3: set()}, random.Random(0))
    root["annotations"][1]["category_id"] = 99
    source = tmp_path / "i.json"
    source.write_text(json.dumps(root))
    with pytest.raises(SystemExit, match="annotation 2: category_id 99 is not among"):
        main.main(["split", str(source), str(tmp_path / "out")])
    sample = shared_data / "format_samples/mmtracking_vis_ann.json"
    with pytest.raises(SystemExit, match="is CocoVID: `stan convert` it first"):
        main.main(["split", str(sample), str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_no_half_of_a_split(tmp_path, monkeypatch):
    root = official(many(np.random.default_rng(4), 20), random.Random(0))
    source = tmp_path / "i.json"
    source.write_text(json.dumps(root))

    def full(file, key, i, value):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(split._Object, "add", full)
    with pytest.raises(SystemExit, match="No space left on device"):
        main.main(["split", str(source), str(tmp_path / "out")])
    assert list((tmp_path / "out").iterdir()) == []


def test_source_is_never_written_over(tmp_path):
    root = official({1: {0}, 2: {0}, 3: {1}}, random.Random(0))
    source = tmp_path / "train.json"
    source.write_text(json.dumps(root))
    with pytest.raises(SystemExit, match="must not be written over its own source"):
        main.main(["split", str(source), str(tmp_path)])
    assert json.loads(source.read_text()) == root


@pytest.mark.parametrize("share", ["0.01", "0.99"])
def test_no_side_is_empty(tmp_path, share):
    root = official({v: set() for v in range(1, 6)}, random.Random(0))
    del root["annotations"]
    source = tmp_path / "i.json"
    source.write_text(json.dumps(root))
    main.main(["split", str(source), str(tmp_path / "out"), f"--val={share}"])
    sizes = [
        len(json.loads((tmp_path / f"out/{n}.json").read_text())["videos"])
        for n in SIDES
    ]
    assert sorted(sizes) == [1, 4]


@pytest.mark.parametrize("lines", ["v1\n\n25\n", "15\nv3/\n"])
def test_videos_are_split_by_a_list_of_folders_or_ids(make_folder, tmp_path, lines):
    folder = make_folder(videos=((24, 40, 2),) * 4)
    names = tmp_path / "val.txt"
    names.write_text(lines)
    out = tmp_path / "sides"
    main.main(["split", str(folder.path), str(out), "--videos", str(names)])
    sides = {
        side: [
            v["id"] for v in json.loads((out / f"{side}.json").read_text())["videos"]
        ]
        for side in ("train", "val")
    }
    assert sides == {"val": [15, 25], "train": [10, 20]}


@pytest.mark.parametrize(
    ("lines", "rule"),
    [
        ("v9", r"line 1: 'v9' must be one video of .*, is 0"),
        ("", "must name a video in each line, names none"),
        ("v0\nv1", "must name some of the 2 videos, names all"),
        (None, "must be a readable text"),
    ],
)
def test_a_list_that_names_no_split_is_refused(make_folder, tmp_path, lines, rule):
    folder, names = make_folder(), tmp_path / "val.txt"
    if lines is not None:
        names.write_text(lines)
    with pytest.raises(SystemExit, match=rule):
        main.main(["split", str(folder.path), str(tmp_path), "--videos", str(names)])
