"""What the README shows must run and what it names must be there."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import tiny_import

from tests import clips

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_snippet_runs_as_it_stands(monkeypatch, tmp_path, capsys):
    (snippet,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    tiny_import.save(tmp_path / "runs/mine")
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    clips.write(tmp_path / "street.mp4", count=4, hw=(90, 160))
    images = rng.integers(0, 256, (2, 90, 160, 3), np.uint8)
    names: dict[str, Any] = {"images": images, "height": 90, "width": 160}
    exec(snippet, names)
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if "90, 160)" in line]) == 2
    assert names["state"].seen == 2


def test_files_and_targets_that_it_names_are_there():
    links = re.findall(r"\]\((?!http)([^)]+)\)", README)
    scripts = re.findall(r"python (?!-)(\S+\.py)", README)
    parts = re.findall(r"`((?:stan_jax|configs|benchmarks)/[^`*]*)`", README)
    assert all((links, scripts, parts))
    for name in (*links, *scripts, *parts):
        assert (ROOT / name).exists(), name
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make (\w+)  ", README):
        assert f"\n{target}:" in makefile
