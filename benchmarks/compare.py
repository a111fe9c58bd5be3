r"""What a frame and a training step take here, and in what people would use instead.

    python benchmarks/compare.py --json=speed.json \
        --peer "torchvision=VENV/bin/python benchmarks/peer_torchvision.py" \
        --peer "mmdet=VENV/bin/python benchmarks/peer_mmdet.py"
    python benchmarks/compare.py --rounds=3 --against=speed.json    # make bench

R50-FPN, float32, 640 x 360, random weights, the same moving discs for all. Ours tracks
and attends (preset `paper`). Every subject is a process that waits; they are called in
turn, so that a busy minute meets all of them, and a ratio is the median over the turns.
A peer is any command that serves as `turns.py` says; it is given the name of the work
and may decline it. So a checkout of an earlier commit is a peer, for its training step:

    python benchmarks/compare.py train \
        --peer "before=.venv/bin/python BEFORE/benchmarks/model.py --serve"

--against: fails where ours takes more than --most times its wall time in that json; one
of another machine is refused.
"""

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
import time
from pathlib import Path

import turns

MODEL = Path(__file__).with_name("model.py")
WORK = {  # what it is, and how model.py is asked for it
    "frame10": ("one frame, 10 detections", "step --detections=10"),
    "frame100": ("one frame, 100 detections", "step --detections=100"),
    "clip": ("a frame of a clip of 4, 10 detections", "clip --detections=10"),
    "train": ("training step, key and reference frame", "train"),
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
    known = read(args.against) if args.against else None
    peers = dict(peer.split("=", 1) for peer in args.peer)
    report = dict(machine=machine(), date=time.strftime("%F"), rounds=args.rounds)
    report["work"] = {work: measure(work, peers, args.rounds) for work in args.work}
    print(table(report))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    if known:
        slower = regressions(known["work"], report["work"], args.most)
        sys.exit("\n".join(slower) or None)


def read(path):
    """Return an earlier report of this machine."""
    known = json.loads(path.read_text())
    if known["machine"] != machine():
        theirs = f"{path} is of another machine, {known['machine']}"
        sys.exit(f"{theirs}, this is {machine()}")
    return known


def measure(work, peers, rounds):
    """Return by subject what each of its turns took; `load` is the machine's."""
    commands = {
        "ours": f"{shlex.join([sys.executable, str(MODEL)])} {WORK[work][1]} --serve"
    }
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
                found[name].append(subject.turn())
    finally:
        for subject in subjects.values():
            subject.stop()
    return found


def table(report):
    """Return a table of Markdown: a row for each work, a column for each subject."""
    works = report["work"].values()
    names = list(dict.fromkeys(name for found in works for name in found))
    names.remove("load")
    loads = [load for found in works for load in found["load"]]
    head = (
        f"{report['machine']['processor']}, {report['machine']['cores']} cores, "
        f"load {min(loads):.1f} to {max(loads):.1f}, {report['date']}, "
        f"medians of {report['rounds']}"
    )
    lines = [f"| {head} | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for work, found in report["work"].items():
        cells = [cell(found, name) for name in names]
        lines.append(f"| {WORK[work][0]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(found, name):
    """Return a subject's wall time and memory, and ours in terms of it."""
    if name not in found:
        return ""
    wall, memory = (
        statistics.median(turn[key] for turn in found[name])
        for key in ("seconds", "gigabytes")
    )
    text = f"{wall:.2f} s, {memory:.2f} GB"
    if name == "ours":
        return text
    low, ratio, high = spread(found["ours"], found[name])
    return f"{text}; ours takes {ratio:.2f} ({low:.2f} to {high:.2f}) of it"


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


if __name__ == "__main__":
    main()
