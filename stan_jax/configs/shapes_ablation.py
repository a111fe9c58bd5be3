"""STAN on hard moving shapes with one choice of CHOICES.md taken the other way.

    python train.py --config=configs/shapes_ablation.py:scaled --workdir=runs/a9

Published: nothing. Ours: not measured yet.
"""

from ml_collections import ConfigDict

from stan_jax.configs import shapes_sta

VARIANTS = {  # name: section, setting, value
    "target_softmax": ("model.sta", "normalise", "target"),  # A1
    "previous_values": ("model.sta", "value_source", "previous"),  # A2
    "coarse_levels": ("model.sta", "strides", (16, 32, 64)),  # A3
    "separate_embed": ("model.sta", "share_embed", False),  # A8
    "both_values": ("model.sta", "value_source", "both"),  # A2
    "two_heads": ("model.sta", "heads", 2),  # A6
    "identity_values": ("model.sta", "value_start", "identity"),  # A7
    "open_gate": ("model.sta", "gamma", 0.5),  # A10
    "prior": ("model.sta", "prior", 1.0),  # A22
    "scaled": ("model.sta", "scale", 0.35),  # A9: 1 / sqrt(c_1)
    "skip_first": ("tracking", "first_frame", "skip"),  # A12
    "any_gap": ("data", "gap", "any"),  # A16
    "update_labels": ("tracking.association", "update_labels", True),  # as openmmlab
    "bfloat16": ("run", "dtype", "bfloat16"),  # A25
}


def get_config(name: str = "previous_values") -> ConfigDict:
    c = shapes_sta.hard(shapes_sta.get_config())
    if name not in VARIANTS:
        raise ValueError(f"must be one of {', '.join(VARIANTS)}, is '{name}'")
    section, setting, value = VARIANTS[name]
    place = c
    for part in section.split("."):
        place = place[part]
    with c.unlocked():
        place[setting] = value
    return c
