"""Real processes that train as one, on one machine."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import pytest
from orbax.checkpoint import multihost

from stan_jax import inference
from stan_jax.errors import InputError
from stan_jax.training import processes
from tests import kill_resume, runs

pytestmark = pytest.mark.slow

# All but the first process compile anew at each start: so as quickly as can be. The
# second flag, a third of the time again, is known to jax before 0.11 only.
_FLAGS = ["--xla_backend_optimization_level=0"]
if jax.__version_info__ < (0, 11):
    _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
QUICK = {"XLA_FLAGS": " ".join(_FLAGS)}
LONG: dict[str, Any] = dict(
    config="shapes_baseline",
    optim__steps=40,
    run__eval_every=0,
    run__log_every=5,
    run__save_every=500,
    run__shard_state=True,
)


class Group:
    """Processes with one device each, that run one line; ended at the latest with it.

    only: more arguments of some of them, by number.
    """

    def __init__(self, line: list[str], logs: Path, number=2, only=None):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            place = f"127.0.0.1:{free.getsockname()[1]}"
        line = [*line, f"--coordinator={place}", f"--processes={number}"]
        self.logs = [logs.parent / f"{logs.name}_{i}.log" for i in range(number)]
        self.all = []
        for i, log in enumerate(self.logs):
            more = [f"--process={i}", *(only or {}).get(i, [])]
            with log.open("w") as out:
                self.all.append(
                    subprocess.Popen(
                        line + more,
                        stdout=out,
                        stderr=subprocess.STDOUT,
                        env=os.environ | {"JAX_PLATFORMS": "cpu"} | QUICK,
                        cwd=runs.ROOT,
                    )
                )

    def __enter__(self) -> "Group":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.all:
            process.kill()
            process.wait()

    def text(self, i: int) -> str:
        return self.logs[i].read_text()

    def until(self, text: str, seconds: float = 200) -> None:
        """Wait until the first process has printed it."""
        end = time.monotonic() + seconds
        while text not in self.text(0):
            assert time.monotonic() < end, self.text(0) + self.text(1)
            assert all(p.poll() is None for p in self.all), self.text(0) + self.text(1)
            time.sleep(0.02)

    def codes(self, seconds: float = 200) -> list[int]:
        end = time.monotonic() + seconds
        return [p.wait(timeout=max(0.1, end - time.monotonic())) for p in self.all]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return runs.dataset(tmp_path_factory.mktemp("shapes") / "set")


def training(data: Path, workdir: Path, only=None, **changes) -> Group:
    line = runs.command("train.py", data, workdir, run__cpu_devices=1, **changes)
    return Group(line, workdir, only=only)


def alone(data: Path, *workdirs: Path, **changes) -> None:
    """One process with two devices in each workdir, side by side."""
    lines = [runs.command("train.py", data, workdir, **changes) for workdir in workdirs]
    for process in [runs.start(line, **QUICK) for line in lines]:
        output, _ = process.communicate(timeout=500)
        assert process.returncode == 0, output


def lines(workdir: Path) -> list[dict]:
    found = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in x.items() if k != "frames_per_s"} for x in found]


def assert_equal_bits(a: Path, b: Path, step: int) -> None:
    want, got = (kill_resume.final_state(x, step) for x in (a, b))
    assert not kill_resume.differences(want, got)


def test_two_processes_are_one_with_two_devices(data, tmp_path):
    changes = dict(run__eval_every=2, run__keep_checkpoints=1)
    want = tmp_path / "one"
    alone(data, want, **changes)
    with training(data, tmp_path / "two", **changes) as group:
        assert group.codes() == [0, 0], group.text(0) + group.text(1)
    assert_equal_bits(want, tmp_path / "two", runs.STEPS)
    assert lines(want) == lines(tmp_path / "two")
    kept = [sorted(os.listdir(x / "checkpoints")) for x in (want, tmp_path / "two")]
    assert kept[0] == kept[1]  # the newest, and the best by the first one's figures
    name = "val_results.json"
    assert (tmp_path / "two" / name).read_bytes() == (want / name).read_bytes()
    assert "2 processes, 1 pairs each" in group.text(0)
    assert "step" not in group.text(1)  # one of them prints

    # Three for two videos: one of them has none.
    out = tmp_path / "three.json"
    line = [sys.executable, "eval.py", f"--workdir={tmp_path / 'two'}", f"--out={out}"]
    with Group(line, out, number=3) as group:
        assert group.codes() == [0, 0, 0], "".join(map(group.text, range(3)))
    assert out.read_bytes() == (want / name).read_bytes()
    assert f"2 videos, 6 frames: {out}" in group.text(0)
    assert group.text(0).count("Average") == len(inference.OFFICIAL)
    assert "Average" not in group.text(1) + group.text(2)


def test_stopped_then_killed_and_finished_by_one_process(data, tmp_path):
    """SIGINT is passed on as SIGTERM, which the runtime tells the others."""
    workdir, last = tmp_path / "run", LONG["optim__steps"]
    with training(data, workdir, **LONG) as group:
        group.until("step 5/")
        group.all[1].send_signal(signal.SIGINT)
        assert group.codes(60) == [0, 0], group.text(0) + group.text(1)
    assert "stopped by a signal to one of the processes" in group.text(0)
    saved = [int(x.name) for x in (workdir / "checkpoints").iterdir()]
    assert len(saved) == 1
    assert 5 <= saved[0] < last

    with training(data, workdir, **LONG) as group:
        group.until(f"step {saved[0] // 5 * 5 + 5}/")
        assert f"resumed at step {saved[0]}" in group.text(0)
        group.all[1].kill()
        assert group.codes(10) == [1, -signal.SIGKILL]
    *_, told, who = group.text(0).splitlines()
    assert told.startswith("process 0: error: another process has ended; start all")
    assert who == "process 0: process 1 does not answer"
    assert "Traceback" not in group.text(0)

    alone(data, workdir, tmp_path / "one", **LONG)
    assert_equal_bits(tmp_path / "one", workdir, last)


def test_bad_file_of_one_ends_all_with_its_reason(data, tmp_path):
    only = {1: ["--config.data.train.annotations=nowhere.json"]}
    began = time.monotonic()
    with training(data, tmp_path / "run", only=only) as group:
        assert group.codes(60) == [1, 1]
    assert time.monotonic() - began < 30
    for i in (0, 1):
        assert "error: process 1: nowhere.json: must be a readable" in group.text(i)
        assert "Traceback" not in group.text(i)


def test_auto_where_there_is_no_cluster_is_one_line(data, tmp_path):
    line = [*runs.command("train.py", data, tmp_path / "run"), "--coordinator=auto"]
    code, output = runs.finish(line)
    assert code == 1
    assert "--coordinator: auto finds no cluster here" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("place", "number", "index", "message"),
    [
        ("", 2, None, "--coordinator: must be named"),
        ("localhost:1", 2, None, "--process: must be below"),
        ("localhost:1", 2, 2, "--process: must be below --processes = 2, is 2"),
    ],
)
def test_who_is_who_must_be_whole(place, number, index, message):
    with pytest.raises(InputError, match=message):
        processes.join(place, number, index)


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ("# tasks: 2/4.\nSome timed out task names:\n3\n1\n\n\nRPC: /x", [1, 3]),
        ("Some timed out task names:\n/job:jax_worker/replica:0/task:12\n", [12]),
        ("UNAVAILABLE: Failed to send RPC to coordination service.", [0]),
        ("something else", []),
        (None, []),
    ],
)
def test_who_does_not_answer_is_what_the_runtime_says(monkeypatch, said, names):
    def barrier(*, key, timeout_ms):
        if said is not None:
            raise jax.errors.JaxRuntimeError(said)

    monkeypatch.setattr(multihost, "get_barrier_sync_fn", lambda: barrier)
    assert processes.missing() == names
