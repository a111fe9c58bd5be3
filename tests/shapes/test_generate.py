"""The demo set: same bytes from one seed, labels that fit, frames well spoilt."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stan_jax import errors
from stan_jax.annotations import youtube_vis
from stan_jax.errors import InputError
from stan_jax.shapes import generate, scene, weather

SMALL: dict[str, Any] = dict(
    seed=3, train_videos=4, val_videos=2, frames=6, val_frames=3, height=48, width=80
)


def _generate(folder: Path, **changes: Any) -> None:
    generate.generate(folder, **(SMALL | changes))


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    _generate(folder)
    return folder


@pytest.fixture(scope="module")
def small_hard(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hard")
    _generate(folder, weather="hard")
    return folder


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    """The set of `make demo`, by its command."""
    folder = tmp_path_factory.mktemp("demo") / "set"
    generate.main([f"--out={folder}"])
    return folder


def _files(folder: Path) -> dict[str, bytes]:
    paths = (p for p in folder.rglob("*") if p.is_file() and p.name != generate.STAMP)
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(paths)}


def _read(folder: Path, split: str) -> dict:
    return json.loads((folder / split / "instances.json").read_text())


def _decode(segmentation: dict) -> np.ndarray:
    counts = segmentation["counts"]
    runs = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return runs.reshape(segmentation["size"], order="F")


@pytest.mark.parametrize("kind", ["small", "small_hard"])
def test_generate_gives_the_same_bytes_again(kind, tmp_path, request):
    _generate(tmp_path, weather="hard" if kind == "small_hard" else "clear")
    assert _files(tmp_path) == _files(request.getfixturevalue(kind))


def test_generate_gives_other_pictures_from_another_seed(small, tmp_path):
    _generate(tmp_path, seed=4)
    other, here = _files(tmp_path), _files(small)
    assert all(here[name] != other[name] for name in here)


@pytest.mark.parametrize("hard", [False, True])
def test_video_does_not_depend_on_how_many_there_are(small, small_hard, tmp_path, hard):
    _generate(
        tmp_path, train_videos=2, val_videos=1, weather="hard" if hard else "clear"
    )
    fewer, here = _files(tmp_path), _files(small_hard if hard else small)
    pictures = [name for name in fewer if name.endswith(".jpg")]
    assert len(pictures) == 2 * 6 + 3
    assert all(fewer[name] == here[name] for name in pictures)
    for split, count in (("train", 2), ("val", 1)):
        part, whole = _read(tmp_path, split), _read(small, split)
        assert part["videos"] == whole["videos"][:count]
        records = [a for a in whole["annotations"] if a["video_id"] <= count]
        assert part["annotations"] == records


def test_splits_and_frames_are_all_different(tmp_path):
    _generate(tmp_path, val_frames=None)
    files = _files(tmp_path)
    pictures = [data for name, data in files.items() if name.endswith(".jpg")]
    assert len(set(pictures)) == len(pictures) == (4 + 2) * 6


def test_hard_keeps_labels_and_part_of_the_frames(small, small_hard):
    clean, hard = _files(small), _files(small_hard)
    told = {f"{split}/{generate.SPOILT}" for split in generate.SPLITS}
    assert clean.keys() == hard.keys() - told
    for name in (f"{split}/instances.json" for split in generate.SPLITS):
        assert clean[name] == hard[name]
    pictures = [name for name in clean if name.endswith(".jpg")]
    spoilt = [name for name in pictures if clean[name] != hard[name]]
    assert 0.25 < len(spoilt) / len(pictures) < 0.65
    met = {
        f"{split}/JPEGImages/{video['file_names'][t]}"
        for split in generate.SPLITS
        for video in _read(small, split)["videos"]
        for t in json.loads(hard[f"{split}/{generate.SPOILT}"])[str(video["id"])]
    }
    assert met == set(spoilt)
    for name in spoilt:
        a, b = (np.asarray(Image.open(f / name), float) for f in (small, small_hard))
        assert np.abs(a - b).mean() > 2, name


def test_blank_frames_show_nothing_of_the_scene(small, tmp_path):
    _generate(tmp_path, weather="blank")
    clean, blank = _files(small), _files(tmp_path)
    pictures = [name for name in clean if name.endswith(".jpg")]
    spoilt = [name for name in pictures if clean[name] != blank[name]]
    assert 0.25 < len(spoilt) / len(pictures) < 0.65
    for name in spoilt:
        shown, scene = (
            np.asarray(Image.open(folder / name), float)[..., 0]
            for folder in (tmp_path, small)
        )
        # Means of 8 x 8 pixels, where noise has gone: no edge, no gradient is left.
        h, w = (side // 8 * 8 for side in shown.shape)
        cells = shown[:h, :w].reshape(h // 8, 8, w // 8, 8).mean((1, 3))
        assert cells.std() < 4, name
        assert abs(np.corrcoef(shown.ravel(), scene.ravel())[0, 1]) < 0.1


def test_covered_objects_are_plain_boards_and_little_else_changes():
    boards, shares = 0, []
    for seed in range(20):
        film = scene.draw(np.random.default_rng(seed), 12, 96, 160)
        frames = weather.covered(np.random.default_rng(seed), film)
        met = (frames != film.frames).any((1, 2, 3))
        bad = weather.bursts(np.random.default_rng(seed), 12, **weather.LONG)
        shares.append(bad.mean())
        runs = [len(list(g)) for k, g in itertools.groupby(bad) if k]
        assert max(runs) <= 3
        assert (met <= bad).all()  # a burst may meet an empty scene
        for t in np.flatnonzero(met):
            around = 0
            for row in range(1, len(film.labels) + 1):
                seen = film.ids[t] == row
                if not seen.any():
                    continue
                ys, xs = np.nonzero(seen)
                around += (np.ptp(ys) + 3) * (np.ptp(xs) + 3)
                # The nearest one's board lies on top: one colour, that of its mean.
                if row == film.ids[t].max():
                    board = frames[t, ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
                    assert (board == board[0, 0]).all()
                    mean = film.frames[t][seen].mean(0)
                    assert np.abs(board[0, 0] - mean).max() <= 1
                    boards += 1
            assert (frames[t] != film.frames[t]).any(-1).sum() <= around
    assert boards > 100
    assert 0.5 < np.mean(shares) < 0.7


def test_bursts_are_short_between_clean_frames_and_take_45_percent():
    rng = np.random.default_rng(0)
    shares, first = [], []
    for _ in range(400):
        spoilt = weather.bursts(rng, 12)
        runs = [(k, len(list(g))) for k, g in itertools.groupby(spoilt)]
        assert max(length for bad, length in runs if bad) <= 2
        assert max(length for bad, length in runs if not bad) <= 3
        shares.append(spoilt.mean())
        first.append(spoilt[0])
    assert 0.40 < np.mean(shares) < 0.50
    assert 0.35 < np.mean(first) < 0.55


def test_spoil_leaves_its_input_and_clean_frames_alone():
    frames = np.random.default_rng(1).integers(0, 256, (8, 32, 48, 3), np.uint8)
    before = frames.copy()
    film = scene.Film(frames, np.zeros(frames.shape[:3], np.int8), ())
    spoilt = weather.hard(np.random.default_rng(2), film)
    np.testing.assert_array_equal(frames, before)
    bad = weather.bursts(np.random.default_rng(2), 8)
    np.testing.assert_array_equal((spoilt != frames).any((1, 2, 3)), bad)


def test_blur_keeps_a_flat_frame_and_the_mean_of_shifts_is_a_loop():
    flat = np.full((20, 30, 3), 77, np.float32)
    rng = np.random.default_rng(0)
    for blur in (weather._motion_blur, weather._defocus):
        np.testing.assert_allclose(blur(rng, flat), flat, rtol=1e-5)
    frame = rng.uniform(0, 255, (9, 11, 3)).astype(np.float32)
    shifts = np.array([[0.0, 0], [2, -1], [-3, 1.6]])
    want = np.zeros_like(frame)
    for y, x in itertools.product(range(9), range(11)):
        for dy, dx in np.rint(shifts).astype(int):
            want[y, x] += frame[np.clip(y + dy, 0, 8), np.clip(x + dx, 0, 10)] / 3
    np.testing.assert_allclose(weather._mean_of_shifts(frame, shifts), want, rtol=1e-5)


AREAS = [
    ("disc", np.pi),
    ("square", 1.7**2),
    ("triangle", 3 * np.sqrt(3) * 0.6**2),
    ("star", 5 * 1.2 * 0.52 * np.sin(np.pi / 5)),
    ("cross", 2 * 2.2 * 0.72 - 0.72**2),
    ("ring", np.pi * 0.8),
]


@pytest.mark.parametrize(("name", "area"), AREAS)
def test_shape_has_the_area_of_its_formula_and_stays_within_reach(name, area):
    x, y = np.meshgrid(*[(np.arange(1200) + 0.5) / 300 - 2] * 2)
    inside = scene.SHAPES[name](x, y)
    assert inside.sum() / 300**2 == pytest.approx(area, rel=2e-3)
    assert np.hypot(x, y)[inside].max() <= scene.REACH


@pytest.mark.parametrize(("name", "area"), AREAS)
def test_paint_covers_the_area_around_the_centre_and_marks_half_covered_pixels(
    name, area
):
    sprite = scene.Sprite(
        label=list(scene.SHAPES).index(name),
        texture=0,
        frequency=5.0,
        colours=np.full((2, 3), 200.0),
        centres=np.array([[0.0, 0.0], [41.3, 30.6]]),
        radii=np.array([1.0, 20.0]),
        angles=np.array([0.0, 0.4]),
    )
    canvas = np.zeros((60, 90, 3), np.float32)
    ids = np.zeros((60, 90), np.int8)
    scene._paint(canvas, ids, 3, sprite, 1)
    cover = canvas[..., 1] / 200
    assert cover.sum() == pytest.approx(area * 20**2, rel=0.01)
    y, x = np.mgrid[:60, :90] + 0.5
    centre = (cover * x).sum() / cover.sum(), (cover * y).sum() / cover.sum()
    assert centre == pytest.approx((41.3, 30.6), abs=0.1)
    np.testing.assert_array_equal(ids, np.where(cover >= 0.5, 3, 0))
    turn = np.exp(-0.4j) * (x - 41.3 + 1j * (y - 30.6)) / 20
    inside = scene.SHAPES[name](turn.real, turn.imag)
    assert ((cover > 0.5) == inside).mean() > 0.99


def test_no_shape_resembles_another_at_any_angle_or_size():
    x, y = np.meshgrid(*[(np.arange(80) + 0.5) / 25 - 1.6] * 2)
    for a, b in itertools.combinations(scene.SHAPES.values(), 2):
        fixed = a(x, y)
        for angle, size in itertools.product(
            np.arange(0, 2 * np.pi, 0.1), np.arange(0.7, 1.4, 0.1)
        ):
            u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y
            turned = b(u / size, (v - np.sin(angle) * x) / size)
            assert (fixed & turned).sum() / (fixed | turned).sum() < 0.86


def test_class_mostly_wears_its_own_texture_and_sometimes_every_other():
    assert len(scene.TEXTURES) == len(scene.SHAPES)
    rng = np.random.default_rng(0)
    ground = scene._ground(rng, 96)
    sprites = [s for _ in range(600) for s in scene._sprites(rng, ground, 2, 96, 160)]
    seen = np.zeros((len(scene.SHAPES), len(scene.TEXTURES)))
    for sprite in sprites:
        seen[sprite.label, sprite.texture] += 1
    assert (seen > 0).all()
    own = scene.TYPICAL + (1 - scene.TYPICAL) / len(scene.TEXTURES)
    np.testing.assert_allclose(np.diag(seen) / seen.sum(1), own, atol=0.08)


def test_film_shows_what_its_ids_say():
    """Pixels off the ground's colours lie in the ids, and the nearest object wins."""
    height, width, length = 96, 160, 5
    for seed in range(8):
        film = scene.draw(np.random.default_rng(seed), length, height, width)
        rng = np.random.default_rng(seed)  # the same draws in the same order
        ground = scene._ground(rng, height)
        sprites = scene._sprites(rng, ground, length, height, width)
        assert film.labels == tuple(s.label for s in sprites)
        for t in range(length):
            plain = scene._paint_ground(ground, t, height, width)
            ids = np.zeros((height, width), np.int8)
            touched = np.zeros((height, width), bool)
            for row, sprite in enumerate(sprites, start=1):
                canvas, alone = np.zeros_like(plain), np.zeros_like(ids)
                scene._paint(canvas, alone, 1, sprite, t)
                ids[alone == 1] = row
                touched |= canvas.any(-1)
            np.testing.assert_array_equal(film.ids[t], ids)
            gap = np.abs(film.frames[t] - plain).max(-1)
            assert np.percentile(gap[~touched], 99) < 15
            if (film.ids[t] > 0).any():
                assert np.median(gap[film.ids[t] > 0]) > 40


@pytest.mark.parametrize("split", generate.SPLITS)
def test_labels_fit_their_masks_which_never_overlap(demo, split):
    content = _read(demo, split)
    sizes = {v["id"]: (v["length"], v["height"], v["width"]) for v in content["videos"]}
    taken = {key: np.zeros(size, int) for key, size in sizes.items()}
    for record in content["annotations"]:
        length, height, width = sizes[record["video_id"]]
        parts = [record[k] for k in ("segmentations", "bboxes", "areas")]
        assert [len(part) for part in parts] == [length] * 3
        for t, (segmentation, box, area) in enumerate(zip(*parts, strict=True)):
            if segmentation is None:
                assert box is None
                assert area is None
                continue
            assert sum(segmentation["counts"]) == height * width
            mask = _decode(segmentation)
            taken[record["video_id"]][t] += mask
            assert area == mask.sum() >= scene.MIN_AREA
            y, x = np.nonzero(mask)
            extent = [np.ptp(x) + 1, np.ptp(y) + 1]
            assert box == [x.min(), y.min(), *extent]
    assert max(video.max() for video in taken.values()) == 1


def test_demo_has_six_classes_in_both_splits_and_the_asked_sizes(demo):
    for split, count, length in (("train", 320, 8), ("val", 24, 12)):
        content = _read(demo, split)
        assert len(content["videos"]) == count
        assert {v["length"] for v in content["videos"]} == {length}
        assert {(v["height"], v["width"]) for v in content["videos"]} == {(96, 160)}
        found = {a["category_id"] for a in content["annotations"]}
        assert found == {c["id"] for c in content["categories"]} == set(range(1, 7))


def test_demo_tracks_enter_leave_hide_each_other_and_share_classes(demo):
    content = _read(demo, "train")
    seen = [[a is not None for a in r["areas"]] for r in content["annotations"]]
    assert sum(not s[0] for s in seen) > 0.05 * len(seen)
    assert sum(not s[-1] for s in seen) > 0.05 * len(seen)
    assert sum(all(s) for s in seen) > 0.5 * len(seen)
    pairs = [(r["video_id"], r["category_id"]) for r in content["annotations"]]
    assert len(set(pairs)) < 0.9 * len(pairs)
    sides = [max(b[2:]) for r in content["annotations"] for b in r["bboxes"] if b]
    assert np.percentile(sides, 10) > 18
    assert np.percentile(sides, 99) < 66


def test_youtube_vis_reader_accepts_the_set(small):
    for split, count in (("train", 4), ("val", 2)):
        content = _read(small, split)
        dataset = youtube_vis.load(
            small / split / "instances.json", small / split / "JPEGImages"
        )
        youtube_vis.check_frames(dataset)
        assert [c.name for c in dataset.categories] == list(scene.SHAPES)
        assert dataset.annotated
        assert len(dataset.videos) == count
        tracks = [track for video in dataset.videos for track in video.tracks]
        assert [t.id for t in tracks] == [a["id"] for a in content["annotations"]]
        for track, record in zip(tracks, content["annotations"], strict=True):
            assert track.label == record["category_id"] - 1
            for mine, theirs in zip(
                track.segmentations, record["segmentations"], strict=True
            ):
                assert (mine is None) == (theirs is None)
                if mine is not None:
                    got = youtube_vis.mask(mine, 48, 80)
                    np.testing.assert_array_equal(got, _decode(theirs))
        frame = youtube_vis.read_frame(dataset, dataset.videos[0], 0)
        assert frame.shape == (48, 80, 3)


def test_generate_leaves_a_finished_set_alone(small):
    times = {p: p.stat().st_mtime_ns for p in small.rglob("*")}
    _generate(small, progress=lambda *_: pytest.fail("drew a video"))
    assert times == {p: p.stat().st_mtime_ns for p in small.rglob("*")}


def test_generate_takes_up_a_run_cut_short(small, tmp_path):
    def cut(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _generate(tmp_path, progress=cut)
    assert not (tmp_path / "train/instances.json").exists()
    calls = []
    _generate(tmp_path, progress=lambda *at: calls.append(at))
    assert calls == [(k, 6) for k in range(1, 7)]
    assert _files(tmp_path) == _files(small)


def test_generate_refuses_folders_of_other_content(small, tmp_path):
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(InputError, match=f"{tmp_path}.*empty folder"):
        _generate(tmp_path)
    with pytest.raises(InputError, match="empty folder"):
        _generate(tmp_path / "letter.txt")
    assert [p.name for p in tmp_path.iterdir()] == ["letter.txt"]
    with pytest.raises(InputError, match=r"shapes.json.*another set"):
        _generate(small, weather="hard")
    (tmp_path / "letter.txt").rename(tmp_path / generate.STAMP)
    with pytest.raises(InputError, match=r"shapes.json.*json file"):
        _generate(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [dict(seed=-1), dict(train_videos=0), dict(frames=0), dict(val_frames=0)]
    + [dict(height=8), dict(width=0)],
)
def test_generate_refuses_numbers_out_of_range(tmp_path, wrong):
    with pytest.raises(InputError, match="must hold"):
        _generate(tmp_path / "new", **wrong)
    assert not (tmp_path / "new").exists()


def test_single_frame_videos_work(tmp_path):
    _generate(tmp_path, frames=1, val_frames=None, weather="hard")
    assert {v["length"] for v in _read(tmp_path, "val")["videos"]} == {1}


def test_command_ends_with_a_message_on_a_broken_rule(tmp_path):
    (tmp_path / "letter.txt").write_text("mine")
    with (
        pytest.raises(SystemExit, match="^error: .*empty folder"),
        errors.as_messages(),
    ):
        generate.main([f"--out={tmp_path}"])
