"""Tiny trackers under every preset, flat and as `rollout` walks them."""

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import tiny_model
import tiny_workdir

from stan_jax import presets
from stan_jax.export.flat import FlatTracker
from stan_jax.model import parameters
from stan_jax.pretrained import record
from stan_jax.tracking import rollout

SIZE = np.array([60, 88], np.int32)  # inside a canvas of 64 x 96
# After a black frame others come, more than there are slots.
VIDEO = np.concatenate([0 * tiny_model.moving(2, 1), tiny_model.moving(2, 4)])
FRAMES = len(VIDEO)
BEST = presets.ATTENTION["best"]
# Between them each norm, the plain baseline, both attentions, tracks that expire.
MODELS: dict[str, dict[str, Any]] = {
    "original": dict(norm="frozen_batch"),
    "openmmlab": dict(sta=None),
    "torchvision": dict(
        sta=tiny_model.SETTINGS["sta"]
        | {k.split(".")[-1]: v for k, v in BEST.items() if "model.sta" in k}
        | {"gamma": 0.5}
    ),
}


# An attention to maps that were attended to themselves, frame by frame in a clip too.
CARRIED: dict[str, Any] = dict(
    key_channels=4,
    strides=(16, 32),
    scale=0.05,
    frames=2,
    value_source="both",
    stored="attended",
)


class Case(NamedTuple):
    """A model, how it tracks, and the same as arrays by name."""

    model: Any
    settings: Any
    flat: FlatTracker

    def steps(self, size=SIZE):
        """The tracks of each frame by `rollout.step`, and the memory after the last."""
        how = self.settings
        memory = rollout.start(self.model, how.canvas, slots=how.slots)
        step = jax.jit(
            partial(
                rollout.step,
                thresholds=how.thresholds,
                association=how.association,
                first_frame=how.first_frame,
            )
        )
        found = []
        for frame in VIDEO:
            memory, tracks = step(self.model, memory, frame, size)
            found.append(jax.tree.map(np.asarray, tracks))
        return memory, found


def case(preset, length=None, **changes):
    """A tiny model with the conventions and the association of a preset."""
    chosen = presets.get(preset)
    model = dict(
        conventions=chosen.conventions._asdict(),
        background_columns=chosen.background_columns,
        **(MODELS[preset] | changes),
    )
    built = tiny_model.build(**model)
    about = record.from_config(tiny_workdir.config(**model), tiny_workdir.NAMES)
    association = chosen.association
    if association.expire_after is not None:
        association = association._replace(expire_after=1)
    settings = tiny_model.TRACKING._replace(
        association=association, legacy_paste=chosen.legacy_paste
    )
    about = about._replace(settings=settings, origin="/somewhere/of/mine")
    arrays = parameters.by_path(parameters.split(built)[1])
    return Case(built, settings, FlatTracker(about, arrays, length=length))


def walk(run, case):
    """The results by name for each frame of the video, memory carried along.

    run: gives results by name for inputs by name.
    """
    memory = {f"memory_{name}": x for name, x in case.flat.memory.items()}
    found = []
    for t, frame in enumerate(VIDEO):
        now = {"frame": frame, "size_hw": SIZE, "clock": np.array(1000 * t, np.int32)}
        results = run(now | memory)
        found.append(results)
        memory = {name: results[f"new_{name}"] for name in memory}
    return found


def check(found, wanted):
    """Hold results by name against the tracks of JAX: the bars of docs/export.md."""
    for got, want in zip(found, wanted, strict=True):
        valid = want.valid
        np.testing.assert_array_equal(got["valid"], valid)
        np.testing.assert_array_equal(got["evicted"], want.evicted)
        for name in ("ids", "labels"):
            np.testing.assert_array_equal(got[name][valid], getattr(want, name)[valid])
        for name, most in (("boxes", 1e-3), ("scores", 1e-5), ("masks", 1e-3)):
            ours = getattr(want, name)[valid]
            np.testing.assert_allclose(got[name][valid], ours, rtol=0, atol=most)
        assert not any(np.any(got[n][~valid]) for n in ("boxes", "scores", "masks"))
        assert (got["ids"][~valid] == -1).all()
