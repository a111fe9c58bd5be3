"""`stan track`: a video goes in; overlay, lines and page come out."""

import json
import os
import re
import shutil
import signal
import sys
import time
import types
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import tiny_workdir
from PIL import Image

from stan_jax import load
from stan_jax.commands import main
from stan_jax.errors import InputError
from stan_jax.masks import codec
from stan_jax.results.frame_lines import read_lines
from stan_jax.training import mesh
from stan_jax.video.draw import PARTS
from stan_jax.video.recording import ALSO
from tests import clips, runs

FILES = ["index.html", "overlay.mp4", "tracks.jsonl"]


@pytest.fixture(autouse=True)
def configured(monkeypatch):
    """JAX is set up already, which a process does once."""
    monkeypatch.setattr(mesh, "configure", lambda **_: None)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_workdir.save(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return clips.write(tmp_path_factory.mktemp("clip") / "street.mp4", sound="aac")


def track(model, out, *inputs, options=()):
    """Run the command; return the lines of the only video."""
    line = [*inputs, "--model", model, "--out", out, *options]
    main.main(["track", *map(str, line)])
    return list(read_lines(out / "tracks.jsonl")) if len(inputs) == 1 else None


def video(path):
    """Times and pictures of an mp4, and its streams by kind."""
    with av.open(str(path)) as container:
        kinds = {stream.type: stream.codec_context.name for stream in container.streams}
        rate = container.streams.video[0].average_rate
        frames = [
            (f.time, f.to_ndarray(format="rgb24")) for f in container.decode(video=0)
        ]
    return [t for t, _ in frames], [x for _, x in frames], kinds, rate


def test_a_video_becomes_overlay_lines_and_page(model, clip, tmp_path, capsys):
    lines = track(model, tmp_path / "deep" / "out", clip)
    assert sorted(os.listdir(tmp_path / "deep" / "out")) == FILES
    assert [line["frame"] for line in lines] == list(range(12))
    np.testing.assert_allclose([x["seconds"] for x in lines], np.arange(12) / 10)
    assert sum(len(line["tracks"]) for line in lines) > 20
    for track_ in lines[5]["tracks"]:
        assert track_["class"] == tiny_workdir.NAMES[track_["class_id"] - 1]
        assert track_["segmentation"]["size"] == lines[5]["size"] == [96, 160]
        assert codec.decode(track_["segmentation"]).shape == (96, 160)
        assert 0.3 < track_["score"] <= 1
        assert len(track_["box"]) == 4
    times, pictures, kinds, rate = video(tmp_path / "deep" / "out" / "overlay.mp4")
    assert kinds == {"video": "h264", "audio": "aac"}
    assert rate == 10
    np.testing.assert_allclose(times, np.arange(12) / 10, atol=1e-6)
    assert pictures[0].shape == (384, 640, 3)  # enlarged, to be read
    printed = capsys.readouterr().out
    for text in ("step 20, 3 classes, canvas 64 x 96", "cpu", "compiling", "overlay"):
        assert text in printed
    assert "12 frames" in printed


def test_file_iterator_and_frame_by_frame_agree(model, clip, tmp_path):
    lines = track(model, tmp_path, clip, options=["--score", "0.05"])
    tracker = load(model, score_threshold=0.05)
    from_file = list(tracker.track(clip))
    with av.open(str(clip)) as container:
        images = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    from_images = list(tracker.track(iter(images)))
    state, steps = tracker.start((96, 160)), []
    for image in images:
        state, tracks = tracker.step(state, image)
        steps.append(tracks)
    for line, *sides in zip(lines, from_file, from_images, steps, strict=True):
        for tracks in sides:
            assert tracks.ids.tolist() == [x["id"] for x in line["tracks"]]
            assert tracks.classes == [x["class"] for x in line["tracks"]]
        assert [x["segmentation"] for x in line["tracks"]] == list(
            from_file[line["frame"]].segmentations
        )
    assert [tracks.seconds for tracks in from_file] == [x["seconds"] for x in lines]
    assert from_images[3].seconds is None


@pytest.fixture(scope="module")
def exported(model):
    path = model / "tracker.onnx"
    words = f"export --model {model} --format onnx --score 0.05 --out {path}"
    main.main(words.split())
    return path


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_an_exported_file_tracks_as_its_model(
    model, exported, clip, tmp_path, capsys, runtime
):
    which = ["--score", "0.05"]
    wanted = track(model, tmp_path / "model", clip, options=which)
    exported = shutil.copy(exported, tmp_path / "Tracker.ONNX")  # as others name it
    capsys.readouterr()
    which += ["--runtime", runtime]
    found = track(exported, tmp_path / "file", clip, options=which)
    printed = capsys.readouterr().out
    assert f"{exported}, exported, 3 classes, canvas 64 x 96" in printed
    assert f"cpu ({runtime})" in printed
    assert "compiling ..." not in printed
    assert len(wanted) == len(found) == 12
    for row, other in zip(wanted, found, strict=True):
        for name in ("id", "class"):
            ours = [x[name] for x in row["tracks"]]
            assert ours == [x[name] for x in other["tracks"]]
        ours, theirs = ([x["box"] for x in r["tracks"]] for r in (row, other))
        np.testing.assert_allclose(ours, theirs, atol=0.02)


def test_of_an_exported_file_options_choose_what_is_shown(
    exported, clip, tmp_path, capsys
):
    def rows(name, *options):
        lines = track(exported, tmp_path / name, clip, options=options)
        return [[x["id"] for x in line["tracks"]] for line in lines], lines

    plain, lines = rows("plain", "--score", "0.05")
    assert "shown" not in capsys.readouterr().out
    high, _ = rows("high", "--score", "0.9")
    assert "shown   from a score of 0.9, tracked from 0.05" in capsys.readouterr().out
    above = [[x["id"] for x in r["tracks"] if x["score"] >= 0.9] for r in lines]
    assert high == above != plain
    few, _ = rows("few", "--score", "0.05", "--max-objects", "2")
    assert few == [row[:2] for row in plain]
    one = lines[0]["tracks"][0]["class"]
    of_one, _ = rows("one", "--score", "0.05", "--classes", one)
    assert of_one == [
        [x["id"] for x in r["tracks"] if x["class"] == one] for r in lines
    ]
    assert of_one != plain


def test_options_that_an_exported_file_cannot_follow_are_one_line(
    model, exported, clip, tmp_path
):
    kind = "files of stan export --format onnx"
    for given, options, text in (
        (model, ["--runtime", "openvino"], f"--runtime: is for {kind}"),
        (exported, ["--runtime", "jax"], f"--runtime: cannot be jax for {kind}"),
        (exported, ["--device", "cuda"], "--device: of onnxruntime is cpu, is cuda"),
        (exported, ["--classes", "yak"], "--classes: the model knows no yak"),
        (
            exported,
            ["--class-agnostic-nms"],
            "--class-agnostic-nms: is fixed when a tracker is exported; "
            "stan export --class-agnostic-nms",
        ),
    ):
        with pytest.raises(SystemExit) as left:
            track(given, tmp_path, clip, options=options)
        assert str(left.value.code).startswith(f"error: {text}")


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("ntsc.mp4", {"rate": Fraction(30_000, 1001)}),
        ("variable.mp4", {"times": [0, 0.033, 0.1, 0.2, 0.7, 0.75, 1.5, 3.0]}),
        ("film.mp4", {"rate": Fraction(24_000, 1001), "count": 48}),
        ("late.ts", {"times": [5 + t / 25 for t in range(12)]}),
        ("odd.mkv", {"codec": "ffv1", "pixels": "bgr0", "hw": (431, 397)}),
        ("turned.mp4", {"turn": 90}),
        ("one.mp4", {"count": 1}),
        ("tiny.mkv", {"codec": "ffv1", "pixels": "bgr0", "hw": (1, 3)}),
    ],
)
def test_frames_and_times_out_are_those_in(model, tmp_path, name, how):
    how = dict(how)
    if "times" in how:
        how["count"] = len(how["times"])
    path = clips.write(tmp_path / name, **how)
    track(model, tmp_path / "out", path)
    with av.open(str(path)) as container:
        stamps = [frame.time for frame in container.decode(video=0)]
        want = container.streams.video[0].average_rate
    times, _, _, rate = video(tmp_path / "out" / "overlay.mp4")
    np.testing.assert_allclose(times, np.array(stamps) - stamps[0], atol=1e-4)
    if "times" not in how:
        assert rate == want
    with av.open(str(tmp_path / "out" / "overlay.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.height % 2 == stream.width % 2 == 0
        assert stream.codec_context.colorspace == 1  # BT.709
    content = (tmp_path / "out" / "overlay.mp4").read_bytes()
    assert content.find(b"moov") < content.find(b"mdat")


def test_a_part_keeps_its_times_and_its_sound(model, clip, tmp_path):
    options = ["--start", "0.4", "--end", "1.05", "--every", "2"]
    lines = track(model, tmp_path, clip, options=options)
    assert [line["seconds"] for line in lines] == [0.4, 0.6, 0.8, 1.0]
    times, _, kinds, _ = video(tmp_path / "overlay.mp4")
    np.testing.assert_allclose(times, [0, 0.2, 0.4, 0.6], atol=1e-6)
    assert kinds["audio"] == "aac"


def test_names_with_colons_keep_the_sound(model, clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a: b²").mkdir()
    Path("a: b²/c: d.mp4").write_bytes(clip.read_bytes())
    track(model, Path("out: x"), Path("a: b²/c: d.mp4"))
    _, pictures, kinds, _ = video(tmp_path / "out: x" / "overlay.mp4")
    assert len(pictures) == 12
    assert kinds == {"video": "h264", "audio": "aac"}


def test_several_inputs_have_a_folder_and_ids_of_their_own(model, clip, tmp_path):
    for t in range(3):
        path = tmp_path / "street" / f"{t}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(clips.picture(t)).save(path)
    out = tmp_path / "out"
    track(model, out, clip, tmp_path / "street", clip)
    assert sorted(os.listdir(out)) == ["street", "street-2", "street-3"]
    lines = [list(read_lines(out / name / "tracks.jsonl")) for name in os.listdir(out)]
    assert sorted(map(len, lines)) == [3, 12, 12]
    assert len({tuple(x["id"] for x in some[0]["tracks"]) for some in lines}) == 1


def test_a_broken_input_among_several_is_told_and_the_others_are_done(
    model, clip, tmp_path, capsys
):
    (tmp_path / "broken.mp4").write_text("x" * 99)
    with pytest.raises(SystemExit) as left:
        track(model, tmp_path / "out", clip, tmp_path / "broken.mp4", clip)
    assert left.value.code == 1
    assert "broken.mp4: must be a video" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path / "out")) == ["street", "street-2"]


def test_nothing_found_still_leaves_every_file(model, clip, tmp_path):
    lines = track(model, tmp_path, clip, options=["--score", "0.99999999"])
    assert not any(line["tracks"] for line in lines)
    assert sorted(os.listdir(tmp_path)) == FILES
    assert len(video(tmp_path / "overlay.mp4")[0]) == 12


def test_older_output_is_kept_unless_told(model, clip, tmp_path):
    track(model, tmp_path, clip)
    before = (tmp_path / "overlay.mp4").read_bytes()
    with pytest.raises(SystemExit) as left:
        track(model, tmp_path, clip, options=["--max-frames", "2"])
    assert "name another --out, or --overwrite" in str(left.value.code)
    assert (tmp_path / "overlay.mp4").read_bytes() == before
    track(model, tmp_path, clip, options=["--max-frames", "2", "--overwrite"])
    assert len(video(tmp_path / "overlay.mp4")[0]) == 2


def test_what_an_earlier_run_left_besides_goes_with_it(model, clip, tmp_path):
    also = ["--also", "csv", "masks", "cutouts"]
    track(model, tmp_path, clip, options=also)
    (tmp_path / "mine.txt").write_text("notes")
    left = [*FILES, "cutouts", "masks", "mine.txt", "tracks.csv"]
    assert sorted(os.listdir(tmp_path)) == sorted(left)
    track(model, tmp_path, clip, options=["--overwrite", "--no-page"])
    assert sorted(os.listdir(tmp_path)) == ["mine.txt", "overlay.mp4", "tracks.jsonl"]


def test_files_of_others_and_the_input_itself_are_not_taken_for_an_earlier_run(
    model, clip, tmp_path
):
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks/0.png").write_text("mine")
    with pytest.raises(SystemExit, match="holds masks of an earlier run"):
        track(model, tmp_path, clip, options=["--also", "masks"])
    track(model, tmp_path, clip)
    assert (tmp_path / "masks/0.png").exists()
    with pytest.raises(SystemExit, match="0.png is what is read"):
        track(model, tmp_path, tmp_path / "masks/0.png", options=["--overwrite"])
    assert (tmp_path / "masks/0.png").read_text() == "mine"


def test_the_overlay_is_never_written_over_its_own_video(model, tmp_path):
    path = clips.write(tmp_path / "overlay.mp4")
    before = path.read_bytes()
    with pytest.raises(SystemExit) as left:
        track(model, tmp_path, path, options=["--overwrite"])
    assert "is what is read: name another --out" in str(left.value.code)
    assert path.read_bytes() == before


def _seen(lines):
    return [{x["id"] for x in line["tracks"]} for line in lines]


def test_which_objects_are_shown_can_be_chosen(model, clip, tmp_path):
    def count(name, *options):
        return track(model, tmp_path / name, clip, options=options)

    plain = count("plain", "--score", "0.05")
    classes = {x["class"] for line in plain for x in line["tracks"]}
    assert len(classes) > 1
    one = sorted(classes)[0]
    chosen = count("classes", "--score", "0.05", "--classes", one)
    assert {x["class"] for line in chosen for x in line["tracks"]} == {one}
    few = count("few", "--score", "0.05", "--max-objects", "2")
    assert max(len(line["tracks"]) for line in few) == 2
    most = max(len(line["tracks"]) for line in plain)
    agnostic = count("agnostic", "--score", "0.05", "--class-agnostic-nms")
    assert sum(map(len, _seen(agnostic))) < sum(map(len, _seen(plain)))
    assert most > 2
    lasting = count("lasting", "--score", "0.05", "--min-frames", "3")
    seen = {}
    for line, all_, kept in zip(plain, _seen(plain), _seen(lasting), strict=True):
        for number in all_:
            seen[number] = seen.get(number, 0) + 1
        assert kept == {n for n in all_ if seen[n] >= 3}, line["frame"]


def test_how_the_overlay_looks_can_be_chosen(model, clip, tmp_path):
    def look(*options):
        path = tmp_path / "-".join(options).replace("-", "_").replace(",", "")
        track(model, path, clip, options=["--no-page", *options])
        return video(path / "overlay.mp4")[1][8].astype(int)

    pictures = [
        look(*options)
        for options in (
            ["--trail", "0"],
            ["--trail", "0.5"],
            ["--color-by", "class", "--trail", "0"],
            ["--line-width", "9", "--trail", "0"],
            ["--hide", "labels", "--trail", "0"],
            ["--hide", "labels,boxes,masks", "--trail", "0"],
        )
    ]
    for i, a in enumerate(pictures):
        for b in pictures[:i]:
            assert (np.abs(a - b).max(axis=-1) > 40).mean() > 5e-4
    with av.open(str(clip)) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    plain = np.asarray(Image.fromarray(frames[8]).resize((640, 384), 3)).astype(int)
    assert np.abs(pictures[-1] - plain).mean() < 4  # nothing is drawn


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (["--classes", "horse"], "--classes: the model knows no horse, but cat, dog"),
        (["--hide", "everything"], "--hide: knows labels, scores, boxes, masks"),
        (["--score", "2"], r"--score: must lie in \[0, 1\), is 2.0"),
        (["--min-frames", "0"], "--min-frames: must be at least 1, is 0"),
        (["--max-objects", "0"], "--max-objects: must be at least 1, is 0"),
        (["--trail", "-1"], "--trail: must be seconds from 0 up"),
        (["--start", "3", "--end", "2"], "start and end: must lie in order"),
        (["--device", "tpu"], "device: JAX finds no tpu here"),
        (["--fps", "0"], "--fps: must be above 0"),
    ],
)
def test_a_wrong_option_is_one_line_before_anything_is_written(
    model, clip, tmp_path, options, rule
):
    if "--device" in options:  # which a process chooses once
        line = [sys.executable, "-m", "stan_jax.commands.main", "track", str(clip)]
        line += ["--model", str(model), "--out", str(tmp_path / "out"), *options]
        status, output = runs.finish(line)
        assert status == 1
    else:
        with pytest.raises(SystemExit) as left:
            track(model, tmp_path / "out", clip, options=options)
        output = str(left.value.code)
    assert re.search(rule, output)
    assert output.strip().count("\n") == 0
    assert not (tmp_path / "out").exists()


def test_a_disk_without_room_is_told_before_anything_is_compiled(
    model, clip, tmp_path, monkeypatch
):
    full = types.SimpleNamespace(free=5 << 20)
    monkeypatch.setattr("shutil.disk_usage", lambda _: full)
    with pytest.raises(SystemExit) as left:
        track(model, tmp_path / "out", clip)
    assert "has 5 MB left on its disk, needs at least 64" in str(left.value.code)


# ---- ends that nobody planned


def _start(model, source, out, *options):
    line = [sys.executable, "-m", "stan_jax.commands.main", "track", str(source)]
    line += ["--model", str(model), "--out", str(out), *options]
    return runs.start(line)


def _require_whole(out, least=0):
    """The files hold the same frames, and can be read."""
    lines = list(read_lines(out / "tracks.jsonl"))
    times, _, _, _ = video(out / "overlay.mp4")
    assert len(lines) >= least
    assert abs(len(lines) - len(times)) <= 0
    page = (out / "index.html").read_text()
    assert page.endswith("</html>\n")
    assert [name for name in os.listdir(out) if name.startswith(".")] == []
    return len(lines)


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    return clips.write(path, count=20_000, rate=Fraction(30))


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_leaves_whole_files_and_the_exit_status_of_it(
    model, long_clip, tmp_path, name
):
    process = _start(model, long_clip, tmp_path)
    while not (tmp_path / "tracks.jsonl").exists() or not os.path.getsize(
        tmp_path / "tracks.jsonl"
    ):
        time.sleep(0.05)
        assert process.poll() is None
    time.sleep(0.5)
    process.send_signal(getattr(signal, name))
    output, _ = process.communicate(timeout=60)
    number = 128 + getattr(signal, name)
    assert process.returncode == number, output
    assert f"stopped by {name}: exit status {number}" in output
    assert 0 < _require_whole(tmp_path) < 20_000


@pytest.mark.slow
def test_a_full_disk_leaves_what_fitted(model, long_clip, tmp_path):
    limit = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, "
    limit += "(1_000_000, 1_000_000)); os.execv(sys.argv[1], sys.argv[1:])"
    line = [sys.executable, "-c", limit, sys.executable, "-m"]
    line += ["stan_jax.commands.main", "track", str(long_clip)]
    line += ["--model", str(model), "--out", str(tmp_path)]
    status, output = runs.finish(line)
    assert status == 1
    assert "cannot be written: File too large" in output
    assert "Traceback" not in output
    lines = list(read_lines(tmp_path / "tracks.jsonl"))
    assert len(lines) > 10
    assert 0 < len(video(tmp_path / "overlay.mp4")[0]) <= len(lines)


def test_lines_are_whole_while_the_video_is_tracked(model, long_clip, tmp_path):
    process = _start(model, long_clip, tmp_path)
    try:
        seen = 0
        while seen < 5:
            time.sleep(0.1)
            assert process.poll() is None
            if (tmp_path / "tracks.jsonl").exists():
                text = (tmp_path / "tracks.jsonl").read_text()
                seen = len([json.loads(line) for line in text.splitlines()])
    finally:
        process.kill()
        process.communicate()


def test_a_broken_lines_file_is_one_line(tmp_path):
    (tmp_path / "tracks.jsonl").write_text('{"frame": 0}\n')
    with pytest.raises(InputError, match="line 1: must be a line of tracks.jsonl"):
        list(read_lines(tmp_path / "tracks.jsonl"))


def test_other_formats_are_written_beside_the_lines(model, clip, tmp_path, capsys):
    every = ["results", "csv", "mot", "mots", "cvat", "masks", "cutouts"]
    lines = track(model, tmp_path, clip, options=["--also", *every])
    names = "results.json tracks.csv mot.txt mots.txt cvat.xml masks cutouts".split()
    assert sorted(os.listdir(tmp_path)) == sorted([*FILES, *names])
    printed = capsys.readouterr().out
    assert all(str(tmp_path / name) in printed for name in names)
    shown = sum(1 for x in lines for row in x["tracks"] if row["segmentation"])
    cut = [path for path in (tmp_path / "cutouts").rglob("*.png")]
    assert 0 < len(cut) <= shown
    assert len(os.listdir(tmp_path / "masks")) == 12


def test_the_help_names_all_that_can_be_asked_for(capsys):
    with pytest.raises(SystemExit):
        main.main(["track", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert ", ".join(ALSO) in text
    assert ", ".join(PARTS) in text


def test_a_window_without_a_screen_is_one_line(model, clip, tmp_path, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(SystemExit) as left:
        track(model, tmp_path / "out", clip, options=["--show"])
    assert "--show: there is no screen to show it on" in str(left.value.code)


def test_a_change_of_size_keeps_masks_and_pictures_together(model, tmp_path, capsys):
    parts = [
        clips.write(tmp_path / f"{h}.h264", muxer="h264", hw=(h, w))
        for h, w in ((96, 160), (160, 96))
    ]
    path = tmp_path / "both.h264"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    lines = track(model, tmp_path / "out", path)
    assert [line["size"] for line in lines] == [[96, 160]] * 12 + [[160, 96]] * 12
    first, second = (
        {x["id"] for line in some for x in line["tracks"]}
        for some in (lines[:12], lines[12:])
    )
    assert not first & second
    assert "memory starts anew" in capsys.readouterr().out
    times, pictures, _, _ = video(tmp_path / "out" / "overlay.mp4")
    assert len(times) == 24
    assert len({picture.shape for picture in pictures}) == 1


def test_a_live_stream_is_compiled_for_before_it_is_opened(model, tmp_path, capsys):
    path = clips.write(tmp_path / "a.ts", count=40, gop=5, hw=(96, 960))
    address = clips.serve(path.read_bytes(), pause=0.01)
    lines = track(model, tmp_path / "out", address)
    printed = capsys.readouterr().out
    assert printed.index("ready after") < printed.index("input")
    assert lines
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(set(seconds))
    assert video(tmp_path / "out" / "overlay.mp4")[0][-1] == pytest.approx(
        seconds[-1] - seconds[0], abs=1e-3
    )


def test_a_part_behind_the_end_is_one_line(model, clip, tmp_path):
    with pytest.raises(SystemExit) as left:
        track(model, tmp_path, clip, options=["--start", "99"])
    assert "street: gave no frame" in str(left.value.code)
    assert os.listdir(tmp_path) == []
