"""One update: gradient, clip, step; the batch is cut over the devices of a mesh."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, Key, PyTree

from stan_jax.errors import InputError
from stan_jax.model.stan import STAN
from stan_jax.training import losses
from stan_jax.training.losses import Sampling
from stan_jax.types import Pair

DTYPES = ("float32", "bfloat16")


class TrainState(NamedTuple):
    """All that an update changes."""

    step: Int[Array, ""]
    params: PyTree
    opt: PyTree


class Split(NamedTuple):
    """A model cut into its structure, what learns, and what does not."""

    structure: Any
    params: dict
    frozen: dict


def split(model: STAN) -> Split:
    """Return the three parts as plain dicts; `merge` puts them together again."""
    structure, params, frozen = nnx.split(model, nnx.Param, ...)
    return Split(structure, nnx.to_pure_dict(params), nnx.to_pure_dict(frozen))


def merge(parts: Split, params: PyTree, dtype: str = "float32") -> STAN:
    """Return the model with these parameters, computing in `dtype`.

    Raises: InputError for another dtype than "float32" and "bfloat16".
    """
    if dtype not in DTYPES:
        rule = f"must be one of {', '.join(DTYPES)}, is '{dtype}'"
        raise InputError("dtype", "", rule)
    params, frozen = jax.tree.map(
        lambda x: jnp.asarray(x, dtype), (params, parts.frozen)
    )
    return nnx.merge(parts.structure, params, frozen)


def start(params: PyTree, optimizer: optax.GradientTransformation) -> TrainState:
    """Return the state before the first update."""
    return TrainState(jnp.int32(0), params, optimizer.init(params))


def make_train_step(
    parts: Split,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    seed: int,
    loss_weights: Mapping[str, float],
    sampling: Sampling,
    dtype: str = "float32",
) -> Callable[[TrainState, Pair], tuple[TrainState, dict[str, Float[Array, ""]]]]:
    """Return the jitted update; it takes over the buffers of the state it is given.

    mesh: each device computes its pairs of the batch by itself; one sum over its axis
    `data` joins their gradients.
    dtype: of the computation, "float32" or "bfloat16"; parameters, losses and the
    optimizer stay float32. Metrics are those of the parameters before the update.
    """

    def gradients(params: PyTree, pairs: Pair, keys: Key[Array, " b"]):
        def loss_fn(params):
            model = merge(parts, params, dtype)
            terms = losses.terms(model, pairs, keys, sampling)
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
        return TrainState(state.step + 1, params, opt), metrics

    return jax.jit(train_step, donate_argnums=0)
