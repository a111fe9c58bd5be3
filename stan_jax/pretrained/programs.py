"""Traced programs of trained models, kept on disk: a second start need not trace them.

Tracing takes longer than loading the compiled program. What is kept is StableHLO of
`jax.export`, beside the compile cache of `mesh.configure` and only where that is on.
Its name holds all that it depends on: the model, how it tracks, our own source, JAX.
"""

import hashlib
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import jax
from jax import export

from stan_jax import compiling
from stan_jax.files import replacing
from stan_jax.model import parameters
from stan_jax.model.parameters import Parameters
from stan_jax.pretrained import record
from stan_jax.pretrained.record import Record
from stan_jax.tracking import program as walk
from stan_jax.tracking.program import Program
from stan_jax.types import MemoryQueue, Tracks

ROOT = Path(__file__).parents[1]
SOURCES = ("model", "ops", "tracking", "types.py")

export.register_namedtuple_serialization(MemoryQueue, serialized_name="MemoryQueue")
export.register_namedtuple_serialization(Tracks, serialized_name="Tracks")


class KeptProgram:
    """What a `Tracker` needs of a `Program`, from disk where it was kept.

    Args:
      found: the model and how it tracks.
      make: the program itself, for what is not on disk.
      folder: where traced programs are kept.
    Raises: InputError as `Program`.
    """

    def __init__(self, found: Record, make: Callable[[], Program], folder: Path):
        self.settings = found.settings
        self.ran = False
        self._found, self._make, self._folder = found, make, folder
        self._program: Program | None = None
        self._calls: dict[tuple, tuple[export.Exported, Any]] = {}
        self._one_at_a_time = Lock()  # devices that track side by side share it
        self._at(found.settings.clip_length, found.settings.canvas)

    @property
    def paths(self) -> list[str]:
        """Paths of the parameters that it reads."""
        exported, _ = next(iter(self._calls.values()))
        return sorted(jax.tree.unflatten(exported.in_tree, exported.in_avals)[0][0])

    def empty(self, canvas_hw: tuple[int, int]) -> MemoryQueue:
        """Return the memory of a video that has not begun."""
        exported, _ = self._at(self.settings.clip_length, canvas_hw)
        args, _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)
        # On the device, as what `clip` gives back: else it would be compiled twice.
        return jax.device_put(walk.zeros(args[1]), jax.local_devices()[0])

    def clip(self, values: Parameters, memory, frames, size_hw, valid, clock):
        """Run it, as `Program.clip`."""
        _, call = self._at(len(frames), frames.shape[1:3])
        return call(parameters.by_path(values), memory, frames, size_hw, valid, clock)

    def model(self, values: Parameters) -> Any:
        """Return the model itself, as `Program.model`."""
        program = self._traceable()
        table = parameters.by_path(values)
        return program.model(parameters.nested(table, program.like))

    def _at(self, length: int, canvas_hw: tuple[int, int]) -> tuple:
        key = (length, *canvas_hw)
        with self._one_at_a_time:
            if key not in self._calls:
                name = _name(self._found, key)
                exported = _read(self._folder / name) or self._traced(name, key)
                self._calls[key] = exported, compiling.jit_for_frames(exported.call)
            return self._calls[key]

    def _traced(self, name: str, key: tuple[int, int, int]) -> export.Exported:
        program = self._traceable()
        like = program.like

        def clip(table, *rest):
            return program.traced(parameters.nested(table, like), *rest)

        shapes = program.shapes(key[0], key[1:])
        exported = export.export(jax.jit(clip))(parameters.by_path(like), *shapes)
        self._folder.mkdir(parents=True, exist_ok=True)
        with replacing(self._folder / name) as path:
            path.write_bytes(exported.serialize())
        return exported

    def _traceable(self) -> Program:
        if self._program is None:
            self._program = self._make()
        return self._program


def folder() -> Path | None:
    """Return where programs are kept, if they are."""
    cache_dir = jax.config.values.get("jax_compilation_cache_dir")
    return Path(cache_dir).parent / "programs" if cache_dir else None


def _read(path: Path) -> export.Exported | None:
    try:
        return export.deserialize(bytearray(path.read_bytes()))
    except Exception:  # absent, cut, of another version: it is made anew
        return None


def _name(found: Record, key: tuple[int, int, int]) -> str:
    described = record.to_json(found._replace(step=0, origin="", categories=()))
    parts = [described, len(found.categories), key, _source(), jax.__version__]
    parts.append(jax.default_backend())
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@cache
def _source() -> str:
    digest = hashlib.sha256()
    for name in SOURCES:
        path = ROOT / name
        for file in sorted(path.glob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()
