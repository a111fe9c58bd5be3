import gzip
import io
import os
import socket
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from stan_jax.errors import InputError
from stan_jax.media import open as media
from stan_jax.media.open import open_source
from stan_jax.media.source import Window
from stan_jax.media.video_file import VideoFile
from tests import clips

TIMES = [0, 0.033, 0.1, 0.2, 0.7, 0.75, 0.9, 1.5, 2.0, 2.1, 2.2, 3.0]
FULL = {"codec": "ffv1", "pixels": "bgr0"}
KINDS: dict[str, dict[str, Any]] = {
    "a.mp4": {},
    "a.mkv": {},
    "a.mov": {"codec": "prores_ks", "pixels": "yuv422p10le"},
    "a.webm": {"codec": "libvpx"},
    "a.ts": {},
    "a.avi": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "a.gif": {"codec": "gif", "pixels": "rgb8"},
    "a.h264": {"muxer": "h264"},
    "a.y4m": {"codec": "wrapped_avframe"},
    "grey.mkv": {"codec": "ffv1", "pixels": "gray"},
    "grey10.mkv": {"codec": "ffv1", "pixels": "gray10le"},
    "full.mp4": {"pixels": "yuvj420p"},
    "no_subsampling.mp4": {"pixels": "yuv444p"},
    "odd.mkv": {**FULL, "hw": (131, 97)},
    "ntsc.mp4": {"rate": Fraction(30_000, 1001)},
    "slow.mkv": {"rate": Fraction(1, 2)},
    "variable.mp4": {"times": TIMES},
    "late.ts": {"times": [5 + t / 10 for t in range(12)]},
    "late.mkv": {"times": [5 + t / 10 for t in range(12)]},
    "fragments.mp4": {"options": {"movflags": "frag_keyframe+empty_moov"}},
    "one.mp4": {"count": 1},
    "sound.mp4": {"sound": "aac"},
    "a name with: colon, 漢字.mp4": {},
}


def read(path, *options, **window):
    with open_source(path, Window(**window), *options) as source:
        return source, list(source)


def numbers(frames):
    return [clips.number(frame.image) for frame in frames]


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_gives_all_its_frames_with_their_times(tmp_path, name):
    how = KINDS[name]
    source, frames = read(clips.write(tmp_path / name, **how))
    count, rate = how.get("count", 12), float(how.get("rate", 10))
    assert numbers(frames) == list(range(count))
    assert all(frame.image.shape[:2] == how.get("hw", (96, 160)) for frame in frames)
    # Upright: blue above, red on the left, as far as there is colour.
    image = frames[0].image.astype(int)
    if "grey" not in name:
        assert image[2, 40, 2] > image[2, 40, 0] + 60
        assert image[60, 3, 0] > image[60, 3, 2] + 60
    times = np.array(how.get("times", np.arange(count) / rate))
    got = [frame.seconds for frame in frames]
    np.testing.assert_allclose(got, times - times[0], atol=2e-3)
    assert source.bad == source.skipped == 0
    assert source.notes == []
    assert [frame.fresh for frame in frames] == [True] + [False] * (count - 1)
    if source.total is not None and "late" not in name:
        assert abs(source.total - count) <= 1


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_a_turned_clip_is_shown_as_players_show_it(tmp_path, turn):
    plain = read(clips.write(tmp_path / "plain.mp4"))[1]
    path = clips.write(tmp_path / "turned.mp4", turn=turn)
    with av.open(str(path)) as container:
        rotation = next(container.decode(video=0)).rotation
    source, frames = read(path)
    assert "degrees" in source.facts["turned"]
    for got, want in zip(frames, plain, strict=True):
        np.testing.assert_array_equal(got.image, np.rot90(want.image, rotation // 90))


ONE, ZERO = 1 << 16, 0
MIRRORS = {
    "left to right": ((-ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30), np.s_[:, ::-1]),
    "top to bottom": ((ONE, 0, 0, 0, -ONE, 0, 0, 0, 1 << 30), np.s_[::-1]),
}


@pytest.mark.parametrize("kind", MIRRORS)
def test_a_mirrored_clip_is_mirrored(tmp_path, kind):
    matrix, part = MIRRORS[kind]
    plain = read(clips.write(tmp_path / "plain.mp4"))[1]
    source, frames = read(clips.write(tmp_path / "mirrored.mp4", matrix=matrix))
    assert source.facts["turned"] == f"mirrored {kind}"
    np.testing.assert_array_equal(frames[3].image, plain[3].image[part])


def test_pixels_that_are_no_squares_are_stretched(tmp_path):
    path = clips.write(tmp_path / "wide.mp4", aspect=Fraction(4, 3))
    source, frames = read(path)
    assert frames[0].image.shape == (96, 213, 3)
    assert source.facts["pixel aspect"] == "4:3"


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_high_dynamic_range_is_told(tmp_path, transfer, name):
    how = {"codec": "ffv1", "pixels": "yuv420p10le", "tags": {"color_trc": transfer}}
    source, frames = read(clips.write(tmp_path / "hdr.mkv", **how))
    assert len(frames) == 12
    assert f"({name}) is shown without tone mapping" in source.notes[0]


def test_a_broken_packet_is_counted_and_does_not_end_the_video(tmp_path):
    path = clips.write(tmp_path / "a.mp4", count=30, gop=5)
    content = bytearray(path.read_bytes())
    place = content.find(b"mdat") + 8
    with av.open(str(path)) as container:
        packets = [(p.pos or 0, p.size) for p in container.demux(video=0) if p.size]
    for position, size in packets[12:15]:
        assert position > place
        content[position : position + size] = bytes(size)
    path.write_bytes(content)
    source, frames = read(path)
    assert source.bad == 3
    assert len(frames) == 27
    np.testing.assert_allclose(frames[-1].seconds, 2.9, atol=1e-6)


def test_a_file_that_was_cut_off_is_told(tmp_path):
    path = clips.write(tmp_path / "a.mkv", count=60, gop=5, **{"codec": "ffv1"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    source, frames = read(path)
    assert 10 < len(frames) < 50
    assert any("that it names: the file is cut off" in note for note in source.notes)
    assert source.total == 60  # what the header says is no promise


def test_a_change_of_size_is_told_and_begins_anew(tmp_path):
    parts = [
        clips.write(tmp_path / f"{h}.h264", muxer="h264", hw=(h, w))
        for h, w in ((96, 160), (64, 96))
    ]
    path = tmp_path / "both.h264"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    source, frames = read(path)
    sizes = [frame.image.shape[:2] for frame in frames]
    assert sizes == [(96, 160)] * 12 + [(64, 96)] * 12
    assert [i for i, frame in enumerate(frames) if frame.fresh] == [0, 12]
    assert "the size changes from 160 x 96 to 96 x 64 at 1.20 s" in source.notes[0]


# ---- which frames


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.h264", "variable.mp4"])
@pytest.mark.parametrize("gop", [1, 4, 40])
def test_a_part_of_a_video_is_exact(tmp_path, name, gop):
    how = {"count": 40, "gop": gop, "muxer": KINDS[name].get("muxer"), "hw": (96, 480)}
    if name == "variable.mp4":
        how["times"] = [t / 10 + 0.03 * (t % 3) for t in range(40)]
    path = clips.write(tmp_path / name, **how)
    whole = [frame.seconds for frame in read(path)[1]]
    for start, end, every, most in [
        (0.0, 9.0, 1, None),
        (1.7, 9.0, 1, None),
        (1.7, 2.4, 1, None),
        (0.95, 3.95, 3, None),
        (2.0, 9.0, 2, 4),
        (0.0, 0.05, 1, None),
    ]:
        window = dict(start=start, end=end, every=every, max_frames=most)
        frames = read(path, **window)[1]
        want = [t for t, s in enumerate(whole) if start - 1e-6 <= s < end][::every]
        assert [round(f.seconds, 4) for f in frames] == [
            round(whole[t], 4) for t in want[:most]
        ]
        if name != "variable.mp4":
            assert numbers(frames) == want[:most]


def test_a_start_behind_the_end_gives_no_frames(tmp_path):
    assert read(clips.write(tmp_path / "a.mp4"), start=99.0)[1] == []


@pytest.mark.parametrize(
    ("window", "rule"),
    [
        ({"start": 3.0, "end": 2.0}, "start and end: must lie in order"),
        ({"start": -1.0}, "start and end: must lie in order"),
        ({"every": 0}, "every: must be a whole number from 1 up, is 0"),
        ({"max_frames": 0}, "max_frames: must be a whole number from 1 up"),
    ],
)
def test_a_window_without_frames_is_refused(tmp_path, window, rule):
    with pytest.raises(InputError, match=rule):
        open_source(clips.write(tmp_path / "a.mp4"), Window(**window))


def test_scene_cuts_begin_anew_and_motion_does_not(tmp_path):
    rng = np.random.default_rng(0)
    scenes = [
        np.kron(rng.integers(0, 255, (6, 10, 3)), np.ones((16, 16, 1))) for _ in "abc"
    ]
    images = [
        np.roll(scene, 6 * t, axis=1).astype(np.uint8)
        for scene in scenes
        for t in range(10)
    ]
    path = clips.write(tmp_path / "a.mp4", count=30, images=images)
    fresh = [frame.fresh for frame in read(path, new_at_cuts=True)[1]]
    assert [i for i, x in enumerate(fresh) if x] == [0, 10, 20]
    assert sum(frame.fresh for frame in read(path)[1]) == 1


def test_real_videos_of_one_take_have_no_cuts(shared_data):
    for path in sorted((shared_data / "video_clips").glob("*.mp4")):
        frames = read(path, new_at_cuts=True, every=2)[1]
        assert sum(frame.fresh for frame in frames) == 1, path.name


# ---- folders and images


def save(path, t=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(clips.picture(t)).save(path, **options)
    return path


def test_a_folder_is_read_in_natural_order_and_strays_are_counted(tmp_path):
    for t in range(12):
        save(tmp_path / "clip" / f"frame{t + 1}.{'png' if t % 2 else 'bmp'}", t)
    (tmp_path / "clip" / "Thumbs.db").write_text("x")
    (tmp_path / "clip" / "notes.txt").write_text("x")
    source, frames = read(tmp_path / "clip")
    assert (source.name, source.skipped, source.total) == ("clip", 2, 12)
    assert numbers(frames) == list(range(12))
    np.testing.assert_allclose([f.seconds for f in frames[:3]], [0, 1 / 6, 2 / 6])
    with open_source(tmp_path / "clip", frames_per_s=25.0) as faster:
        assert [f.seconds for f in faster][2] == pytest.approx(0.08)


def test_a_glob_and_a_list_of_images_are_one_video(tmp_path):
    names = [save(tmp_path / "clip" / f"{t}.jpg", t, quality=95) for t in range(11)]
    assert numbers(read(tmp_path / "clip" / "*.jpg")[1]) == list(range(11))
    (opener,) = media.sources(sorted(map(str, names)))  # as a shell passes them
    with opener() as source:
        assert numbers(source) == list(range(11))


def test_images_of_all_types_are_upright_and_a_broken_one_is_told(tmp_path):
    upright = Image.fromarray(clips.picture(3))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "1.png", exif=exif)
    upright.convert("P").save(tmp_path / "2.png")
    upright.convert("RGBA").save(tmp_path / "3.webp", lossless=True)
    upright.convert("L").save(tmp_path / "4.tif")
    deep = np.asarray(upright.convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "5.png")
    upright.convert("CMYK").save(tmp_path / "6.jpg", quality=95)
    (tmp_path / "7.png").write_bytes((tmp_path / "2.png").read_bytes()[:200])
    source, frames = read(tmp_path)
    assert [frame.image.shape for frame in frames] == [(96, 160, 3)] * 6
    assert numbers(frames) == [3] * 6
    assert source.bad == 1
    assert "7.png is no whole image" in source.notes[-1]
    np.testing.assert_array_equal(frames[4].image, frames[3].image)


def test_a_folder_of_videos_is_several_sources(tmp_path):
    for name in ("b10.mp4", "b9.mp4"):
        clips.write(tmp_path / name, count=2)
    names = [opener().name for opener in media.sources([tmp_path])]
    assert names == ["b9", "b10"]
    with pytest.raises(InputError, match="names 2 videos: name one"):
        open_source(tmp_path)


# ---- what is none


def _cut_moov(path):
    whole = clips.write(path.with_name("whole.mp4"), count=30).read_bytes()
    path.write_bytes(whole[: whole.find(b"moov") - 4])


def _archive(path):
    path.write_bytes(gzip.compress(b"x"))


@pytest.mark.parametrize(
    ("name", "make", "rule"),
    [
        ("absent.mp4", lambda path: None, "there is no such file, folder or camera"),
        ("empty.mp4", lambda path: path.touch(), "must not be an empty file"),
        ("text.mp4", lambda path: path.write_text("a" * 500), "must be a video"),
        ("set.json", lambda path: path.write_text("{}"), "eval.py tracks the videos"),
        ("a.tar.gz", _archive, "is an archive: unpack it first"),
        ("cut.mp4", _cut_moov, r"no index \(moov\): the file was cut off"),
        ("folder", Path.mkdir, "holds neither images nor videos"),
    ],
)
def test_what_is_no_video_is_one_line(tmp_path, name, make, rule):
    make(tmp_path / name)
    with pytest.raises(InputError, match=rule) as caught:
        open_source(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert caught.value.file.endswith(name)


def test_sound_alone_is_one_line(tmp_path):
    with av.open(str(tmp_path / "a.m4a"), "w") as out:
        stream = out.add_stream("aac", rate=44_100)
        samples = np.zeros((1, 1024), np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = 44_100
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    with pytest.raises(InputError, match="holds no pictures, only sound"):
        open_source(tmp_path / "a.m4a")


def test_the_cases_of_public_reports(shared_cases):
    right = {
        "anim.gif": 8, "corrupt_middle.mp4": 30, "full_range.mp4": 8, "gray.mp4": 8,
        "ntsc_29_97.mp4": 12, "odd_size.mkv": 6, "old.avi": 12, "one_frame.mp4": 1,
        "plain.mp4": 12, "raw.h264": 12, "rot180.mp4": 12, "rot90.mp4": 12,
        "vfr.mp4": 12, "frames_unpadded": 12,
    }  # fmt: skip
    for path in sorted((shared_cases / "video").iterdir()):
        if path.name in right:
            assert len(read(path)[1]) == right[path.name], path.name
        else:
            with pytest.raises(InputError):
                open_source(path)


# ---- pipes, cameras, addresses


@pytest.mark.parametrize("name", ["a.mkv", "a.webm", "a.ts", "fragments.mp4"])
def test_a_pipe_is_read_as_it_comes(tmp_path, monkeypatch, name):
    path = clips.write(tmp_path / name, **KINDS[name])
    ours, theirs = os.pipe()

    def send():
        with os.fdopen(theirs, "wb") as pipe:
            pipe.write(path.read_bytes())

    thread = threading.Thread(target=send)
    thread.start()
    with os.fdopen(ours, "rb") as pipe:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(pipe.raw)))
        source, frames = read("-")
    thread.join()
    assert source.name == "pipe"
    assert numbers(frames) == list(range(12))


def test_a_pipe_without_a_video_says_which_kinds_can(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"x" * 1000)))
    with pytest.raises(InputError, match="webm, mkv, mpegts and fragmented mp4 can"):
        open_source("-")


def test_a_live_stream_gives_the_newest_frame_never_one_twice_and_ends(tmp_path):
    how = {"count": 80, "options": {"flush_packets": "1"}, "gop": 5}
    path = clips.write(tmp_path / "a.ts", hw=(96, 960), **how)
    with open_source(clips.serve(path.read_bytes(), pause=0.004)) as source:
        assert source.live
        frames = []
        for frame in source:
            frames.append(frame)
            time.sleep(0.03)  # a reader that is slower than the sender
    times = [frame.seconds for frame in frames]
    assert times == sorted(set(times))
    assert source.skipped > 0
    assert source.decoded == len(frames) + source.skipped
    assert source.decoded > 70
    assert numbers(frames)[-1] == 79


def test_a_live_stream_that_is_silent_can_be_left(tmp_path):
    path = clips.write(tmp_path / "a.ts", count=60)
    with open_source(clips.serve(path.read_bytes(), pause=0.05)) as source:
        for _ in source:
            source.stop()
    assert source.decoded < 60


def test_an_address_where_nobody_is_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(InputError, match="must be a video: connection refused"):
        open_source(f"tcp://127.0.0.1:{port}")


def test_a_camera_that_is_not_there_is_one_line():
    with pytest.raises(InputError, match="camera-97"):
        open_source("97")


def test_a_source_is_read_once(tmp_path):
    with VideoFile(clips.write(tmp_path / "a.mp4")) as source:
        list(source)
        with pytest.raises(RuntimeError, match="was read already"):
            next(iter(source))
