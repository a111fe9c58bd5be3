"""Mean and deviation of AP over seeds, for configs that are to be compared.

    python -m stan_jax.shapes --out=data/shapes_hard --hard
    python benchmarks/seeds.py shapes_hard_baseline shapes_hard_sta --seeds=3 --jobs=2 \
        -- --config.optim.steps=1500 --config.run.cpu_devices=1

Trains and evaluates every config with every seed under runs/seeds; what is there
already is not done again, and refused if it was made with other overrides. What
follows `--` goes to train.py and eval.py.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NUMBERS = ("AP", "AP50", "AP75", "AR1", "AR10")


def run(config, seed, folder, overrides):
    workdir = folder / f"{config}_{seed}"
    start = time.monotonic()
    workdir.mkdir(parents=True, exist_ok=True)
    note = workdir / "overrides.json"
    if not note.is_file():
        note.write_text(json.dumps(overrides))
    if (made := json.loads(note.read_text())) != overrides:
        sys.exit(f"{workdir} was made with {made}: delete it, or name another --folder")
    for script in ("train.py", "eval.py"):
        if (workdir / "scores.json").is_file():
            break
        command = [sys.executable, script, f"--config=configs/{config}.py"]
        command += [f"--workdir={workdir}", f"--config.seed={seed}", *overrides]
        with (workdir / f"{script}.log").open("a") as log:
            subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, check=True)
    scores = json.loads((workdir / "scores.json").read_text())
    print(
        f"{config} seed {seed}: AP {scores['AP']:.3f}, "
        f"{time.monotonic() - start:.0f} s",
        flush=True,
    )
    return config, scores


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", nargs="+")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "seeds")
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    args = parser.parse_args(sys.argv[1:split])
    work = [(c, s) for s in range(args.seeds) for c in args.configs]
    with ThreadPoolExecutor(args.jobs) as pool:
        rows = list(
            pool.map(lambda w: run(*w, args.folder, sys.argv[split + 1 :]), work)
        )
    print(f"\n| config | seeds | {' | '.join(NUMBERS)} |")
    print("|---|---|" + "---|" * len(NUMBERS))
    for config in args.configs:
        scores = [s for c, s in rows if c == config]
        cells = []
        for name in NUMBERS:
            values = [s[name] for s in scores]
            spread = statistics.stdev(values) if len(values) > 1 else float("nan")
            cells.append(f"{statistics.mean(values):.3f} +- {spread:.3f}")
        print(f"| {config} | {len(scores)} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
