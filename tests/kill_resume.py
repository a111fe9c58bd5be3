"""Whether training survives kill -9: final parameters against an uninterrupted run.

    python tests/kill_resume.py [--tries=5] [--seed=0]

Each try kills train.py three times at random moments, starts it again until it ends,
and compares all that the last checkpoint holds, bit for bit. Exit status 1 if one try
differs.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from orbax.checkpoint import v1

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from stan_jax.training import metrics  # noqa: E402
from tests import runs  # noqa: E402


def final_state(workdir: Path, last: int = runs.STEPS) -> dict:
    """Every array of the newest checkpoint, which is that of step `last`, by path."""
    with v1.training.Checkpointer(str(workdir / "checkpoints")) as checkpoints:
        step = checkpoints.latest.step
        assert step == last, step
        about = checkpoints.checkpointables_metadata(step).metadata["state"]
        place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        table = {
            path: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)
            for path, x in about.items()
        }
        found = checkpoints.load_checkpointables(step, {"state": table})["state"]
    return {path: np.asarray(x) for path, x in found.items()}


def differences(a: dict, b: dict) -> list[str]:
    """Paths whose arrays are not the same bits."""
    assert a.keys() == b.keys()
    return [k for k in a if a[k].tobytes() != b[k].tobytes()]


def killed_and_resumed(data: Path, workdir: Path, moments: list[float]) -> int:
    """Run train.py, killing it after each of these seconds; how often it died."""
    line = runs.command("train.py", data, workdir)
    kills = 0
    for seconds in moments:
        process = runs.start(line)
        deadline = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        if process.poll() is None:
            process.kill()
            kills += 1
        process.communicate()
    code, output = runs.finish(line)
    assert code == 0, output
    steps = [line["step"] for line in metrics.read(workdir) if "loss" in line]
    assert steps == list(range(1, runs.STEPS + 1)), steps
    return kills


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        data = runs.dataset(Path(folder) / "data")
        whole = Path(folder) / "whole"
        runs.finish(runs.command("train.py", data, whole))  # fills the compile cache
        start = time.monotonic()
        timed = Path(folder) / "timed"
        code, output = runs.finish(runs.command("train.py", data, timed))
        seconds = time.monotonic() - start
        assert code == 0, output
        want = final_state(whole)
        print(f"uninterrupted: {seconds:.1f} s; two runs differ in", end=" ")
        print(f"{len(differences(want, final_state(timed)))} of {len(want)} arrays")
        for number in range(args.tries):
            moments = [rng.uniform(0.3, 1.05) * seconds for _ in range(3)]
            workdir = Path(folder) / f"try{number}"
            kills = killed_and_resumed(data, workdir, moments)
            wrong = differences(want, final_state(workdir))
            failed += bool(wrong)
            verdict = f"{len(wrong)} arrays differ" if wrong else "bit-equal"
            print(f"try {number}: killed {kills} times, {verdict}", flush=True)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
