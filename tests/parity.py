"""Compare ours with arrays that the published systems computed, quantity by quantity.

    python tests/parity.py FOLDER [--seed N]

FOLDER holds arrays, manifests, shapes of state dicts (keys/*.json) and `rule.py`, which
gives the weights behind them from their names and the seed. One line per quantity:
ours, the reference's, error, bar, ok. Ends with 1 if one fails, or if a file of arrays
has no check here.
"""

import argparse
import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Row(NamedTuple):
    """One quantity: how large ours and the reference's are, and how far apart."""

    name: str
    ours: float
    reference: float
    error: float
    bar: float

    @property
    def ok(self) -> bool:
        return bool(self.error <= self.bar)  # NaN is not


class Folder:
    """The files of a reference, and the weights behind it."""

    def __init__(self, path: str | Path, seed: int):
        self.path, self.seed = Path(path), seed
        file = self.path / "rule.py"
        spec = importlib.util.spec_from_file_location("rule", file)
        if spec is None or spec.loader is None or not file.is_file():
            raise SystemExit(f"error: {file}: is not there")
        self.rule = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.rule)

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        with np.load(self.path / f"{name}.npz", allow_pickle=False) as file:
            return dict(file)

    def json(self, name: str) -> dict[str, Any]:
        return json.loads((self.path / f"{name}.json").read_text())

    def manifest(self, name: str) -> dict[str, Any]:
        """What the manifests say of one file."""
        found = [json.loads(p.read_text()) for p in self.path.glob("manifest_*.json")]
        for manifest in found:
            if name in manifest:
                return manifest[name]
        return {}

    def weights(self, keys: str, scale: dict[str, float]) -> dict[str, np.ndarray]:
        """The state dict of a family, by the rule."""
        shapes = self.json(f"keys/{keys}")["keys"]
        return {
            key: np.array(0, np.int64)
            if key.endswith("num_batches_tracked")
            else self.weight(key, tuple(shape), shapes, scale)
            for key, shape in shapes.items()
        }

    def weight(self, key, shape, keys, scale) -> np.ndarray:
        array = self.rule.weight(key, shape, keys, self.seed)
        factor = next((f for pattern, f in scale.items() if re.search(pattern, key)), 1)
        return array * np.float32(factor)


def close(name: str, ours, reference, bar: float = 1e-5) -> Row:
    """Largest difference, as a part of the largest value of the reference."""
    ours, reference = (np.asarray(x, np.float64) for x in (ours, reference))
    if ours.shape != reference.shape:
        return Row(f"{name} {ours.shape} {reference.shape}", 0, 0, np.inf, bar)
    sizes = [float(np.abs(x).max(initial=0)) for x in (ours, reference)]
    error = np.abs(ours - reference).max(initial=0) / max(sizes[1], 1e-30)
    return Row(name, *sizes, float(error), bar)


def within(name: str, ours, reference, bar: float) -> Row:
    """Largest difference in the unit of the quantity."""
    ours, reference = (np.asarray(x, np.float64) for x in (ours, reference))
    if ours.shape != reference.shape:
        return Row(f"{name} {ours.shape} {reference.shape}", 0, 0, np.inf, bar)
    sizes = [float(np.abs(x).max(initial=0)) for x in (ours, reference)]
    return Row(name, *sizes, float(np.abs(ours - reference).max(initial=0)), bar)


def same(name: str, ours, reference) -> Row:
    """How many entries differ."""
    ours, reference = np.asarray(ours), np.asarray(reference)
    if ours.shape != reference.shape:
        return Row(f"{name}, entries", ours.size, reference.size, np.inf, 0)
    differ = int((ours != reference).sum())
    return Row(f"{name}, entries", ours.size, reference.size, differ, 0)


def compare(folder: Folder) -> Iterator[Row]:
    """Every quantity of every file of arrays, file by file."""
    import parity_models
    import parity_ops

    checks = {**parity_ops.CHECKS, **parity_models.CHECKS}
    names = sorted(path.stem for path in folder.path.glob("*.npz"))
    if not names:
        raise SystemExit(f"error: {folder.path}: holds no arrays")
    for name in names:
        if name not in checks:
            yield Row(f"{name}: no check is known", 0, 0, np.inf, 0)
            continue
        for row in checks[name](folder):
            yield row._replace(name=f"{name}: {row.name}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="handed to the rule")
    args = parser.parse_args(arguments)
    heads = ("ours", "reference", "error", "bar")
    print(f"{'quantity':64}" + "".join(f"{x:>12}" for x in heads))
    failed = total = 0
    for row in compare(Folder(args.folder, args.seed)):
        total, failed = total + 1, failed + (not row.ok)
        figures = "".join(f"{x:12.4g}" for x in row[1:])
        print(f"{row.name:64}{figures}  {'ok' if row.ok else 'FAILED'}", flush=True)
    print(f"{total - failed} of {total} quantities ok")
    return int(failed > 0)


if __name__ == "__main__":
    root = Path(__file__).parent
    sys.path[:0] = [str(root), str(root.parent)]
    # One module, whether it is run or imported by the checks.
    sys.modules["parity"] = sys.modules["__main__"]
    sys.exit(main())
