import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from stan_jax.annotations import check, youtube_vis
from stan_jax.annotations.formats import clips, coco, id_images, mots_text, writers
from stan_jax.commands import main
from stan_jax.errors import InputError
from stan_jax.masks import codec


def disc(hw, x, y, r):
    rows, columns = np.mgrid[: hw[0], : hw[1]]
    return (columns - x) ** 2 + (rows - y) ** 2 <= r**2


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def loaded(root, path):
    path.write_text(json.dumps(root))
    assert check.check(path).findings == []
    return youtube_vis.load(path, path.parent)


def bitmaps(dataset):
    return [
        [None if s is None else codec.decode(s) for s in track.segmentations]
        for video in dataset.videos
        for track in video.tracks
    ]


def write(path, ids, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids).save(path)


@pytest.mark.parametrize("mots", [False, True])
def test_id_images_become_tracks(tmp_path, mots):
    hw = 30, 40
    one, two = disc(hw, 10, 12, 6), disc(hw, 28, 15, 5)
    first, second = (1001, 2003) if mots else (1, 7)
    kind = np.uint16 if mots else np.uint8
    for t, (a, b) in enumerate([(1, 1), (1, 0), (0, 1)]):
        ids = np.zeros(hw, kind)
        ids[one], ids[two] = a * first, b * second
        write(tmp_path / "set" / "boat" / f"{t:05}.png", ids)
    ids = np.zeros(hw, kind)
    ids[two] = id_images.MOTS_IGNORE if mots else 3
    write(tmp_path / "set" / "car" / "00000.png", ids)
    read = id_images.mots if mots else id_images.davis
    root = read(tmp_path / "set").official()
    dataset = loaded(root, tmp_path / "i.json")
    assert dataset.videos[0].file_names == tuple(f"boat/{t:05}.jpg" for t in range(3))
    want = [[one, one, None], [two, None, two], [two]]
    np.testing.assert_equal(bitmaps(dataset), want)
    tracks = [track for video in dataset.videos for track in video.tracks]
    assert [t.crowd for t in tracks] == [False, False, mots]
    names = [dataset.categories[t.label].name for t in tracks]
    assert names == (["class 1", "class 2", "class 1"] if mots else ["object"] * 3)
    named = read(tmp_path / "set", classes=["boat", "cat"]).categories
    assert [row["name"] for row in named] == (["boat", "cat"] if mots else ["boat"])


def test_id_images_there_and_back_are_the_same(tmp_path, shared_data):
    source = shared_data / "davis16_vis" / "val" / "instances.json"
    before = youtube_vis.load(source, ".")
    balance = writers.id_images(before, tmp_path / "pngs")
    assert not balance.left
    assert balance.read["frames"] == len(list(tmp_path.glob("pngs/*/*.png")))
    again = id_images.davis(tmp_path / "pngs").official()
    after = loaded(again, tmp_path / "back.json")
    by_name = {video.name: video for video in after.videos}
    for video in before.videos:
        there = by_name[video.name]
        assert len(there.tracks) == len(video.tracks)
        (last, *_), (same, *_) = video.tracks[::-1], there.tracks[::-1]
        for a, b in zip(last.segmentations, same.segmentations, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                want = codec.decode(a)
                np.testing.assert_array_equal(codec.decode(b), want)


@pytest.mark.parametrize(
    ("ids", "mots", "rule"),
    [
        (
            np.eye(4, dtype=np.uint8)[..., None] * np.uint8([1, 2, 3]),
            False,
            "not colours; it is",
        ),
        (np.full((4, 4), 9, np.uint8), True, "16 bits"),
        (np.zeros((4, 6), np.uint8), False, "as the others"),
    ],
)
def test_images_that_hold_no_ids_are_named(tmp_path, ids, mots, rule):
    write(tmp_path / "set" / "boat" / "0.png", np.zeros((4, 4), np.uint8))
    write(tmp_path / "set" / "boat" / "1.png", ids)
    read = id_images.mots if mots else id_images.davis
    with pytest.raises(InputError, match=r"1\.png: .*" + rule):
        read(tmp_path / "set")


def test_folders_without_images_are_refused(tmp_path):
    with pytest.raises(InputError, match="holds none"):
        id_images.davis(tmp_path).official()
    with pytest.raises(InputError, match="must be a folder"):
        id_images.davis(tmp_path / "none").official()
    (tmp_path / "boat").mkdir()
    (tmp_path / "boat" / "0.png").write_text("text")
    with pytest.raises(InputError, match="must be a whole image"):
        id_images.davis(tmp_path).official()


def test_frames_are_in_the_order_of_their_numbers(tmp_path):
    folder = tmp_path / "masks" / "v"
    folder.mkdir(parents=True)
    for t in range(12):
        ids = np.zeros((4, 20), np.uint8)
        ids[1:3, t] = 1
        Image.fromarray(ids).save(folder / f"{t}.png")
    root = id_images.davis(tmp_path / "masks", suffix=".png").official()
    names = root["videos"][0]["file_names"]
    assert names == [f"v/{t}.png" for t in range(12)]
    boxes = root["annotations"][0]["bboxes"]
    assert [box[0] for box in boxes] == list(range(12))


def test_long_videos_are_converted(tmp_path):
    # pycocotools counts areas of no more than 255 masks at once under numpy 2.
    folder = tmp_path / "masks" / "v"
    folder.mkdir(parents=True)
    for t in range(300):
        Image.fromarray(np.eye(4, dtype=np.uint8)).save(folder / f"{t}.png")
    root = id_images.davis(tmp_path / "masks").official()
    assert root["annotations"][0]["areas"] == [4] * 300


def test_exported_masks_never_overwrite_each_other(tmp_path):
    mask = codec.encode(disc((20, 30), 9, 9, 5))
    small = codec.encode(disc((20, 30), 9, 9, 3))
    # Two videos in one folder, frames of one name and out of order, a hidden track.
    videos = [
        {"id": 1, "file_names": ["a/2.jpg", "a/1.jpg"], "height": 20, "width": 30},
        {"id": 2, "file_names": ["a/2.jpg", "a/2.png"], "height": 20, "width": 30},
    ]
    rows = [
        {"id": i, "video_id": v, "category_id": 1, "segmentations": [m, m]}
        for i, (v, m) in enumerate([(1, small), (1, mask), (2, mask)], start=1)
    ]
    names = [{"id": 1, "name": "x"}]
    source = tmp_path / "i.json"
    root = {"videos": videos, "categories": names, "annotations": rows}
    source.write_text(json.dumps(root))
    dataset = youtube_vis.load(source, ".")
    balance = writers.id_images(dataset, tmp_path / "out")
    assert balance.read == dict(videos=2, frames=4, tracks=3, masks=6)
    assert balance.written() == dict(videos=2, frames=4, tracks=2, masks=4)
    files = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.glob("out/*/*.png"))
    assert files == [f"out/a-{v}/0000{t}.png" for v in (1, 2) for t in (0, 1)]
    with pytest.raises(InputError, match="must be empty, holds PNGs already"):
        writers.id_images(dataset, tmp_path / "out")


def cocovid():
    hw = 20, 30
    masks = [codec.encode(disc(hw, 10 + t, 9, 5)) for t in range(3)]
    images = [
        {"id": 10 + t, "video_id": 4, "frame_id": t, "file_name": f"a/{t}.jpg"}
        | {"height": hw[0], "width": hw[1]}
        for t in (2, 0, 1)  # not in order on purpose
    ]
    rows = [
        {"id": t, "image_id": 10 + t, "instance_id": 8, "category_id": 5}
        | {"segmentation": masks[t]}
        for t in (0, 2)
    ]
    videos, names = [{"id": 4, "name": "a"}], [{"id": 5, "name": "cat"}]
    return {
        "videos": videos,
        "images": images,
        "annotations": rows,
        "categories": names,
    }


def test_cocovid_frames_are_put_in_order(tmp_path):
    dataset = loaded(coco.read_tracks(cocovid()).official(), tmp_path / "i.json")
    assert dataset.videos[0].file_names == ("a/0.jpg", "a/1.jpg", "a/2.jpg")
    hw = 20, 30
    want = [[disc(hw, 10, 9, 5), None, disc(hw, 12, 9, 5)]]
    np.testing.assert_equal(bitmaps(dataset), want)


@pytest.mark.parametrize(
    ("key", "i", "field", "value", "rule"),
    [
        ("images", 0, "frame_id", None, r"images\[0\]: must have 'frame_id'"),
        ("images", 0, "frame_id", "x", "frame_id must be numbers"),
        ("annotations", 1, "image_id", 77, "77 is not among the images"),
        ("annotations", 1, "category_id", 6, "is of category 5 elsewhere, here of 6"),
        ("annotations", 0, "instance_id", None, "must have 'instance_id'"),
        ("annotations", 0, "segmentation", "x", "segmentation: must be null"),
        ("images", 1, "id", 12, "id 12 must be that of one image in the whole file"),
        ("images", 0, "frame_id", 0, "frame_id 0 must be that of one image"),
        ("images", 0, "height", 21, "a/2.jpg must have the size of the first frame"),
        ("images", 1, "height", "20", "height must be a whole number from 1 up"),
        ("videos", 0, "id", 5, "video 5: must have images"),
    ],
)
def test_broken_cocovid_is_named(key, i, field, value, rule):
    root = cocovid()
    root[key][i][field] = value
    with pytest.raises(InputError, match=rule):
        coco.read_tracks(root, "c.json")


def test_boxes_without_masks_are_counted_and_alone_refused(tmp_path, capsys):
    root = cocovid()
    del root["annotations"][0]["segmentation"]
    source, out = tmp_path / "c.json", tmp_path / "o.json"
    source.write_text(json.dumps(root))
    main.main(["convert", "cocovid", str(source), str(out)])
    said = capsys.readouterr().out
    assert "1 masks are boxes alone, e.g. annotations[0]: left" in said
    assert "read     1 videos, 3 frames, 1 tracks, 2 masks" in said
    assert "written  1 videos, 3 frames, 1 tracks, 1 masks" in said
    root["annotations"][1]["segmentation"] = []
    with pytest.raises(InputError, match="none of 2 has a mask: boxes alone cannot"):
        coco.read_tracks(root)


@pytest.mark.parametrize("where", ["instance_id", "track_id", "attributes"])
def test_cocovid_takes_track_ids_texts_of_numbers_and_masks_in_pieces(where):
    root, hw = cocovid(), (20, 30)
    for row in root["annotations"]:
        row[where] = row.pop("instance_id")
        if where == "attributes":
            row[where] = {"track_id": row[where], "occluded": False}
    whole = codec.decode(root["annotations"][1]["segmentation"])
    half = np.arange(hw[1])[None] < 12
    first, second = (codec.encode(whole & side) for side in (half, ~half))
    root["annotations"][1]["segmentation"] = first
    root["annotations"].append(root["annotations"][1] | {"segmentation": second})
    for number, image in zip((10, 9, 2), root["images"], strict=True):
        image["frame_id"] = str(number)
    made = coco.read_tracks(root).official()
    assert made["videos"][0]["file_names"] == ["a/1.jpg", "a/0.jpg", "a/2.jpg"]
    (track,) = made["annotations"]
    assert track["segmentations"][0] is None
    np.testing.assert_array_equal(codec.decode(track["segmentations"][2]), whole)


def test_images_of_tracks_are_a_video_for_each_folder_and_no_stills(tmp_path):
    root = cocovid()
    del root["videos"]
    for n, image in enumerate(root["images"]):
        del image["video_id"], image["frame_id"]
        image["file_name"] = f"cam/frame_{[10, 9, 2][n]}.PNG"
    made = coco.read_tracks(root).official()
    assert [video["file_names"] for video in made["videos"]] == [
        [f"cam/frame_{n}.PNG" for n in (2, 9, 10)]
    ]
    assert len(made["annotations"]) == 1
    for row in root["annotations"]:
        row["attributes"] = {"track_id": row.pop("instance_id")}
    with pytest.raises(InputError, match=r"frames of a video; `stan convert cocovid`"):
        clips.read(root, tmp_path)
    assert not (tmp_path / "out").exists()
    (tmp_path / "c.json").write_text(json.dumps(root))
    report = check.check(tmp_path / "c.json")
    assert "`stan convert cocovid` writes" in str(report.findings[-1])
    assert report.summary["tracks"] == 1


def test_what_check_would_refuse_is_not_written(tmp_path):
    root = cocovid()
    root["annotations"][0]["category_id"] = root["annotations"][1]["category_id"] = 9
    source, out = tmp_path / "v.json", tmp_path / "o.json"
    source.write_text(json.dumps(root))
    with pytest.raises(SystemExit, match="category_id 9 is not among the categories"):
        main.main(["convert", "cocovid", str(source), str(out)])
    assert not out.exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["davis", "x", "o.json", "--length", "3"], "--length: means nothing to"),
        (["cocovid", "x", "o.json", "--suffix", ".png"], "--suffix: means nothing"),
        (["pngs", "x", "o", "--seed", "1"], "--seed: means nothing to convert to-pngs"),
        (["davis", "x", "o.json", "--suffix", "png"], "must begin with a dot, is png"),
        (["davis", "x", "none/o.json"], "folder none must exist"),
        (["cocovid", "x", "x"], "must not be written over its own source"),
        (
            ["coco", "x", "o.json", "--images=a", "--frames=b", "--seed=-1"],
            "--seed: must be at least 0, is -1",
        ),
    ],
)
def test_options_that_mean_nothing_are_refused(tmp_path, monkeypatch, line, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message):
        main.main(["convert", *line])


def test_broken_stills_are_named(tmp_path):
    def made(change):
        root = stills(tmp_path / "images")
        change(root)
        try:
            clips.read(root, tmp_path / "images")
        finally:
            shutil.rmtree(tmp_path / "images")

    with pytest.raises(InputError, match=r"images\[1\]: must have the size of its"):
        made(lambda root: root["images"][1].update(height=7))
    with pytest.raises(InputError, match="image_id 77 is not among the images"):
        made(lambda root: root["annotations"][1].update(image_id=77))
    with pytest.raises(InputError, match="id 0 must be that of one image"):
        made(lambda root: root["images"][1].update(id=0))


def stills(folder, hw=(120, 160)):
    """Three images of bright shapes on dark ground, and their masks."""
    folder.mkdir()
    images, rows, masks = [], [], []
    for i in range(3):
        drawn = Image.new("L", hw[::-1])
        brush = ImageDraw.Draw(drawn)
        brush.ellipse([40 + 10 * i, 30, 110, 90], fill=255)
        brush.polygon([(20, 20), (60, 25 + 9 * i), (35, 70)], fill=255)
        mask = np.asarray(drawn) > 0
        pixels = np.where(mask, 255, 0).astype(np.uint8)
        Image.fromarray(pixels).convert("RGB").save(folder / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png"})
        images[-1] |= {"height": hw[0], "width": hw[1]}
        row = {"id": i + 1, "image_id": i, "category_id": 3}
        rows.append(row | {"segmentation": codec.encode(mask)})
        masks.append(mask)
    names = [{"id": 3, "name": "shape"}]
    return {"images": images, "annotations": rows, "categories": names}


def test_masks_follow_the_pixels(tmp_path):
    root = stills(tmp_path / "images")
    found = clips.read(root, tmp_path / "images")
    made = clips.write(
        found, tmp_path / "images", tmp_path / "frames", length=9, seed=5
    )
    dataset = loaded(made.official(), tmp_path / "i.json")._replace(
        frames_dir=tmp_path / "frames"
    )
    youtube_vis.check_frames(dataset)
    for video, masks in zip(dataset.videos, bitmaps(dataset), strict=True):
        for t, mask in enumerate(masks):
            pixels = youtube_vis.read_frame(dataset, video, t)
            assert iou(mask, pixels[..., 0] > 127) > 0.98
        # The window moves: the last frame is not the first one.
        assert iou(masks[0], masks[-1]) < 0.95


def test_same_seed_gives_the_same_file(tmp_path):
    root = stills(tmp_path / "images")

    def made(seed):
        out = tmp_path / "frames"
        found = clips.read(root, tmp_path / "images")
        return clips.write(found, tmp_path / "images", out, seed=seed).official()

    assert made(1) == made(1) != made(2)


def test_command_converts_every_kind(tmp_path, capsys):
    root, out = stills(tmp_path / "images"), str(tmp_path / "out.json")
    (tmp_path / "coco.json").write_text(json.dumps(root))
    (tmp_path / "vid.json").write_text(json.dumps(cocovid()))
    frames = f"--frames={tmp_path / 'frames'}"
    images = f"--images={tmp_path / 'images'}"
    coco = ["convert", "coco", str(tmp_path / "coco.json"), out]
    main.main([*coco, images, frames, "--length=4"])
    said = capsys.readouterr().out
    assert "written  3 videos, 3 frames, 3 tracks, 3 masks" in said
    assert "each image is a clip of 4 frames: 12 frames, 12 masks" in said
    assert all(
        len(v["file_names"]) == 4 for v in json.loads(Path(out).read_text())["videos"]
    )
    main.main(["convert", "pngs", out, str(tmp_path / "pngs")])
    assert "written  3 videos, 12 frames, 3 tracks" in capsys.readouterr().out
    main.main(["convert", "davis", str(tmp_path / "pngs"), out])
    main.main(["convert", "cocovid", str(tmp_path / "vid.json"), out])
    assert "written  1 videos, 3 frames, 1 tracks, 2 masks" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="needs --frames"):
        main.main(coco)
    with pytest.raises(SystemExit, match="must be at least 1"):
        main.main([*coco, images, frames, "--length=0"])


def _id_png(path, ids):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids.astype(np.uint8)).save(path, "PNG")


def _two_objects():
    ids = np.zeros((20, 30))
    ids[2:9, 3:12], ids[11:18, 15:25] = 1, 2
    return ids


@pytest.mark.parametrize(
    ("prefix", "suffix"),
    [("", ".png"), ("Annotations/480p/", ".png"), ("a/", ".PNG")],
)
def test_folders_of_ids_are_found_at_any_depth_and_hidden_ones_passed_over(
    tmp_path, prefix, suffix
):
    for name in ("v1/00000", "v1/00005", "v2/00000"):
        _id_png(tmp_path / f"{prefix}{name}{suffix}", _two_objects())
        _id_png(
            tmp_path / f"{prefix}.ipynb_checkpoints/{name[-5:]}.png", _two_objects()
        )
    (tmp_path / f"{prefix}v1/._00000.png").write_bytes(b"of macOS")
    for start in (tmp_path, tmp_path / prefix):
        root = id_images.davis(start).official()
        names = [video["file_names"] for video in root["videos"]]
        assert names == [["v1/00000.jpg", "v1/00005.jpg"], ["v2/00000.jpg"]]
        assert len(root["annotations"]) == 4
    (video,) = id_images.davis(tmp_path / f"{prefix}v1").official()["videos"]
    assert video["file_names"] == ["v1/00000.jpg", "v1/00005.jpg"]


def test_ids_in_several_places_are_not_guessed_at(tmp_path):
    for name in ("Annotations/480p/v1/0", "Annotations/1080p/v1/0"):
        _id_png(tmp_path / f"{name}.png", _two_objects())
    rule = r"several places \(Annotations/1080p/v1, Annotations/480p/v1\)"
    with pytest.raises(InputError, match=rule):
        id_images.davis(tmp_path).official()


def test_greys_of_a_resized_mask_are_no_objects_and_many_objects_are(tmp_path):
    square = Image.fromarray((_two_objects() > 0).astype(np.uint8) * 255)
    smooth = np.asarray(square.resize((77, 51), Image.Resampling.BICUBIC))
    _id_png(tmp_path / "smooth/v1/0.png", smooth)
    with pytest.raises(InputError, match="ids, .* of which only rim others.*nearest"):
        id_images.davis(tmp_path / "smooth").official()
    many = np.kron(np.arange(1, 41).reshape(5, 8), np.ones((4, 4)))
    _id_png(tmp_path / "many/v1/0.png", many)
    assert len(id_images.davis(tmp_path / "many").official()["annotations"]) == 40


def test_cvats_export_of_mots_has_its_frames_and_names(tmp_path, capsys):
    ids = _two_objects().astype(np.uint16)
    ids[ids == 1], ids[ids == 2] = 1001, 2001
    for t in range(2):
        write(tmp_path / f"default/instances/frame_{t:06}.png", ids)
    line = ["convert", "mots", str(tmp_path / "default"), str(tmp_path / "o.json")]
    main.main(line)
    assert "note: MOTS does not name classes: they are class 1, class 2; --classes" in (
        capsys.readouterr().out
    )
    (tmp_path / "default/instances/labels.txt").write_text("cat\ndog\n")
    (tmp_path / "default/images").mkdir()
    with pytest.raises(SystemExit, match=r"its frame must lie in .*images, does not"):
        main.main(line)
    for t in range(2):
        Image.new("RGB", (30, 20)).save(tmp_path / f"default/images/frame_{t:06}.PNG")
    main.main(line)
    assert "note" not in capsys.readouterr().out
    dataset = youtube_vis.load(tmp_path / "o.json", tmp_path / "default")
    youtube_vis.check_frames(dataset)
    assert [c.name for c in dataset.categories] == ["cat", "dog"]
    assert len(dataset.videos[0].tracks) == 2


def test_the_void_label_is_left_out_and_a_mask_of_255_is_an_object(tmp_path):
    ids = _two_objects()
    _id_png(tmp_path / "binary/v1/0.png", np.where(ids, 255, 0))
    assert len(id_images.davis(tmp_path / "binary").official()["annotations"]) == 1
    ids[0] = 255
    _id_png(tmp_path / "void/v1/0.png", ids)
    found = id_images.davis(tmp_path / "void")
    assert len(found.official()["annotations"]) == 2
    *_, line, masks = found.balance.lines()
    assert "1 tracks are the void label, 255, beside objects, e.g. v1/0.png" in line
    assert "1 masks of tracks that are the void label" in masks


def test_classes_of_youtube_vos_are_those_of_its_meta_json(tmp_path):
    for name in ("v1/00000", "v1/00005", "v2/00000"):
        _id_png(tmp_path / f"train/Annotations/{name}.png", _two_objects())
    meta = {
        "v1": {"objects": {"1": {"category": "dog"}, "2": {"category": "cat"}}},
        "v2": {"objects": {"1": {"category": "emu", "frames": ["00000"]}}},
    }
    (tmp_path / "train/meta.json").write_text(json.dumps({"videos": meta}))
    read = id_images.davis(tmp_path / "train")
    root = read.official()
    names = {row["id"]: row["name"] for row in root["categories"]}
    found = [names[row["category_id"]] for row in root["annotations"]]
    assert found == ["dog", "cat", "emu"]
    line = read.balance.lines()[3]
    assert "1 tracks are not in the meta.json, e.g. object 2 of video v2" in line
    (tmp_path / "train/meta.json").write_text('{"videos": {"v1": {"objects": 3}}}')
    with pytest.raises(InputError, match="must give each object of each video a cat"):
        id_images.davis(tmp_path / "train").official()


def test_mots_as_text_is_mots_as_pngs(tmp_path, capsys):
    hw, lines = (20, 30), []
    ids = _two_objects()
    for t in (2, 3, 5):  # nothing is seen in 4
        whole = np.zeros(hw, np.uint16)
        for value, number in ((1, 1001), (2, 2004)):
            if t == 5 and value == 1:
                continue
            mask = ids == value
            whole[mask] = number
            rle = codec.encode(mask)["counts"]
            lines.append(f"{t} {number} {number // 1000} 20 30 {rle}")
        if t != 4:
            write(tmp_path / f"pngs/seq/{t:06}.png", whole)
    write(tmp_path / "pngs/seq/000004.png", np.zeros(hw, np.uint16))
    (tmp_path / "txt").mkdir()
    (tmp_path / "txt/seq.txt").write_text("\n".join(lines) + "\n")
    out = tmp_path / "o.json"
    main.main(["convert", "mots-txt", str(tmp_path / "txt"), str(out)])
    assert "--classes NAME,NAME names them" in capsys.readouterr().out
    assert json.loads(out.read_text()) == id_images.mots(tmp_path / "pngs").official()
    main.main(
        ["convert", "mots-txt", *map(str, (tmp_path / "txt/seq.txt", out))]
        + ["--classes=a,b"]
    )
    names = [row["name"] for row in json.loads(out.read_text())["categories"]]
    assert names == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "must hold at least one line"),
        ("1 1001 1 20 30", "line 1: must be frame, id, class, height, width, RLE"),
        ("1 x 1 20 30 abc", "line 1: must be frame, id, class"),
        ("1 1001 1 20 30 0", "line 1: .*add up"),
    ],
)
def test_broken_text_of_mots_is_named(tmp_path, text, rule):
    path = tmp_path / "seq.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=rule):
        mots_text.read(path)
