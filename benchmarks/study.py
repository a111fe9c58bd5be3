r"""Every figure that the pages give of the attention, by one command.

    python benchmarks/study.py --jobs=2

Makes the sets, then trains and compares the variants of `configs/shapes_ablation.py` by
`ablation.py`, part by part, under runs/study. What a run found is kept in docs/study,
and a run that is there is not made again: delete the folder to make all of it anew. A
run cut short goes on. Leaves docs/study.json, a figure of each part beside it, and the
page docs/study.md that is made of them.

The real videos are those of DAVIS 2016, composed to several objects each; the part is
left out where ../shared/data does not have them.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

import ablation

from stan_jax.configs import shapes_ablation
from stan_jax.shapes import generate, spoil

ROOT = Path(__file__).resolve().parents[1]
MIX = ROOT.parent / "shared" / "data" / "davis16_mix"
CHOICES = "baseline", "paper", "best"
OTHERS = [v for v in shapes_ablation.VARIANTS if v not in CHOICES]
SHOWN = "AP all", "AP clean", "AssA", "recall spoilt", "recall clean"  # of the page
COVERED = "AP all", "AP spoilt", "AP clean", "AssA", "recall clean"
HEAD = """# The attention, measured

Made by `python benchmarks/study.py` of what each run found, which is kept in
`docs/study/`; all figures are in `docs/study.json`. Mean and deviation over seeds; in
brackets the mean difference to the first row, the same seed against the same seed, with
its 95 % interval by bootstrap over videos and seeds; ratios likewise. Spoilt frames are
those that the weather of the set met; recall counts objects of a frame that some
predicted mask overlaps by 0.5. Hours are wall time, also where other work ran beside
it."""


class Part(NamedTuple):
    """A comparison on one set, by seeds that all its variants have a record of."""

    data: str
    variants: list[str]
    seeds: list[int]
    steps: int
    shown: tuple[str, ...] = SHOWN


PARTS = {
    "blank": Part("blank", [*CHOICES], [0, 1, 2, 3, 4], 3400),
    "covered": Part("covered", [*CHOICES], [0, 1, 3], 6800, COVERED),
    "hard": Part("hard", [*CHOICES], [0, 1, 2, 3, 4], 6800),
    "davis": Part("davis", [*CHOICES], [0, 1, 2], 1600),
    "variants": Part("blank", ["baseline", *OTHERS], [0, 1, 2], 3400),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=[*PARTS], help=", ".join(PARTS))
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    args = parser.parse_args()
    out = ROOT / "docs" / "study.json"
    for name in args.parts:
        part = PARTS[name]
        if part.data == "davis" and not MIX.is_dir():
            print(f"{name}: left out, {MIX} is not there")
            continue
        make_set(part.data)
        steps = f"{part.data}_{part.steps}"
        found = ROOT / "runs" / "study" / f"{name}.json"
        found.parent.mkdir(parents=True, exist_ok=True)
        seeds = len(part.seeds)
        print(f"{name}: {len(part.variants)} variants, {seeds} seeds, {steps}")
        ablation.main(
            [
                *(f"shapes_ablation:{part.data}-{v}" for v in part.variants),
                f"--seeds={','.join(map(str, part.seeds))}",
                f"--jobs={args.jobs}",
                f"--folder={found.parent / steps}",
                f"--records={out.parent / 'study' / steps}",
                f"--json={found}",
                f"--figure={out.parent / f'study_{name}.png'}",
                "--",
                f"--config.optim.steps={part.steps}",
            ]
        )
        study = json.loads(out.read_text()) if out.is_file() else {}
        study[name] = part._asdict() | json.loads(found.read_text())
        del study[name]["command"]  # which has paths of this machine
        out.write_text(json.dumps(study, indent=1) + "\n")
        out.with_suffix(".md").write_text(page(study))


def page(study):
    """Return the page of all parts, as Markdown."""
    lines = [HEAD]
    for name, part in study.items():
        configs = part["configs"]
        names = [n for n in part["shown"] if n in next(iter(configs.values()))]
        what = f"{part['data']}, {part['steps']} steps, {len(part['seeds'])} seeds"
        lines += [
            f"## `{name}`: {what}",
            f"{part['hours']:.1f} hours, {part['date']}.",
            ablation.table(configs, names),
            ratios(configs),
            f"![Differences of all figures](study_{name}.png)",
        ]
    return "\n\n".join(line for line in lines if line) + "\n"


def ratios(configs):
    """Return the AP of each config over that of the first, in words."""
    parts = []
    for name, row in configs.items():
        if "ratio" in (ap := row["AP all"]):
            low, high = ap["ratio_interval"]
            short = name.partition("-")[2]
            parts.append(f"`{short}` {ap['ratio']:.2f} ({low:.2f} to {high:.2f})")
    return f"AP over that of the first row: {', '.join(parts)}." if parts else ""


def make_set(name):
    """Make the set that the configs of a name read, if it is not there."""
    folder = ROOT / "data" / f"shapes_{name}"
    if name != "davis":
        generate.main([f"--out={folder}", f"--weather={name}", "--val_videos=96"])
        return
    for split in ("train", "val"):
        given = MIX / split / "instances.json", MIX / split / "JPEGImages"
        spoil.main([*map(str, given), f"--out={folder / split}", "--weather=hard"])


if __name__ == "__main__":
    sys.exit(main())
