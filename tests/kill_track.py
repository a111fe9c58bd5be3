"""Stop `stan track` at random moments; what is left must be whole.

    python tests/kill_track.py --tries=20

In turn Ctrl-C, TERM, HUP and a disk that is full; each time the overlay must play, the
lines be whole and the exit status be that of the cause.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import av  # noqa: E402
import tiny_workdir  # noqa: E402

from stan_jax.results.frame_lines import read_lines  # noqa: E402
from tests import clips, runs  # noqa: E402

CAUSES = ("SIGINT", "SIGTERM", "SIGHUP", "full disk")
LIMIT = (
    "import os, resource, sys; n = int(sys.argv[1]);"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (n, n));"
    "os.execv(sys.argv[2], sys.argv[2:])"
)


def attempt(number, model, clip, out, rng):
    """One run that is stopped; what was left, or an AssertionError."""
    cause = CAUSES[number % len(CAUSES)]
    line = [sys.executable, "-m", "stan_jax.commands.main", "track", str(clip)]
    line += ["--model", str(model), "--out", str(out)]
    if cause == "full disk":
        room = rng.randint(500_000, 4_000_000)
        status, output = runs.finish([sys.executable, "-c", LIMIT, str(room), *line])
        wanted = 1
    else:
        process = runs.start(line)
        while not (out / "tracks.jsonl").exists():
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 6))
        process.send_signal(getattr(signal, cause))
        output, _ = process.communicate(timeout=120)
        status, wanted = process.returncode, 128 + getattr(signal, cause)
    assert status == wanted, (cause, status, output)
    assert "Traceback" not in output, output
    lines = sum(1 for _ in read_lines(out / "tracks.jsonl"))
    shown = 0
    if (out / "overlay.mp4").exists():
        with av.open(str(out / "overlay.mp4")) as container:
            shown = sum(1 for _ in container.decode(video=0))
    if cause == "full disk":
        assert 0 < shown <= lines, (shown, lines)
    else:
        assert shown == lines, (shown, lines, output)
    assert not [name for name in os.listdir(out) if name.startswith(".")]
    return f"{cause}: exit status {status}, {lines} lines, {shown} frames play"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        model = tiny_workdir.save(Path(folder) / "model")
        clip = clips.write(Path(folder) / "a.mp4", count=20_000, rate=Fraction(30))
        for number in range(args.tries):
            out = Path(folder) / f"out{number}"
            print(number, attempt(number, model, clip, out, rng), flush=True)
    print(f"{args.tries} of {args.tries} left whole files")


if __name__ == "__main__":
    main()
