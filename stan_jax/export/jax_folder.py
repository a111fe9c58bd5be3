"""Write a tracker as a program of `jax.export` with its weights beside it.

The program is for CPU, CUDA and TPU at once. Weights are its first argument: inside it
they would be compiled in, which takes minutes and their size once more.
"""

import contextlib
from collections.abc import Generator
from pathlib import Path

import jax
from jax import export
from safetensors.numpy import save

from stan_jax.export.flat import FlatTracker
from stan_jax.files import replacing

PLATFORMS = ("cpu", "cuda", "tpu")
PROGRAM, WEIGHTS = "program.jax", "weights.safetensors"


def program_of(tracker: FlatTracker) -> export.Exported:
    """Return the program of a tracker: of weights by path, and inputs by name."""
    weights = {
        path: jax.ShapeDtypeStruct(x.shape, x.dtype)
        for path, x in tracker.weights.items()
    }

    def track(weights, inputs):
        return tracker(weights, inputs)

    with _without_places():
        made = export.export(jax.jit(track), platforms=PLATFORMS)
        return made(weights, tracker.inputs)


def write(tracker: FlatTracker, folder: str | Path) -> None:
    """Write program and weights into a folder; what it is stands with the weights."""
    content = bytes(program_of(tracker).serialize())
    folder = Path(folder)
    folder.mkdir(exist_ok=True)
    weights = save(tracker.weights, tracker.metadata())
    for name, part in ((PROGRAM, content), (WEIGHTS, weights)):
        with replacing(folder / name) as temporary:
            temporary.write_bytes(part)


@contextlib.contextmanager
def _without_places() -> Generator[None]:
    """Leave out of programs which line of which file on this machine made what."""
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)
