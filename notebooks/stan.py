# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # STAN: from a video to tracks
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/<account>/stan_jax/blob/main/notebooks/stan.ipynb)
#
# A small STAN is trained on moving shapes, tracks an mp4, is scored, and shows what its
# attention looks at. Three to five minutes on two CPU cores, less on a GPU. With a model of your
# own, set `MODEL` and `VIDEO` below; everything from "A video goes in" on stays the same.

# %%
import subprocess
import sys
from pathlib import Path

REPOSITORY = "https://github.com/<account>/stan_jax"  # where this notebook came from


def run(*command):
    """Run a command of this Python; its output appears here, a failure stops."""
    command = [sys.executable, *map(str, command)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
    ) as process:
        for line in process.stdout or ():
            print(line, end="")
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")


here = [Path.cwd(), *Path.cwd().parents, Path.cwd() / "stan_jax"]
ROOT = next((folder for folder in here if (folder / "train.py").exists()), None)
if ROOT is None:  # on Colab the notebook comes alone
    ROOT = Path.cwd() / "stan_jax"
    subprocess.run(["git", "clone", "--depth=1", REPOSITORY, ROOT], check=True)
    run("-m", "pip", "install", "--quiet", "-e", ROOT)
    sys.path.insert(0, str(ROOT))  # this kernel started before the installation

# %% [markdown]
# What computes here:

# %%
run(
    "-c",
    "import jax; d = jax.devices();"
    "print(f'jax {jax.__version__}, {len(d)} x {d[0].platform} ({d[0].device_kind})')",
)

# %% [markdown]
# ## Train
#
# A model that `make demo` trained is taken as it is. Otherwise half of its steps
# will do here; a run that was cut short goes on where it stopped.

# %%
DATA, STEPS = "data/shapes", 1500
MODEL = ROOT / "runs/demo"
run("-m", "stan_jax.shapes", f"--out={DATA}")
if not (MODEL / "scores.json").exists():
    MODEL = ROOT / "runs/notebook"
    run(
        "train.py",
        "--config=configs/shapes_sta.py",
        f"--workdir={MODEL}",
        f"--config.optim.steps={STEPS}",
        f"--config.run.eval_every={STEPS}",
    )

# %% [markdown]
# ## A video goes in
#
# Any mp4 will do. This one is drawn here, of a scene that the model has not seen.

# %%
import numpy as np

from stan_jax.media.mp4 import Mp4
from stan_jax.shapes import scene

VIDEO = ROOT / "runs/notebook_video.mp4"
film = scene.draw(np.random.default_rng(2008), 40, 384, 640)
with Mp4(VIDEO, rate=10) as video:
    for picture in film.frames:
        video.add(picture)

# %%
TRACKS = ROOT / "runs/notebook_tracks"
run(
    *("-m", "stan_jax.commands.main", "track", VIDEO, "--model", MODEL),
    *("--out", TRACKS, "--overwrite", "--score", 0.4),
)

# %% [markdown]
# The page that it leaves, as it opens from disk: space plays, a click on a track follows
# it, classes and tracks can be switched off.

# %%
import html

from IPython.display import display

page = html.escape((TRACKS / "index.html").read_text())
frame = f'<iframe srcdoc="{page}" width="100%" height="760" frameborder="0"></iframe>'
display({"text/html": frame, "text/plain": "the page"}, raw=True)

# %% [markdown]
# ## Scores
#
# On the 24 videos that were held out: the official numbers, HOTA, MOTA and IDF1.

# %%
from IPython.display import Image

LABELS = ROOT / DATA / "val/instances.json"
run("eval.py", f"--workdir={MODEL}")
run("-m", "stan_jax.commands.main", "score", LABELS, MODEL / "results.json")
display(Image(str(MODEL / "overlays/contact_sheet.png"), width=900))

# %% [markdown]
# ## The same in Python
#
# `tracker.pairs` gives the pictures along; `tracker.step` would take them one at a time.

# %%
import stan_jax
from stan_jax.training import mesh

mesh.configure(cpu_devices=1)  # also keeps compiled programs for the next start
tracker = stan_jax.load(MODEL, score_threshold=0.4)
frames, seen = [], {}
for frame, tracks in tracker.pairs(VIDEO):
    frames.append(frame.image)
    for number, name in zip(tracks.ids.tolist(), tracks.classes, strict=True):
        seen.setdefault(number, []).append((tracks.seconds, name))
for number, moments in sorted(seen.items()):
    (first, name), (last, _) = moments[0], moments[-1]
    print(
        f"track {number}, a {name}: {len(moments)} frames, {first:.1f} s to {last:.1f} s"
    )

# %% [markdown]
# ## What the attention looks at
#
# For one point of a frame: where each level of the pyramid looks in the frame before
# (Eq. 1 of the paper), and how much gamma times A changes the map (Eq. 3).

# %%
from stan_jax.tracking.look import look
from stan_jax.video.look import rows
from stan_jax.video.overlay import save_sheet

MOMENT = 20
columns = np.nonzero(film.ids[MOMENT])  # where an object lies, for a point to ask for
middle = len(columns[0]) // 2
point = (int(columns[1][middle]), int(columns[0][middle]))
looks = look(tracker, frames[MOMENT - 1], frames[MOMENT], point)
SHEET = TRACKS / "attention.png"
save_sheet(SHEET, rows(frames[MOMENT - 1], frames[MOMENT], point, looks))
display(Image(str(SHEET)))
