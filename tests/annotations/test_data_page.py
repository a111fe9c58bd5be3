"""Every block of docs/data.md that leads from a tool to a training run, executed."""

import os
import re
import shlex
from pathlib import Path

import pytest
import runs
from tool_exports import CLASSES, SOURCES, labelme

from stan_jax.annotations import youtube_vis
from stan_jax.annotations.formats import table
from stan_jax.commands import main

PAGE = (Path(__file__).parents[2] / "docs/data.md").read_text()
SECTION = PAGE.partition("## From a labelling tool")[2].partition("\n## ")[0]
BLOCKS = [
    [line.replace("\\\n", " ").strip() for line in re.split(r"(?<!\\)\n", block)]
    for block in re.findall(r"(?:^    .*\n)+", SECTION, re.MULTILINE)
]
NAMES = [" ".join(block[0].split()[2:4]) for block in BLOCKS]


def settings(line):
    """The settings of a command line of train.py."""
    return dict(
        word.removeprefix("--config.").split("=", 1)
        for word in shlex.split(line)
        if word.startswith("--config.")
    )


def converted(block):
    """Run all but the last line of a block; return the settings of that one."""
    *lines, train = [re.sub(r" +#.*", "", line) for line in block if line]
    for line in lines:
        program, *words = shlex.split(line)
        assert program == ".venv/bin/stan"
        main.main(words)
    assert train.startswith(".venv/bin/python train.py --config=configs/")
    return settings(train)


def test_every_source_has_a_block():
    blocks = [name for name in NAMES if name.split()[0] in table.SOURCES]
    kinds = {name.split()[0] for name in NAMES if name.split()[0] != "coco"}
    assert kinds == set(table.SOURCES)
    assert set(SOURCES) == {*blocks, "coco train/_annotations.coco.json"}


@pytest.mark.parametrize("name", SOURCES)
def test_blocks_lead_from_a_tool_to_a_set_that_can_be_trained_on(
    tmp_path, monkeypatch, capsys, name
):
    monkeypatch.chdir(tmp_path)
    SOURCES[name]()
    given = converted(BLOCKS[NAMES.index(name)])
    kinds = set()
    for split in ("train", "val"):
        read = youtube_vis.load(*(given[f"data.{split}.{k}"] for k in KEYS))
        youtube_vis.check_frames(read)
        tracks = [track for video in read.videos for track in video.tracks]
        assert len(tracks) == 2 * len(read.videos)
        kinds |= {read.categories[track.label].name for track in tracks}
    if name.split()[0] not in ("davis", "objects", "bdd100k", "mots-txt"):
        assert kinds == set(CLASSES)
    assert "left out 0 videos, 0 frames, 0 tracks, 0 masks" in capsys.readouterr().out


KEYS = "annotations", "frames"


@pytest.mark.slow
def test_the_last_line_of_a_block_trains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    labelme()
    given = converted(BLOCKS[NAMES.index("labelme videos")])
    changes = {key: os.path.abspath(value) for key, value in given.items()}
    small = runs.SMALL | changes | {"optim.steps": 2, "run.eval_every": 2}
    line = runs.command("train.py", tmp_path, tmp_path / "run")[:4]
    line += [f"--config.{key}={value}" for key, value in small.items()]
    code, output = runs.finish(line)
    assert code == 0, output
    assert "step 2/2" in output
