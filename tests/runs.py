"""A small dataset, a small config of the demo, and train.py as a user runs it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

from stan_jax.shapes import generate

ROOT = Path(__file__).resolve().parents[1]
STEPS = 8
# A model of some thousand parameters, on frames of 64 x 96.
SMALL = {
    "data.canvas": "(64, 96)",
    "data.scale_hw": "(64, 96)",
    "data.train_scales_hw": "((64, 96),)",
    "data.batch": 2,
    "data.num_threads": 1,
    "model.backbone_args.width": 8,
    "model.channels": 16,
    "model.box_channels": 16,
    "model.mask_channels": 8,
    "model.mask_depth": 1,
    "model.embed_channels": 8,
    "optim.steps": STEPS,
    "optim.warmup_steps": 2,
    "run.cpu_devices": 2,
    "run.log_every": 1,
    "run.save_every": 2,
    "run.eval_every": STEPS,
    "run.overlays": 1,
    "run.overlay_score": 0.0,
    "tracking.clip_length": 2,
}


def dataset(folder: Path) -> Path:
    """A made set of 4 training and 2 validation videos."""
    generate.generate(
        folder,
        seed=1,
        train_videos=4,
        val_videos=2,
        frames=3,
        height=64,
        width=96,
    )
    return folder


def command(script: str, data: Path, workdir: Path, config="shapes_sta", **changes):
    """The command line of a script; changes: settings, with __ for a dot."""
    settings: dict[str, Any] = dict(SMALL)
    for split in ("train", "val"):
        settings[f"data.{split}.annotations"] = data / split / "instances.json"
        settings[f"data.{split}.frames"] = data / split / "JPEGImages"
    settings |= {key.replace("__", "."): value for key, value in changes.items()}
    line = [sys.executable, script, f"--config=configs/{config}.py"]
    line += [f"--workdir={workdir}"]
    return line + [f"--config.{key}={value}" for key, value in settings.items()]


def start(line: list[str], **variables: str) -> subprocess.Popen:
    """The script, running; variables: more of its environment."""
    env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1"} | variables
    return subprocess.Popen(
        line,
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(line: list[str], **variables: str) -> tuple[int, str]:
    """Exit status and output of the script; variables: more of its environment."""
    process = start(line, **variables)
    output, _ = process.communicate(timeout=500)
    return process.returncode, output


def lines(process: subprocess.Popen) -> IO[str]:
    """What a started script prints, as it prints it."""
    assert process.stdout is not None
    return process.stdout
