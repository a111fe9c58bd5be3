"""One update: gradient, clip, step; the batch is cut over the devices of a mesh."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, Key, PyTree

from stan_jax import compiling
from stan_jax.errors import InputError
from stan_jax.model import parameters
from stan_jax.model.parameters import Parameters
from stan_jax.model.stan import Thresholds
from stan_jax.training import losses
from stan_jax.training.losses import LossKinds, Sampling
from stan_jax.types import Pair


class TrainState(NamedTuple):
    """All that an update changes."""

    step: Int[Array, ""]
    params: PyTree
    opt: PyTree
    average: PyTree = None  # of the parameters over the updates, where one is kept


def start(
    params: PyTree, optimizer: optax.GradientTransformation, *, average: float = 0.0
) -> TrainState:
    """Return the state before the first update.

    average: see `make_train_step`.
    Raises: InputError for an average outside [0, 1).
    """
    if not 0 <= average < 1:
        raise InputError("average", "", f"must lie in [0, 1), is {average}")
    mean = jax.tree.map(jnp.copy, params) if average else None
    return TrainState(jnp.int32(0), params, optimizer.init(params), mean)


def make_train_step(
    structure: Any,
    statistics: dict,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    seed: int,
    loss_weights: Mapping[str, float],
    thresholds: Thresholds,
    sampling: Sampling,
    kinds: LossKinds,
    dtype: str,
    average: float = 0.0,
) -> Callable[[TrainState, Pair], tuple[TrainState, dict[str, Float[Array, ""]]]]:
    """Return the jitted update; it takes over the buffers of the state it is given.

    Metrics are those of the parameters before the update.

    Args:
      structure, statistics: of the model, see `parameters.split`.
      mesh: each device computes its pairs of the batch by itself; one sum over its axis
        `data` joins their gradients.
      seed: of the anchors and RoIs that are drawn, with the step.
      loss_weights: factor on each loss.
      thresholds, sampling, kinds: see `losses.terms`.
      dtype: of the computation, "float32" or "bfloat16"; parameters, losses and the
        optimizer stay float32.
      average: what the mean of the parameters keeps of itself at each update, less in
        the first ones; 0: none is kept.
    """

    def gradients(params: PyTree, pairs: Pair, keys: Key[Array, " b"]):
        def loss_fn(params):
            model = parameters.merge(structure, Parameters(params, statistics), dtype)
            terms = losses.terms(
                model,
                pairs,
                keys,
                thresholds=thresholds,
                sampling=sampling,
                kinds=kinds,
            )
            # Over the counts of all devices, so that shares of means can be added.
            terms = {k: (s, jax.lax.psum(c, "data")) for k, (s, c) in terms.items()}
            return losses.total(terms, loss_weights)

        (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        return total((metrics | {"loss": loss}, grads))

    def total(tree: PyTree) -> PyTree:
        if mesh.size == 1 or mesh.devices.flat[0].platform != "cpu":
            return jax.lax.psum(tree, "data")
        # As one vector: devices of a CPU meet once instead of once for each array.
        flat, restore = ravel_pytree(tree)
        return restore(jax.lax.psum(flat, "data"))

    # Left to itself, the compiler gathers the features of all devices on each of them
    # to pool RoIs from: half as fast on two.
    every, cut = PartitionSpec(), PartitionSpec("data")
    gradients = jax.shard_map(
        gradients,
        mesh=mesh,
        in_specs=(every, cut, cut),
        out_specs=every,
        check_vma=False,  # which would want a cast at every loop
    )

    def train_step(state: TrainState, pairs: Pair):
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        keys = jax.random.split(key, len(pairs.labels))
        metrics, grads = gradients(state.params, pairs, keys)
        updates, opt = optimizer.update(grads, state.opt, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics["grad_norm"] = optax.tree.norm(grads)
        mean = None
        if average:
            # The start is forgotten; as tf.train.ExponentialMovingAverage.
            kept = jnp.minimum(average, (1.0 + state.step) / (10.0 + state.step))
            mean = optax.incremental_update(params, state.average, 1 - kept)
        return TrainState(state.step + 1, params, opt, mean), metrics

    return jax.jit(train_step, donate_argnums=0)


def compiled(update: Any, state: TrainState, pairs: Pair) -> Any:
    """Return a jitted update that is compiled for these, and takes nothing else.

    Apart from the first step, whose arrays would come on top of what compiling took.
    """
    update = update.lower(state, pairs).compile()
    compiling.give_back()
    return update
