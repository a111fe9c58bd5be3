r"""What a frame and a training step take here, and in what people would use instead.

    python benchmarks/compare.py --json=speed.json \
        --peer "torchvision=VENV/bin/python benchmarks/peer_torchvision.py" \
        --peer "mmdet=VENV/bin/python benchmarks/peer_mmdet.py"
    python benchmarks/compare.py --rounds=3 --against=speed.json    # make bench

R50-FPN, float32, 640 x 360, random weights, the same moving discs for all. Ours tracks
and attends (preset `paper`). Every subject is a process that waits; they are called in
turn, so that a busy minute meets all of them, and a ratio is the median over the turns.
A peer is any command that serves as `turns.py` says; it is given the name of the work
and may decline it. Figures are only ever of one machine: a json of another is refused.

--against: fails where ours takes more than --most times its wall time in that json.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

import turns

MODEL = Path(__file__).with_name("model.py")
WORK = {  # name: part and options of model.py, frames of a call
    "frame10": (("step", "--detections=10"), 1),
    "frame100": (("step", "--detections=100"), 1),
    "clip": (("clip", "--detections=10"), 4),
    "train": (("train",), 1),
}
WORK_NAMES = {
    "frame10": "one frame, 10 detections",
    "frame100": "one frame, 100 detections",
    "clip": "a frame of a clip of 4, 10 detections",
    "train": "training step, key and reference frame",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", nargs="*", default=[*WORK], help=", ".join(WORK))
    parser.add_argument("--peer", action="append", default=[], help="NAME=COMMAND")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="where all figures go")
    parser.add_argument("--against", type=Path, help="an earlier json of this machine")
    parser.add_argument("--most", type=float, default=1.15, help="times slower")
    args = parser.parse_args()
    known = {}
    for path in (args.json, args.against):
        if path and path.is_file():
            known[path] = json.loads(path.read_text())
            same_machine(known[path]["machine"], path)
    found = {}
    for work in args.work:
        found[work] = measure(
            work, dict(p.split("=", 1) for p in args.peer), args.rounds
        )
        print(table(work, found[work]), flush=True)
    if args.json:
        report = dict(machine=machine(), date=time.strftime("%F"), rounds=args.rounds)
        work = known.get(args.json, {}).get("work", {}) | found
        report |= {"work": work}
        args.json.write_text(json.dumps(report, indent=1) + "\n")
        print("\n" + summary(report))
    if args.against:
        slower = regressions(known[args.against]["work"], found, args.most)
        sys.exit("\n".join(slower) or None)


def measure(work, peers, rounds):
    """Return by subject what each of its turns took; `load` is the machine's."""
    options, frames = WORK[work]
    commands = {"ours": [sys.executable, str(MODEL), *options, "--serve"]}
    commands |= {name: f"{command} {work}" for name, command in peers.items()}
    subjects, found = {}, {"load": []}
    try:
        for name, command in commands.items():
            try:
                subjects[name] = turns.Subject(command)
                found[name] = []
            except RuntimeError as error:
                if name == "ours":
                    raise
                print(f"{work}: without {name}: {error}", file=sys.stderr)
        for _ in range(rounds):
            found["load"].append(os.getloadavg()[0])
            for name, subject in subjects.items():
                turn = subject.turn()
                share = frames if name == "ours" else 1
                turn |= {k: turn[k] / share for k in ("seconds", "cpu")}
                found[name].append(turn)
    finally:
        for subject in subjects.values():
            subject.stop()
    return found


def table(work, found):
    """Return medians of a work as lines of Markdown, and ours in terms of each peer."""
    lines = [
        f"\n| {work} | wall | CPU | peak memory | ours / it, turn by turn |",
        "|---|---|---|---|---|",
    ]
    for name in [name for name in found if name != "load"]:
        middle = {
            k: statistics.median(t[k] for t in found[name]) for k in found[name][0]
        }
        low, ratio, high = spread(found["ours"], found[name])
        ratios = "" if name == "ours" else f"{ratio:.2f} ({low:.2f} to {high:.2f})"
        lines.append(
            f"| {name} | {middle['seconds']:.2f} s | {middle['cpu']:.2f} s "
            f"| {middle['gigabytes']:.2f} GB | {ratios} |"
        )
    loads = f"{min(found['load']):.1f} to {max(found['load']):.1f}"
    lines.append(
        f"\n{machine()['processor']}, {machine()['cores']} cores, load {loads}"
    )
    return "\n".join(lines)


def summary(report):
    """Return the table of docs/measured.md: a row for each work, a column a subject."""
    names = list(dict.fromkeys(n for found in report["work"].values() for n in found))
    names.remove("load")
    head = f"{report['machine']['processor']}, {report['machine']['cores']} cores"
    head += f", {report['date']}, medians of {report['rounds']}"
    lines = [f"| {head} | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for work, found in report["work"].items():
        cells = []
        for name in names:
            turns_of = found.get(name, [])
            if not turns_of:
                cells.append("")
                continue
            wall, memory = (
                statistics.median(turn[key] for turn in turns_of)
                for key in ("seconds", "gigabytes")
            )
            cells.append(f"{wall:.2f} s, {memory:.2f} GB")
            if name != "ours":
                low, ratio, high = spread(found["ours"], turns_of)
                cells[-1] += f"; ours takes {ratio:.2f} ({low:.2f} to {high:.2f}) of it"
        lines.append(f"| {WORK_NAMES[work]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(ours, theirs):
    """Return the least, median and largest ratio of wall times of the same turn."""
    pairs = zip(ours, theirs, strict=True)
    ratios = sorted(a["seconds"] / b["seconds"] for a, b in pairs)
    return ratios[0], statistics.median(ratios), ratios[-1]


def regressions(before, now, most):
    """Return a line for each work that takes ours longer than it may."""
    lines = []
    for work in before.keys() & now.keys():
        old, new = (
            statistics.median(turn["seconds"] for turn in found[work]["ours"])
            for found in (before, now)
        )
        if new > most * old:
            lines.append(f"{work}: {new:.2f} s, was {old:.2f} s")
    return lines


def machine():
    """Return what makes figures comparable."""
    cpu, flags = platform.processor() or platform.machine(), ""
    about = Path("/proc/cpuinfo")
    if about.is_file():
        lines = [line.partition(":") for line in about.read_text().splitlines()]
        values = {key.strip(): value.strip() for key, _, value in lines}
        cpu, flags = values.get("model name", cpu), values.get("flags", "")
    vectors = [v for v in ("avx2", "avx512f", "amx_bf16") if v in flags.split()]
    return dict(processor=cpu, vectors=vectors, cores=os.cpu_count())


def same_machine(theirs, path):
    if theirs != machine():
        sys.exit(f"{path} is of another machine, {theirs}, this is {machine()}")


if __name__ == "__main__":
    main()
