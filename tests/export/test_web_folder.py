import json
import re

import numpy as np
import pytest
import tiny_model
import tiny_workdir

from stan_jax.commands import main
from stan_jax.errors import InputError
from stan_jax.export import web_folder
from stan_jax.masks.paste import paste
from stan_jax.ops import canvas
from stan_jax.runtimes.exported import open_exported
from stan_jax.video import draw
from tests import clips
from tests.export import doc_runs, flat_runs, site_runs

SIZE = (90, 140)
# Frames of the canvas in, tracks of each with the pixels of their masks out.
WALK = """
import * as ort from "./ort.wasm.min.mjs";
import { Tracker, fitted, paste } from "./tracker.js";
import { readFileSync } from "node:fs";
const about = JSON.parse(readFileSync("about.json")), size = %s;
ort.env.wasm.numThreads = 1;
const tracker = await Tracker.open(ort, readFileSync("tracker.onnx"), about);
const seen = fitted(about, ...size), pixels = readFileSync("frames.bin");
const each = 4 * seen[0] * seen[1], walk = async () => {
  const found = [];
  for (let at = 0; at < pixels.length; at += each) {
    const rows = await tracker.step(pixels.subarray(at, at + each), seen, size);
    found.push(rows.map(row => {
      const part = paste(row.mask, row.box, size, about.legacy_paste), inside = [];
      part.inside.forEach((x, n) => {
        const y = part.top + Math.floor(n / part.width);
        if (x) inside.push(y * size[1] + part.left + n %% part.width);
      });
      return { ...row, mask: inside };
    }));
  }
  return found;
};
const first = await walk();
tracker.start();
console.log(JSON.stringify([seen, first, await walk()]));
"""


def _site(folder, preset):
    flat = flat_runs.case(preset).flat
    web_folder.write(flat, folder, site_runs.runtime())
    return folder, flat.record.settings.legacy_paste


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The page of a tracker."""
    folder, legacy = _site(tmp_path_factory.mktemp("site"), "openmmlab")
    assert not legacy
    return folder


@pytest.fixture(scope="module")
def legacy_site(tmp_path_factory):
    """The page of one that pastes masks as the original does."""
    folder, legacy = _site(tmp_path_factory.mktemp("legacy"), "original")
    assert legacy
    return folder


@pytest.mark.parametrize("name", ["site", "legacy_site"])
def test_page_tracks_as_the_file_does(name, request):
    site = request.getfixturevalue(name)
    tracker = open_exported(site / "tracker.onnx")
    video = [canvas.resize_frame(x, SIZE) for x in tiny_model.moving(2, 5)]
    wanted = list(tracker.track(video))
    h, w = tracker.fitted_hw(SIZE)
    small = np.stack([canvas.resize_frame(x, (h, w)) for x in video])
    alpha = np.full((*small.shape[:3], 1), 255, np.uint8)
    (site / "frames.bin").write_bytes(np.concatenate([small, alpha], -1).tobytes())
    seen, first, again = site_runs.in_node(site, WALK % list(SIZE))
    assert seen == [h, w]
    assert first == again
    assert sum(len(x.ids) for x in wanted) > 10
    for rows, tracks in zip(first, wanted, strict=True):
        assert [row["id"] for row in rows] == tracks.ids.tolist()
        assert [row["label"] for row in rows] == tracks.labels.tolist()
        np.testing.assert_allclose([x["score"] for x in rows], tracks.scores, atol=1e-5)
        np.testing.assert_allclose([x["box"] for x in rows], tracks.boxes, atol=1e-3)
        for row, mask in zip(rows, tracks.masks, strict=True):
            ours = np.zeros(SIZE, bool)
            ours.reshape(-1)[np.array(row["mask"], int)] = True
            assert (ours != mask).sum() <= max(1, 1e-3 * mask.sum())


def test_program_of_the_docs_tracks_a_frame(site):
    page = doc_runs.PAGE.read_text()
    (block,) = re.findall(r"```js\n(.*?)```", page, re.DOTALL)
    height, width = tiny_model.CANVAS
    frame = tiny_model.moving(2, 1)[0]
    alpha = np.full((height, width, 1), 255, np.uint8)
    (site / "frame.bin").write_bytes(np.concatenate([frame, alpha], -1).tobytes())
    code = f"""
import {{ readFileSync }} from "node:fs";
const height = {height}, width = {width}, rgba = readFileSync("frame.bin"), said = [];
globalThis.fetch = async name => ({{
  json: async () => JSON.parse(readFileSync(name)),
  arrayBuffer: async () => readFileSync(name),
}});
globalThis.self = globalThis; // as in a browser whose server sends no headers
globalThis.crossOriginIsolated = false;
const print = console.log;
console.log = (...words) => said.push(words);
{block}
print(JSON.stringify(said));"""
    said = site_runs.in_node(site, code)
    (wanted,) = open_exported(site / "tracker.onnx").track([frame])
    assert [row[0] for row in said] == wanted.ids.tolist() != []
    assert [row[1] for row in said] == wanted.classes


@pytest.mark.parametrize("legacy", [False, True])
def test_masks_are_pasted_as_in_python(site, legacy):
    rng = np.random.default_rng(0)
    boxes = np.concatenate(
        [
            rng.uniform(-30, 60, (12, 4)).astype(np.float32),
            np.float32([[0, 0, 140, 90], [20, 30, 20, 40], [5.5, 5.5, 6.5, 6.5]]),
        ]
    )
    boxes[:12, 2:] = boxes[:12, :2] + rng.uniform(1, 90, (12, 2)).astype(np.float32)
    if legacy:
        boxes = np.clip(boxes, 0, [SIZE[1], SIZE[0]] * 2).astype(np.float32)
    masks = rng.uniform(size=(len(boxes), 7, 7)).astype(np.float32)
    code = f"""
import {{ paste }} from "./tracker.js";
const masks = {masks.reshape(len(masks), -1).tolist()}, boxes = {boxes.tolist()};
console.log(JSON.stringify(masks.map((mask, n) => {{
  const part = paste(mask, boxes[n], {list(SIZE)}, {str(legacy).lower()});
  return {{ ...part, inside: Array.from(part.inside) }};
}})));"""
    drawn = 0
    for part, mask, box in zip(
        site_runs.in_node(site, code), masks, boxes, strict=True
    ):
        top, left, soft = paste(mask, box, SIZE, legacy=legacy)
        want = soft > 0.5 if legacy else soft >= 0.5
        assert (part["height"], part["width"]) == want.shape
        if want.size:
            assert (part["top"], part["left"]) == (top, left)
        inside = np.array(part["inside"], bool).reshape(want.shape)
        np.testing.assert_array_equal(inside, want)
        drawn += want.sum()
    assert drawn > 1000


def test_frames_are_fitted_as_in_python_and_others_made_smaller(site):
    tracker = open_exported(site / "tracker.onnx")
    sizes = [[90, 140], [64, 96], [1080, 1920], [10, 500], [97, 97]]
    code = """
import { fitted } from "./tracker.js";
import { readFileSync } from "node:fs";
const about = JSON.parse(readFileSync("about.json"));
console.log(JSON.stringify(%s.map(size => fitted(about, ...size))));"""
    found = site_runs.in_node(site, code % [*sizes, [140, 90]])
    assert found[:-1] == [list(tracker.fitted_hw(tuple(size))) for size in sizes]
    assert found[-1] == [64, 41]  # portrait, in a canvas of 64 x 96


def test_chromium_tracks_a_video_beside_the_page(site, tmp_path):
    frames = [canvas.resize_frame(x, SIZE) for x in tiny_model.moving(2, 8)]
    clips.write(site / "a clip.mp4", count=8, hw=SIZE, images=frames)
    ends = "s => s.textContent.includes('Done') || s.className === 'wrong'"
    seen = site_runs.in_chromium(site, tmp_path, "?video=a%20clip.mp4", ends)
    assert re.fullmatch(r"a clip\.mp4: 8 frames, \d+ tracks\. Done", seen["status"])
    assert seen["size"] == list(SIZE)
    assert any(name in seen["rows"] for name in tiny_workdir.NAMES)
    assert "cat, dog, cow" in seen["facts"]


def test_chromium_tracks_the_camera_until_it_is_stopped(site, tmp_path):
    frames = "s => / [3-9] frames/.test(s.textContent) || s.className === 'wrong'"
    seen = site_runs.in_chromium(site, tmp_path, "?camera", frames)
    assert seen["status"].startswith("camera: ")
    assert seen["wrong"] == ""


def test_page_says_what_it_cannot_read(site, tmp_path):
    (site / "no.mp4").write_bytes(b"no video")
    seen = site_runs.in_chromium(site, tmp_path / "1", "?video=no.mp4")
    assert seen["status"].startswith("no.mp4: the browser cannot read it")
    whole = (site / "tracker.onnx").read_bytes()
    try:
        for given in (whole[:-10], whole + b"more"):
            (site / "tracker.onnx").write_bytes(given)
            seen = site_runs.in_chromium(site, tmp_path / "2")
            rule = "the tracker cannot be opened: tracker.onnx is not as it was written"
            assert seen["status"] == rule
    finally:
        (site / "tracker.onnx").write_bytes(whole)


def test_folder_holds_the_page_the_runtime_and_its_licence_and_no_path(site):
    names = {path.name for path in web_folder.OURS.iterdir()}
    names |= {*web_folder.RUNTIME, "tracker.onnx", "about.json"}
    names |= {"LICENSE-onnxruntime.txt"}
    assert names <= {path.name for path in site.iterdir()}
    about = json.loads((site / "about.json").read_text())
    assert about["classes"] == list(tiny_workdir.NAMES)
    assert about["bytes"] == (site / "tracker.onnx").stat().st_size
    assert about["colours"][7] == list(draw.colour(7))
    assert len(about["colours"]) % 6 == 0
    for path in web_folder.OURS.iterdir():
        assert "://" not in path.read_text(), path  # the page asks nobody
    assert "/somewhere/of/mine" not in (site / "about.json").read_text()


def test_runtime_that_is_not_to_be_had_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(InputError) as raised:
        web_folder._runtime(None)
    line = str(raised.value)
    assert line.startswith(
        "onnxruntime-web: is not here, and npm is not installed; npm"
    )
    with pytest.raises(InputError, match="must be a folder of onnxruntime-web with"):
        web_folder._runtime(tmp_path)
    (tmp_path / "dist").mkdir()
    for name in web_folder.RUNTIME:
        (tmp_path / "dist" / name).touch()
    assert web_folder._runtime(tmp_path) == tmp_path / "dist"
    failing = tmp_path / "npm"
    failing.write_text(
        "#!/bin/sh\necho first >&2\necho 'no such package' >&2\nexit 1\n"
    )
    failing.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda _: str(failing))
    with pytest.raises(InputError, match="npm cannot fetch it: no such package; npm"):
        web_folder._runtime(None)


def test_command_writes_the_page(tmp_path, capsys):
    folder = tiny_workdir.save(tmp_path / "run")
    out, package = tmp_path / "site", site_runs.runtime()
    words = f"export --model {folder} --format web --out {out} --package {package}"
    main.main(words.split())
    assert capsys.readouterr().out.startswith(f"{out}: ")
    assert (out / "index.html").is_file()
    with pytest.raises(SystemExit) as left:
        main.main([*words.split(), "--clip", "2"])
    rule = "error: --clip: is not for the page, which takes single frames"
    assert str(left.value.code) == rule
