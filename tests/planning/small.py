"""The demo's config with a model of a few thousand parameters, as nested dicts."""

import ast
from typing import Any

from stan_jax.configs import shapes_sta
from tests import runs


def config(**changes: Any) -> dict[str, Any]:
    """Settings of `runs.SMALL` in one block a stage; others with __ for a dot."""
    made = shapes_sta.get_config()
    settings = {key.replace("__", "."): value for key, value in changes.items()}
    for key, value in (runs.SMALL | settings).items():
        text = isinstance(value, str) and value.startswith("(")
        settings[key] = ast.literal_eval(value) if text else value
    made.update_from_flattened_dict(settings)
    found = made.to_dict()
    found["model"]["backbone_args"]["stages"] = (1, 1, 1, 1)
    return found
