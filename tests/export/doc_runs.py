"""The programs of docs/export.md, each run by a stranger: a process of its own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import tiny_model
import tiny_workdir

from tests.export import flat_runs

PAGE = Path(__file__).parents[2] / "docs/export.md"
# What its program has, and what it must do without.
RUNTIMES = {
    "jax": ("export.deserialize(", {"stan_jax", "flax", "orbax", "optax"}),
    "onnxruntime": ("InferenceSession(", {"stan_jax", "flax", "jax", "onnx"}),
}


def program(runtime):
    """The block of the page that is for a runtime."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (block,) = (block for block in blocks if RUNTIMES[runtime][0] in block)
    return block


def tracks(runtime, folder):
    """What it prints of the video: rows of frame, id, class and box."""
    np.save(folder / "frames.npy", flat_runs.VIDEO)
    code = "import numpy as np\nframes = np.load('frames.npy')\n" + program(runtime)
    code += "\nimport sys, json\nprint(json.dumps(sorted(sys.modules)))"
    cached = jax.config.values["jax_compilation_cache_dir"]
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cached)},
    )
    assert done.returncode == 0, done.stderr
    *lines, modules = done.stdout.splitlines()
    assert not RUNTIMES[runtime][1] & set(json.loads(modules))
    return [line.split() for line in lines]


def check(found, case):
    """Hold the rows against `rollout.step` on frames that fill the canvas."""
    _, wanted = case.steps(np.array(tiny_model.CANVAS, np.int32))
    rows = [
        (t, tracks.ids[n], tiny_workdir.NAMES[tracks.labels[n]], tracks.boxes[n])
        for t, tracks in enumerate(wanted)
        for n in np.flatnonzero(tracks.valid)
    ]
    for got, (t, track, name, box) in zip(found, rows, strict=True):
        assert got[:3] == [str(t), str(track), name]
        np.testing.assert_allclose(np.array(got[3:], float), box, rtol=0, atol=1e-3)
