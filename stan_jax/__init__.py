"""STAN, spatio-temporal attention for video instance segmentation, in JAX.

    import stan_jax

    tracker = stan_jax.load("runs/mine")
    for tracks in tracker.track(frames):
        tracks.ids, tracks.labels, tracks.scores, tracks.masks

The names below are the public ones. Each is imported when it is first used: JAX loads
with the first that touches a model.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stan_jax.errors import InputError
    from stan_jax.inference import evaluate
    from stan_jax.model.backbone import Backbone
    from stan_jax.model.build import assemble, build
    from stan_jax.model.stan import STAN, Conventions, Thresholds
    from stan_jax.pretrained.load import load
    from stan_jax.runtimes.exported import open_exported
    from stan_jax.tracking.frame_tracks import FrameTracks
    from stan_jax.tracking.memory import Association
    from stan_jax.tracking.program import Program, Settings
    from stan_jax.tracking.tracker import State, Tracker

__version__ = "0.1.0"
__all__ = [
    "STAN",
    "Association",
    "Backbone",
    "Conventions",
    "FrameTracks",
    "InputError",
    "Program",
    "Settings",
    "State",
    "Thresholds",
    "Tracker",
    "assemble",
    "build",
    "evaluate",
    "load",
    "open_exported",
]
_HOMES = {
    "stan_jax.errors": ("InputError",),
    "stan_jax.inference": ("evaluate",),
    "stan_jax.model.backbone": ("Backbone",),
    "stan_jax.model.build": ("assemble", "build"),
    "stan_jax.model.stan": ("STAN", "Conventions", "Thresholds"),
    "stan_jax.pretrained.load": ("load",),
    "stan_jax.runtimes.exported": ("open_exported",),
    "stan_jax.tracking.frame_tracks": ("FrameTracks",),
    "stan_jax.tracking.memory": ("Association",),
    "stan_jax.tracking.program": ("Program", "Settings"),
    "stan_jax.tracking.tracker": ("State", "Tracker"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'stan_jax' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
