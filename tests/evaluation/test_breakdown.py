import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from stan_jax.commands import main
from stan_jax.errors import InputError
from stan_jax.evaluation import breakdown, page, results

HW, FRAMES = (40, 60), 9


def mask(x, y, size=10):
    bitmap = np.zeros(HW, bool)
    bitmap[y : y + size, x : x + size] = True
    return results.rle(bitmap)


def planted():
    """Four videos with three objects each, all found as they are."""
    videos, rows, found = [], [], []
    for v in range(1, 5):
        size = {"height": HW[0], "width": HW[1]}
        names = [f"{v}/{t}.jpg" for t in range(FRAMES)]
        videos.append({"id": v, "file_names": names, **size})
        for k in range(3):
            masks = [mask(18 * k + t, 5 + 6 * k) for t in range(FRAMES)]
            row = {"video_id": v, "category_id": k + 1, "segmentations": masks}
            rows.append({"id": len(rows) + 1, "iscrowd": 0, "areas": [100] * FRAMES})
            rows[-1] |= row
            found.append({**row, "score": 0.9 - 0.01 * len(found)})
    names = [{"id": k, "name": f"class {k}"} for k in (1, 2, 3)]
    return {"videos": videos, "categories": names, "annotations": rows}, found


def wrong_class(found):
    found[1]["category_id"] = 3


def loose(found):
    for i in (1, 7):
        found[i]["segmentations"] = [mask(18 + t, 11, 17) for t in range(FRAMES)]


def duplicate(found):
    found.append({**found[0], "score": 0.95})
    found.append({**found[4], "score": 0.2})


def background(found):
    far = [mask(2 + t, 29) for t in range(FRAMES)]
    found.append({**found[0], "segmentations": far, "score": 0.95})


def missed(found):
    del found[1], found[7]


def switch(found):
    # Objects 0 and 1 of the first video change places half way.
    one, two = found[0]["segmentations"], found[1]["segmentations"]
    found[0]["segmentations"] = one[:4] + two[4:]
    found[1]["segmentations"] = two[:4] + one[4:]


def fragment(found):
    whole, nothing = found[1]["segmentations"], [None] * 3
    pieces = [
        nothing * k + whole[3 * k : 3 * k + 3] + nothing * (2 - k) for k in range(3)
    ]
    found[1]["segmentations"] = pieces[0]
    found += [{**found[1], "segmentations": piece} for piece in pieces[1:]]


PLANTED = {
    "class": (wrong_class, 1),
    "loose": (loose, 2),
    "duplicate": (duplicate, 2),
    "background": (background, 1),
    "missed": (missed, 2),
    "switch": (switch, 2),
    "fragment": (fragment, 3),
}


def judged(tmp_path, root, found, **options):
    paths = tmp_path / "instances.json", tmp_path / "results.json"
    for path, value in zip(paths, (root, found), strict=True):
        path.write_text(json.dumps(value))
    return breakdown.evaluate_files(*paths, **options)


def test_perfect_results_lose_nothing(tmp_path):
    got = judged(tmp_path, *planted())
    assert got.ap == pytest.approx(1)
    assert got.errors == []
    assert got.gains == dict.fromkeys(breakdown.KINDS, 0.0)


@pytest.mark.parametrize("kind", breakdown.KINDS)
def test_planted_errors_of_one_kind_take_all_of_the_loss(tmp_path, kind):
    root, found = planted()
    plant, number = PLANTED[kind]
    plant(found)
    got = judged(tmp_path, root, found)
    assert got.ap < 0.999
    assert {error.kind for error in got.errors} == {kind}
    assert len(got.errors) == number
    assert got.ap + got.gains.pop(kind) == pytest.approx(1)
    assert set(got.gains.values()) == {0.0}
    losing = [c for c, gains in got.by_category.items() if gains[kind] > 0]
    assert losing
    for gains in got.by_category.values():
        assert all(gain == 0 for name, gain in gains.items() if name != kind)


def test_errors_say_which_track_of_which_video(tmp_path):
    root, found = planted()
    background(found)
    del found[4]
    first, second = judged(tmp_path, root, found).errors
    assert first[:5] == ("background", 1, 11, None, 1)
    assert first.frames == (0, 8)
    assert second[:5] == ("missed", 2, -1, 5, 2)


def test_crowds_are_neither_missed_nor_wrong(tmp_path):
    root, found = planted()
    root["annotations"][4]["iscrowd"] = 1
    assert judged(tmp_path, root, found).errors == []
    del found[4]
    assert judged(tmp_path, root, found).errors == []


def test_videos_without_objects_hold_background_only(tmp_path):
    root, found = planted()
    root["annotations"] = root["annotations"][3:]
    assert {e.kind for e in judged(tmp_path, root, found).errors} == {"background"}


def test_workers_give_the_same(tmp_path):
    root, found = planted()
    switch(found)
    duplicate(found)
    one, two = (judged(tmp_path, root, found, workers=n) for n in (1, 2))
    assert one == two


def test_masks_that_never_compare_are_refused(tmp_path):
    root, found = planted()
    found[0]["segmentations"][2] = {"size": [*HW], "counts": "34"}
    with pytest.raises(InputError, match=r"results\[0\], frame 2: counts must add up"):
        judged(tmp_path, root, found)


def test_command_prints_what_each_kind_costs(tmp_path, capsys):
    root, found = planted()
    wrong_class(found)
    got = judged(tmp_path, root, found)
    files = [str(tmp_path / f"{name}.json") for name in ("instances", "results")]
    main.main(["score", *files, "--errors", "--json", str(tmp_path / "s.json")])
    printed = capsys.readouterr().out
    assert f"class {got.gains['class']:+.3f}      1 tracks" in printed
    assert "video 1, frames 0-8: results[1], score 0.89, class 3" in printed
    written = json.loads((tmp_path / "s.json").read_text())["errors"]
    assert written["gains"] == got.gains


def test_page_needs_nothing_beside_it_and_shows_the_worst_tracks(tmp_path, capsys):
    root, found = planted()
    root["categories"][2]["name"] = "<b>&\u00e9"
    wrong_class(found)
    background(found)
    judged(tmp_path, root, found)
    for video in root["videos"]:
        for name in video["file_names"]:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            Image.new("RGB", HW[::-1], (90, 90, 90)).save(tmp_path / name)
    files = [str(tmp_path / f"{name}.json") for name in ("instances", "results")]
    report = tmp_path / "report.html"
    command = ["score", *files, "--report", str(report)]
    main.main([*command, "--frames", str(tmp_path)])
    assert f"page: {report}" in capsys.readouterr().out
    text = report.read_text(encoding="utf-8")
    assert "<b>&\u00e9" not in text
    assert "&lt;b&gt;&amp;\u00e9" in text
    assert text.count("<img") == 2 * page.PICTURES
    # Nothing is fetched: every source is in the page.
    sources = re.findall(r"(?:src|href|url)\s*[=(]\s*['\"]?([^'\")\s>]+)", text)
    assert len(sources) == 2 * page.PICTURES
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert "http" not in text
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(sources[0][23:]))))
    assert pixels.reshape(-1, 3).std(0).max() > 5  # something is drawn
    main.main(command)
    assert "<img" not in report.read_text(encoding="utf-8")
    (tmp_path / "1" / "0.jpg").unlink()
    with pytest.raises(SystemExit, match=r"1/0\.jpg: must be a whole image"):
        main.main([*command, "--frames", str(tmp_path)])
