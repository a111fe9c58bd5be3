"""Split a model into structure and arrays, merge them again, and name arrays by path.

A path joins the names with slashes, "backbone/layer1/0/conv1/kernel", everywhere:
in checkpoints, in tables of published names, and where parameters are frozen.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import PyTree

from stan_jax.errors import InputError

DTYPES = ("float32", "bfloat16")


class Parameters(NamedTuple):
    """The arrays of a model as nested dicts."""

    params: dict  # what an optimizer sees; the backbone's frozen paths get no gradient
    statistics: dict  # running means and variances, which nothing ever updates


def split(model: nnx.Module) -> tuple[Any, Parameters]:
    """Return the structure of a model, without arrays, and its arrays."""
    structure, params, statistics = nnx.split(model, nnx.Param, ...)
    return structure, Parameters(nnx.to_pure_dict(params), nnx.to_pure_dict(statistics))


def merge(structure: Any, parameters: Parameters, dtype: str = "float32") -> Any:
    """Return the model with these arrays, computing in `dtype`."""
    check_dtype(dtype)
    cast = jax.tree.map(lambda x: jnp.asarray(x, dtype), parameters)
    return nnx.merge(structure, *cast)


def check_dtype(dtype: str) -> None:
    """Raise InputError for another dtype than "float32" and "bfloat16"."""
    if dtype not in DTYPES:
        rule = f"must be one of {', '.join(DTYPES)}, is '{dtype}'"
        raise InputError("dtype", "", rule)


def by_path(tree: PyTree) -> dict[str, Any]:
    """Return the leaves of any pytree by path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {path_of(keys): leaf for keys, leaf in leaves}


def path_of(keys: tuple) -> str:
    """Return the path of a leaf from the keys that JAX gives it."""
    if keys and keys[-1] == jax.tree_util.GetAttrKey("value"):
        keys = keys[:-1]  # the box around an nnx.Variable has no name
    return jax.tree_util.keystr(keys, simple=True, separator="/")


def nested(table: Mapping[str, Any], like: PyTree) -> PyTree:
    """Return leaves by path in the structure of `like`."""
    return jax.tree.unflatten(
        jax.tree.structure(like), [table[path] for path in by_path(like)]
    )


def from_paths(table: Mapping[str, Any]) -> Parameters:
    """Return the parameters whose `by_path` is the table; needs no model."""
    whole: dict = {"params": {}, "statistics": {}}
    for path, leaf in table.items():
        *folders, name = (int(x) if x.isdecimal() else x for x in path.split("/"))
        place = whole
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = leaf
    return Parameters(**whole)


def within(path: str, prefixes: Iterable[str]) -> bool:
    """Return whether a path is one of the prefixes or lies below one."""
    return any(f"{path}/".startswith(f"{prefix}/") for prefix in prefixes)
