"""What the README shows must run and what it names must be there."""

import functools
import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_import

from stan_jax.commands import main
from stan_jax.configs import shapes_sta, ytvis19_r50
from tests import clips
from tests.test_layers import FLOORS

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


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_names_is_there(page):
    text = page.read_text()
    links = re.findall(r"\]\((?!http)([^)#]+)\)", text)
    for name in links:
        assert (page.parent / name).exists(), name
    scripts = re.findall(r"python (?!-)(\S+\.py)", text)
    parts = re.findall(r"`((?:stan_jax|configs|benchmarks|docs)/[^`*]*)`", text)
    for name in (*scripts, *parts):
        assert (ROOT / name).exists(), name
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make (\w+)  ", text):
        assert f"\n{target}:" in makefile
    for name in re.findall(r"^ +(?:\.venv/bin/)?stan ([a-z-]+)", text, re.MULTILINE):
        assert name in main.COMMANDS


def test_settings_that_the_pages_name_are_in_a_config():
    configs = [shapes_sta.get_config(), ytvis19_r50.get_config("scratch")]
    text = "".join(page.read_text() for page in PAGES)
    names = set(re.findall(r"--config\.([a-z_.]+)", text))
    table = (ROOT / "docs/training.md").read_text()
    names |= set(re.findall(r"`((?:data|model|optim|run)\.[a-z_.]+)`", table))
    assert len(names) > 10
    for name in names:
        *path, last = name.rstrip(".").split(".")
        places = [
            functools.reduce(lambda c, k: c[k], path, config) for config in configs
        ]
        assert any(last in place for place in places), name


def test_figures_are_as_they_are_drawn_and_the_house_has_every_floor():
    spec = importlib.util.spec_from_file_location("d", ROOT / "docs/draw_figures.py")
    assert spec is not None
    assert spec.loader is not None
    drawn = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(drawn)
    for name, draw in drawn.FIGURES.items():
        assert (ROOT / "docs" / name).read_text() == draw(), name
    floors = [name for names, _ in drawn.HOUSE[:-1] for name in names.split(", ")]
    assert [f"stan_jax.{name}" for name in floors] == list(FLOORS)
