"""STAN on moving shapes under a weather, with some choices of CHOICES.md changed.

    python -m stan_jax.shapes --out=data/shapes_blank --weather=blank --val_videos=96
    python train.py --config=configs/shapes_ablation.py:blank-finest --workdir=runs/a4
    python benchmarks/ablation.py shapes_ablation:blank-baseline \
        shapes_ablation:blank-paper shapes_ablation:blank-finest

The argument is SET-VARIANT. The set `davis` is not of shapes: real videos with weather
on top, by a MobileNetV2. In all of them the previous frame is the adjacent one, as at
test (A16), and `eval.py` scores at the end. `benchmarks/study.py` runs them all.
Published: nothing. Ours: a first reading in docs/measured.md.
"""

from typing import Any

from ml_collections import ConfigDict

from stan_jax import presets
from stan_jax.configs import davis_mnv2_sta, shapes_sta

SETS = ("hard", "blank", "covered", "davis")
STA = "model.sta."
PLACE = {STA + "value_source": "previous", STA + "prior": 1.0, STA + "scale": 0.1}
OPEN = PLACE | {STA + "gamma": 1.0}
IDENTITY = OPEN | {STA + "value_start": "identity"}
FINEST = IDENTITY | {STA + "strides": (4, 8, 16, 32, 64)}
VARIANTS: dict[str, dict[str, Any]] = {  # what differs from the paper
    "baseline": {"model.sta": None},
    "paper": {},
    # one choice taken the other way
    "target_softmax": {STA + "normalise": "target"},  # A1
    "previous_values": {STA + "value_source": "previous"},  # A2
    "both_values": {STA + "value_source": "both"},  # A2
    "coarse_levels": {STA + "strides": (16, 32, 64)},  # A3
    "two_heads": {STA + "heads": 2},  # A6
    "identity_values": {STA + "value_start": "identity"},  # A7
    "separate_embed": {STA + "share_embed": False},  # A8
    "scaled": {STA + "scale": 0.35},  # A9: 1 / sqrt(c_1)
    "open_gate": {STA + "gamma": 0.5},  # A10
    "fast_gate": {"optim.gamma_factor": 10.0},  # A10
    "skip_first": {"tracking.first_frame": "skip"},  # A12
    "any_gap": {"data.gap": "any"},  # A16
    "prior": {STA + "prior": 1.0},  # A22
    "bfloat16": {"run.dtype": "bfloat16"},  # A25
    "update_labels": {"tracking.association.update_labels": True},  # as openmmlab
    "two_frames": {STA + "frames": 2, "data.frames": 3},  # A14
    "attended_queue": {STA + "stored": "attended", "data.frames": 3},  # A13
    "average": {"run.average": 0.999},
    "near": {STA + "reach": 2},  # A22
    # one upon the other
    "place": PLACE,  # A2, A9, A22
    "open": OPEN,  # A10
    "identity": IDENTITY,  # A7
    "finest": FINEST,  # A4
    "both": FINEST | {STA + "value_source": "both"},  # A2
    "finest_near": FINEST | {STA + "reach": 2},  # A22
    "best": presets.ATTENTION["best"],  # within reach
    "best_both": presets.ATTENTION["best"] | {STA + "value_source": "both"},  # A2
    "best_carried": presets.ATTENTION["best"] | {STA + "stored": "attended"},  # A13
    "queue": FINEST | {STA + "frames": 2, "data.frames": 3},  # A14
    "queue_both": FINEST
    | {STA + "value_source": "both", STA + "frames": 2, "data.frames": 3},
    "carried": FINEST | {STA + "stored": "attended", "data.frames": 3},  # A13
    "carried_both": FINEST
    | {STA + "value_source": "both", STA + "stored": "attended", "data.frames": 3},
}


def get_config(name: str = "hard-paper") -> ConfigDict:
    weather, _, variant = name.partition("-")
    if weather not in SETS or variant not in VARIANTS:
        known = f"one of {', '.join(SETS)}, then one of {', '.join(VARIANTS)}"
        raise ValueError(f"must be SET-VARIANT of {known}, is '{name}'")
    c = davis_mnv2_sta.get_config() if weather == "davis" else shapes_sta.get_config()
    c = shapes_sta.under(c, weather)
    c.data.extra = ()
    c.data.gap = "previous"
    c.run.eval_every, c.run.overlays = 0, 0
    with c.unlocked():
        c.update_from_flattened_dict(VARIANTS[variant])
    return c
