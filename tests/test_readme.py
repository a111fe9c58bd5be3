"""What the README shows must run and what it names must be there."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import tiny_model

from stan_jax.configs import ytvis19_r50_sta

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_snippet_runs_as_it_stands(monkeypatch):
    (snippet,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    small = {k: v for k, v in tiny_model.SETTINGS.items() if k != "num_classes"}
    config = SimpleNamespace(model=small)
    monkeypatch.setattr(ytvis19_r50_sta, "get_config", lambda: config)
    names = {"frames": np.zeros((2, 384, 640, 3), np.uint8)}
    exec(snippet, names)
    assert int(names["memory"].frame) == 2
    assert names["tracks"].masks.shape[0] == tiny_model.SETTINGS["detections"]


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
