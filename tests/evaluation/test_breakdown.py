import json
import re

import pytest
from planted import (
    HW,
    PLANTED,
    background,
    broken_down,
    duplicate,
    lingering,
    mask,
    planted,
    switch,
    wrong_class,
)

from stan_jax.commands import main
from stan_jax.errors import InputError
from stan_jax.metrics import error_kinds


def test_perfect_results_lose_nothing(tmp_path):
    got = broken_down(tmp_path, *planted())
    assert got.ap == pytest.approx(1)
    assert got.errors == []
    assert got.gains == dict.fromkeys(error_kinds.KINDS, 0.0)


def test_errors_of_every_kind_are_planted():
    assert {kind for kind, _, _ in PLANTED} == set(error_kinds.KINDS)


@pytest.mark.parametrize(("kind", "plant", "number"), PLANTED)
def test_planted_errors_of_one_kind_take_all_of_the_loss(tmp_path, kind, plant, number):
    root, found = planted()
    plant(found)
    got = broken_down(tmp_path, root, found)
    assert got.ap < 0.999
    assert {error.kind for error in got.errors} == {kind}
    assert len(got.errors) == number
    assert got.ap + got.gains.pop(kind) == pytest.approx(1)
    assert set(got.gains.values()) == {0.0}
    losing = [c for c, gains in got.by_category.items() if gains[kind] > 0]
    assert losing
    for gains in got.by_category.values():
        assert all(gain == 0 for name, gain in gains.items() if name != kind)


def test_masks_where_the_object_is_gone_are_loose(tmp_path):
    root, found = planted()
    lingering(found)
    root["annotations"][1]["segmentations"][5:] = [None] * 4
    got = broken_down(tmp_path, root, found)
    assert [error.kind for error in got.errors] == ["loose"]
    assert got.ap + got.gains["loose"] == pytest.approx(1)


def test_kinds_are_corrected_one_at_a_time(tmp_path):
    root, found = planted()
    wrong_class(found)
    background(found)
    got = broken_down(tmp_path, root, found)
    assert {error.kind for error in got.errors} == {"class", "background"}
    alone = []
    for plant in (wrong_class, background):
        root, found = planted()
        plant(found)
        alone.append(broken_down(tmp_path, root, found).ap)
    # Mending one leaves the other, which then costs what it costs alone.
    assert got.ap + got.gains["class"] == pytest.approx(alone[1])
    assert got.ap + got.gains["background"] == pytest.approx(alone[0])


def test_errors_say_which_track_of_which_video(tmp_path):
    root, found = planted()
    background(found)
    del found[4]
    first, second = broken_down(tmp_path, root, found).errors
    assert first[:5] == ("background", 1, 11, None, 1)
    assert first.frames == (0, 8)
    assert second[:5] == ("missed", 2, -1, 5, 2)


def test_crowds_are_neither_missed_nor_wrong(tmp_path):
    root, found = planted()
    root["annotations"][4]["iscrowd"] = 1
    assert broken_down(tmp_path, root, found).errors == []
    del found[4]
    assert broken_down(tmp_path, root, found).errors == []


def test_two_tracks_that_change_places_are_switches_and_nothing_is_missed(tmp_path):
    root, found = planted()
    for row in root["annotations"]:
        row["category_id"] = 1
    for row in found:
        row["category_id"] = 1
    switch(found)  # in the middle of the same class
    one, two = found[0]["segmentations"], found[1]["segmentations"]
    found[0]["segmentations"] = [*one[:4], None, *one[5:]]  # half and half
    found[1]["segmentations"] = [*two[:4], None, *two[5:]]
    for i in (0, 1):
        masks = root["annotations"][i]["segmentations"]
        root["annotations"][i]["segmentations"] = [*masks[:4], None, *masks[5:]]
    got = broken_down(tmp_path, root, found)
    assert [error.kind for error in got.errors] == ["switch", "switch"]
    assert {error.true_id for error in got.errors} == {1, 2}
    assert got.ap + got.gains["switch"] == pytest.approx(1)


def test_a_crowd_takes_no_track_from_an_object(tmp_path):
    root, found = planted()
    # A crowd that fits the track even better than its object does.
    found[0]["segmentations"] = [mask(t, 5, 8) for t in range(9)]
    crowd = {**root["annotations"][0], "id": 99, "iscrowd": 1}
    crowd["segmentations"] = [*found[0]["segmentations"]]
    root["annotations"].append(crowd)
    (error,) = broken_down(tmp_path, root, found).errors
    assert (error.kind, error.true_id) == ("loose", 1)


@pytest.mark.parametrize("change", ["longer", "shorter"])
def test_frames_beyond_the_shorter_track_count_for_nothing(tmp_path, change):
    root, found = planted()
    if change == "longer":
        found[0]["segmentations"] += [mask(1, 1)] * 3
    else:
        found[0]["segmentations"] = found[0]["segmentations"][:5]
    got = broken_down(tmp_path, root, found)
    assert got.ap == pytest.approx(1)
    assert got.errors == []


def test_videos_without_objects_hold_background_only(tmp_path):
    root, found = planted()
    root["annotations"] = root["annotations"][3:]
    assert {e.kind for e in broken_down(tmp_path, root, found).errors} == {"background"}


def test_workers_give_the_same(tmp_path):
    root, found = planted()
    switch(found)
    duplicate(found)
    one, two = (broken_down(tmp_path, root, found, workers=n) for n in (1, 2))
    assert one == two


def test_masks_that_never_compare_are_refused(tmp_path):
    root, found = planted()
    found[0]["segmentations"][2] = {"size": [*HW], "counts": "34"}
    with pytest.raises(InputError, match=r"results\[0\], frame 2: counts must add up"):
        broken_down(tmp_path, root, found)


def test_command_prints_what_each_kind_costs(tmp_path, capsys):
    root, found = planted()
    wrong_class(found)
    got = broken_down(tmp_path, root, found)
    files = [str(tmp_path / f"{name}.json") for name in ("instances", "results")]
    main.main(["score", *files, "--errors", "--json", str(tmp_path / "s.json")])
    printed = capsys.readouterr().out
    assert f"class {got.gains['class']:+.3f}      1 tracks" in printed
    line = (
        "video 1, frames 0-8: results[1], class 3, score 0.89; annotation 2 (class 2)"
    )
    assert line in printed
    (row,) = [x for x in printed.splitlines() if re.match(r"class 2 +[-+]0", x)]
    figures = [f"{got.by_category[2][kind]:+.3f}" for kind in error_kinds.KINDS]
    assert row.split()[2:] == figures
    written = json.loads((tmp_path / "s.json").read_text())["errors"]
    assert written["gains"] == got.gains
