"""Wrong calls of train.py and eval.py: one line each, that says the cure."""

import signal
import subprocess
import sys
import time

import pytest

from stan_jax.annotations import youtube_vis
from stan_jax.errors import InputError
from stan_jax.files import sole_user
from stan_jax.loading import batches
from tests import runs

SHAPES = "--config=configs/shapes_sta.py"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["train.py", "--config=configs/nope.py"], "nope.py: there is no such file"),
        (
            ["train.py", SHAPES, "--config.optim.peek_lr=3"],
            'Did you mean "peak_lr" instead of "peek_lr"?',
        ),
        (["train.py", SHAPES, "--config.optim.steps=a"], "invalid literal for int"),
        (
            ["train.py", "--config=configs/ytvis19_r50.py:nope"],
            "must be 'scratch' or one of original, openmmlab",
        ),
        (["train.py", SHAPES, "--wrkdir=x"], "Did you mean: workdir ?"),
        (["eval.py", "--best=maybe"], "--best=maybe"),
    ],
)
def test_a_wrong_flag_or_config_is_one_line(tmp_path, line, said):
    script, *flags = line
    command = [sys.executable, script, *flags, f"--workdir={tmp_path / 'run'}"]
    status, output = runs.finish(command)
    assert status == 1
    assert said in output
    assert output.startswith("error: ")
    assert output.strip().count("\n") == 0
    assert not (tmp_path / "run").exists()


def test_a_device_that_is_not_there_is_one_line(tmp_path):
    command = [sys.executable, "train.py", SHAPES, f"--workdir={tmp_path / 'run'}"]
    status, output = runs.finish(command, JAX_PLATFORMS="tpu")
    assert status == 1
    assert output.startswith("error: JAX_PLATFORMS: JAX finds no tpu here")
    assert output.strip().count("\n") == 0


def test_a_workdir_is_used_by_one_process_at_a_time(tmp_path):
    code = "import sys, time; from stan_jax.files import sole_user\n"
    code += "with sole_user(sys.argv[1]): print('in', flush=True); time.sleep(60)"
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=runs.ROOT,
    )
    try:
        assert runs.lines(other).readline() == "in\n"
        with pytest.raises(InputError, match=f"is in use by process {other.pid}"):
            with sole_user(tmp_path):
                pass
    finally:
        other.kill()
        other.communicate()
    with sole_user(tmp_path):  # a killed process leaves the folder free
        pass


def test_a_folder_in_which_nothing_came_about_goes_again(tmp_path):
    with sole_user(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()
    assert not (tmp_path / "run").exists()
    with sole_user(tmp_path / "run"):
        (tmp_path / "run" / "config.json").touch()
    assert (tmp_path / "run" / "config.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1"])
def test_training_saves_at_other_signals_too(tmp_path, name):
    data = runs.dataset(tmp_path / "data")
    line = runs.command("train.py", data, tmp_path / "run", optim__steps=5000)
    process = runs.start([*line, "--config.run.eval_every=0"])
    for text in runs.lines(process):
        if text.startswith("step 2/"):
            break
    time.sleep(0.2)
    process.send_signal(getattr(signal, name))
    output, _ = process.communicate(timeout=120)
    assert f"stopped by {name}; step" in output
    assert process.returncode == 0
    shorter = runs.command("train.py", data, tmp_path / "run", optim__steps=1)
    status, output = runs.finish([*shorter, "--config.optim.warmup_steps=0"])
    assert status == 1
    assert "optim.steps: is 1, the run is at step" in output


def test_masks_that_vanish_at_the_training_scale_are_counted(make_folder):
    folder = make_folder()
    dataset = youtube_vis.load(folder.path, folder.frames)
    whole = batches.vanishing(dataset, (64, 96), ((64, 96),))
    assert whole[0] == 0
    assert whole[1] > 0
    lost, masks = batches.vanishing(dataset, (2, 2), ((2, 2),))
    assert masks == whole[1]
    assert 0 < lost <= masks
