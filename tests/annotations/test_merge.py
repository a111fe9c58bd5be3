import json

import pytest

from stan_jax.annotations import check, merge, youtube_vis
from stan_jax.commands import main
from stan_jax.errors import InputError


@pytest.fixture
def two(make_folder):
    """Two sets whose frames have the same names; the second has another order."""
    first, second = make_folder(), make_folder(name="other")
    second.content["categories"] = [{"id": 7, "name": "cow"}, {"id": 3, "name": "cat"}]
    second.write()
    return first, second


def _names(dataset):
    return [
        dataset.categories[track.label].name
        for video in dataset.videos
        for track in video.tracks
    ]


def test_two_files_become_one_with_classes_by_name(two, tmp_path, capsys):
    first, second = two
    folders = ",".join(str(f.frames.relative_to(tmp_path)) for f in two)
    out = tmp_path / "all.json"
    line = ["merge", str(first.path), str(second.path), str(out), "--folders", folders]
    main.main(line)
    assert "2 files, 4 videos, 3 categories, 4 annotations" in capsys.readouterr().out
    whole = youtube_vis.load(out, tmp_path)
    youtube_vis.check_frames(whole)
    sides = [youtube_vis.load(f.path, f.frames) for f in two]
    assert _names(whole) == [name for side in sides for name in _names(side)]
    masks = [t.segmentations for side in sides for v in side.videos for t in v.tracks]
    assert [t.segmentations for v in whole.videos for t in v.tracks] == masks
    assert [v.id for v in whole.videos] == [1, 2, 3, 4]


def test_frames_of_the_same_name_are_not_mixed_up(two, tmp_path):
    paths = [str(f.path) for f in two]
    out = tmp_path / "all.json"
    with pytest.raises(
        SystemExit, match="has frames that a video of .*; --folders puts"
    ):
        main.main(["merge", *paths, str(out)])
    assert not out.exists()
    with pytest.raises(InputError, match="one for each of 2 files, are 1"):
        merge.merge(paths, ["a"])


def test_one_file_is_numbered_anew(make_folder, tmp_path):
    folder = make_folder()
    for row in folder.content["annotations"]:
        row["id"] = 1
    folder.write()
    out = tmp_path / "out.json"
    main.main(["merge", str(folder.path), str(out)])
    assert [row["id"] for row in json.loads(out.read_text())["annotations"]] == [1, 2]


@pytest.mark.parametrize(
    ("key", "change", "rule"),
    [
        ("annotations", {"video_id": 99}, "video_id 99 is not among the videos"),
        (
            "annotations",
            {"category_id": 99},
            "category_id 99 is not among the categories",
        ),
        ("videos", {"id": 15}, "video 15: its id must be used only once"),
    ],
)
def test_a_file_that_does_not_go_together_is_named(make_folder, key, change, rule):
    folder = make_folder()
    folder.content[key][0] |= change
    folder.write()
    with pytest.raises(InputError, match=rule):
        merge.merge([folder.path])


def test_a_fault_is_named_by_the_file_that_has_it(two, tmp_path):
    first, second = two
    second.content["annotations"][1]["areas"] = "none"
    second.write()
    rule = r"other.*instances\.json: annotation 101: areas must be a list, is a str"
    with pytest.raises(InputError, match=rule):
        merge.merge([first.path, second.path], ["a", "b"])


def test_videos_of_one_file_may_share_frames_as_check_allows(make_folder, tmp_path):
    folder = make_folder()
    one, two = folder.content["videos"][:2]
    folder.content["annotations"] = []
    two |= {k: one[k] for k in ("file_names", "height", "width", "length") if k in one}
    folder.write()
    check.require(folder.path)
    assert len(merge.merge([folder.path])["videos"]) == len(folder.content["videos"])
