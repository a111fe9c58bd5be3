"""The study of the attention: one set of moving shapes, one choice of CHOICES.md.

    python -m stan_jax.shapes --out=data/shapes_blank --weather=blank --val_videos=96
    python train.py --config=configs/shapes_study.py:blank-place --workdir=runs/place
    python benchmarks/ablation.py shapes_study:blank-baseline shapes_study:blank-best

Sets: hard and blank, the demo's videos under a weather of `stan_jax.shapes`. In all of
them the previous frame is the adjacent one, as at test (A16).
Published: nothing. Ours: see docs/measured.md.
"""

from typing import Any

from ml_collections import ConfigDict

from stan_jax.configs import shapes_sta

SETS = ("hard", "blank")
PLACE = dict(value_source="previous", prior=1.0, scale=0.1)  # A2, A22, A9
VARIANTS: dict[
    str, dict[str, Any] | None
] = {  # what differs from the paper's attention
    "baseline": None,
    "paper": {},
    "previous_values": dict(value_source="previous"),
    "place": PLACE,
    "open": PLACE | dict(gamma=1.0),  # A10
    "identity": PLACE | dict(gamma=1.0, value_start="identity"),  # A7
    "finest": PLACE
    | dict(gamma=1.0, value_start="identity", strides=(4, 8, 16, 32, 64)),  # A4
    "both": PLACE
    | dict(gamma=1.0, value_start="identity", strides=(4, 8, 16, 32, 64))
    | dict(value_source="both"),
}


def get_config(name: str = "blank-paper") -> ConfigDict:
    weather, _, variant = name.partition("-")
    if weather not in SETS or variant not in VARIANTS:
        known = f"{', '.join(SETS)}, then {', '.join(VARIANTS)}"
        raise ValueError(f"must be SET-VARIANT of {known}, is '{name}'")
    c = shapes_sta.get_config()
    for split in ("train", "val"):
        folder = f"data/shapes_{weather}/{split}"
        c.data[split].annotations = f"{folder}/instances.json"
        c.data[split].frames = f"{folder}/JPEGImages"
    c.data.gap = "previous"
    c.run.eval_every, c.run.overlays = 0, 0  # scored at the end, by eval.py
    changes = VARIANTS[variant]
    with c.unlocked():
        if changes is None:
            c.model.sta = None
        else:
            c.model.sta.update(changes)
    return c
