"""A config as shapes: its model, its update, the state and the batch it takes."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding
from jaxtyping import PyTree

from stan_jax.model import parameters
from stan_jax.model.build import build
from stan_jax.model.parameters import Parameters
from stan_jax.model.stan import Thresholds
from stan_jax.training import layout, optimizer, train_step
from stan_jax.training import mesh as meshes
from stan_jax.training.losses import LossKinds, Sampling
from stan_jax.training.train_step import TrainState
from stan_jax.types import Pair


class Model(NamedTuple):
    """A model as shapes."""

    structure: Any
    values: Parameters
    frozen_paths: tuple[str, ...]


def model(config: Mapping[str, Any], classes: int) -> Model:
    """Return the model of a config; nothing of it is computed."""

    def make() -> Any:
        return build(num_classes=classes, **config["model"], rngs=nnx.Rngs(0))

    shapes = nnx.eval_shape(make)
    return Model(*parameters.split(shapes), tuple(shapes.frozen_paths))


def update(
    config: Mapping[str, Any], its: Model, mesh: Mesh
) -> tuple[Any, TrainState, Pair]:
    """Return the update of a config, with its state and batch as shapes.

    its: the model. Raises: InputError as training.
    """
    run, loss = config["run"], config["loss"]
    rule = dict(config["optim"])
    accumulate, shard_state = rule.pop("accumulate"), run["shard_state"]
    meshes.check_batch(config["data"]["batch"], mesh, accumulate)
    tx = optimizer.build(its.values.params, **rule, frozen=its.frozen_paths)
    its_update = train_step.make_train_step(
        its.structure,
        # Constants of the program: some that are not all the same, lest it folds them.
        jax.tree.map(_some, its.values.statistics),
        tx,
        mesh,
        seed=config["seed"],
        loss_weights=loss["weights"],
        thresholds=Thresholds(**config["thresholds"]),
        sampling=Sampling(**loss["sampling"]),
        kinds=LossKinds(**loss["kinds"]),
        dtype=run["dtype"],
        average=run["average"],
        accumulate=accumulate,
        shard_state=shard_state,
    )

    def begin(params: PyTree) -> TrainState:
        return train_step.start(params, tx, average=run["average"])

    shapes = jax.eval_shape(begin, its.values.params)
    cuts = layout.cuts(shapes, mesh.size if shard_state else 1)
    state = jax.tree.map(lambda x, cut: on(x, NamedSharding(mesh, cut)), shapes, cuts)
    rows = NamedSharding(mesh, PartitionSpec("data"))
    return its_update, state, on(pairs(config["data"]), rows)


def pairs(data: Mapping[str, Any]) -> Pair:
    """Return the shapes of a batch, given the section of a config."""
    b, f, m, (fh, fw) = (data[k] for k in ("batch", "frames", "max_objects", "canvas"))
    item = {
        "frames": ((f, fh, fw, 3), jnp.uint8),
        "size_hw": ((2,), jnp.int32),
        "boxes": ((2, m, 4), jnp.float32),
        "present": ((2, m), jnp.bool_),
        "labels": ((m,), jnp.int32),
        "masks": ((m, fh, fw), jnp.bool_),
        "seen": ((), jnp.int32),
    }
    shapes: dict[str, Any] = {
        name: jax.ShapeDtypeStruct((b, *shape), kind)
        for name, (shape, kind) in item.items()
    }
    return Pair(**shapes)


def on(tree: PyTree, sharding: Sharding) -> PyTree:
    """Return the shapes of a tree, to lie there."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
    )


def _some(x: Any) -> np.ndarray:
    return np.linspace(1, 2, x.size, dtype=x.dtype).reshape(x.shape)
