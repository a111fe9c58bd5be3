import base64
import io
import re

import numpy as np
import pytest
from PIL import Image
from planted import HW, background, broken_down, planted, wrong_class

from stan_jax.commands import main
from stan_jax.video import report


def test_page_needs_nothing_beside_it_and_shows_the_worst_tracks(tmp_path, capsys):
    root, found = planted()
    root["categories"][2]["name"] = "<b>&\u00e9"
    wrong_class(found)
    background(found)
    broken_down(tmp_path, root, found)
    for video in root["videos"]:
        for name in video["file_names"]:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            Image.new("RGB", HW[::-1], (90, 90, 90)).save(tmp_path / name)
    files = [str(tmp_path / f"{name}.json") for name in ("instances", "results")]
    page = tmp_path / "report.html"
    command = ["score", *files, "--report", str(page)]
    main.main([*command, "--frames", str(tmp_path)])
    assert f"page: {page}" in capsys.readouterr().out
    text = page.read_text(encoding="utf-8")
    assert "<b>&\u00e9" not in text
    assert "&lt;b&gt;&amp;\u00e9" in text
    assert text.count("<img") == 2 * report.PICTURES
    # Nothing is fetched: every source is in the page.
    sources = re.findall(r"(?:src|href|url)\s*[=(]\s*['\"]?([^'\")\s>]+)", text)
    assert len(sources) == 2 * report.PICTURES
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert "http" not in text
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(sources[0][23:]))))
    assert pixels.reshape(-1, 3).std(0).max() > 5  # something is drawn
    main.main(command)
    assert "<img" not in page.read_text(encoding="utf-8")
    (tmp_path / "1" / "0.jpg").unlink()
    with pytest.raises(SystemExit, match=r"1/0\.jpg: file must exist"):
        main.main([*command, "--frames", str(tmp_path)])
