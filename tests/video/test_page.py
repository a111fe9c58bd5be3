import base64
import json
import re
import shutil
import subprocess
import zlib
from fractions import Fraction

import numpy as np
import pytest

from stan_jax.errors import InputError
from stan_jax.masks import codec
from stan_jax.media.mp4 import Mp4
from stan_jax.results.frame_lines import LinesWriter
from stan_jax.video import draw, page
from tests import clips

HW = (90, 160)
HOSTILE = "</script><b>cat & dog"


@pytest.fixture
def parts(tmp_path):
    """The video of ten frames, and the lines of a track seen in all but two."""
    with Mp4(tmp_path / "video.mp4", rate=10) as video:
        for t in range(10):
            video.add(clips.picture(t, HW))
    with LinesWriter(tmp_path / "tracks.jsonl") as lines:
        for t in range(10):
            number = 0 if t in (4, 5) else 1
            mask = np.zeros(HW, bool)
            mask[30:60, 20 + t : 50 + t] = True
            lines.add(
                t / 10,
                HW,
                ids=np.array([8] * number, int),
                labels=np.array([1] * number, int),
                names=[HOSTILE] * number,
                scores=np.array([0.5] * number, np.float32),
                boxes=np.array([[20 + t, 30, 50 + t, 60]] * number).reshape(-1, 4)
                * 1.0,
                segmentations=[codec.encode(mask)] * number,
            )
    return tmp_path


def write(folder, **changes):
    args = dict(
        title="a <street>",
        video=folder / "video.mp4",
        lines=folder / "tracks.jsonl",
        rate=Fraction(10),
        facts={"source": HOSTILE},
        notes=["a <note>"],
    )
    page.write(folder / "index.html", **(args | changes))
    return (folder / "index.html").read_text(encoding="utf-8")


def script(text, name):
    found = re.search(rf'<script type="[^"]*" id="{name}">(.*?)</script>', text, re.S)
    assert found is not None
    return found[1]


def test_the_page_holds_the_video_and_every_mask(parts):
    text = write(parts)
    assert base64.b64decode(script(text, "film")) == (parts / "video.mp4").read_bytes()
    packed = base64.b64decode(script(text, "packed"))
    *frames, tracks = zlib.decompress(packed).decode().split("\n")
    assert len(frames) == 10
    for t, row in enumerate(map(json.loads, frames)):
        assert row[:3] == [t / 10, 90, 160]
        if t in (4, 5):
            assert len(row) == 3
            continue
        number, score, *box, counts = row[3]
        assert (number, score) == (8, 0.5)
        assert box == [20 + t, 30, 50 + t, 60]
        assert codec.area({"size": HW, "counts": counts}) == 900
    (track,) = json.loads(tracks)
    assert track["spans"] == [[0, 3], [6, 9]]
    assert (track["id"], track["frames"], track["score"]) == (8, 8, 0.5)
    assert track["rgb"] == list(draw.colour(8))
    assert track["class"] == HOSTILE


def test_names_cannot_break_out_of_the_page(parts):
    text = write(parts)
    assert "a &lt;street&gt;" in text
    assert HOSTILE not in text
    assert json.loads(script(text, "head"))["facts"]["source"] == HOSTILE


def test_the_page_asks_nothing_of_any_network(parts):
    text = write(parts)
    assert "default-src 'none'" in text
    assert not re.search(r"https?://|@import|<link(?! rel=.icon. href=.data:)", text)


def test_a_long_page_is_written_in_pieces(parts):
    noise = np.random.default_rng(0).bytes(3_000_001)
    (parts / "video.mp4").write_bytes(noise)
    assert base64.b64decode(script(write(parts), "film")) == noise


def test_a_page_that_cannot_be_written_is_one_line(parts):
    with pytest.raises(InputError, match="cannot be written"):
        page.write(
            parts / "absent" / "index.html",
            title="",
            video=parts / "video.mp4",
            lines=parts / "tracks.jsonl",
            rate=Fraction(10),
            facts={},
        )


@pytest.mark.skipif(
    shutil.which("chromium") is None, reason="chromium is not installed"
)
def test_the_page_decodes_masks_as_we_do(tmp_path):
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    text = page.TEMPLATE.read_text(encoding="utf-8")
    begin = text.index("function decode(")
    code = text[begin : text.index("\nconst layer", begin)]
    rng = np.random.default_rng(0)
    masks = [
        np.kron(rng.random((6, 8)) < share, np.ones((7, 9))).astype(bool)
        for share in (0.0, 0.03, 0.3, 0.7, 1.0)
    ]
    masks.append(rng.random((42, 72)) < 0.5)
    texts = [codec.encode(mask)["counts"] for mask in masks]
    code += f"""
      const height = {masks[0].shape[0]};
      const found = {json.dumps(texts)}.map(t => decode(t, height, 1));
      const plain = m => m && [m.y0, m.x0, m.h, m.w, [...m.pixels]];
      console.log(JSON.stringify(found.map(plain)));
    """
    (tmp_path / "decode.js").write_text(code)
    line = ["node", str(tmp_path / "decode.js")]
    done = subprocess.run(line, check=True, capture_output=True, text=True)
    for mask, got in zip(masks, json.loads(done.stdout), strict=True):
        want = np.zeros(mask.shape, bool)
        if got is not None:
            top, left, h, w, pixels = got
            want[top : top + h, left : left + w] = np.reshape(pixels, (h, w)) > 0
        np.testing.assert_array_equal(want, mask)
