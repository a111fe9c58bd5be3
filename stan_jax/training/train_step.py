"""One update: gradient, clip, step; the batch is cut over the devices of a mesh."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Key, PyTree

from stan_jax import compiling
from stan_jax.errors import InputError
from stan_jax.model import parameters
from stan_jax.model.parameters import Parameters
from stan_jax.model.stan import Thresholds
from stan_jax.training import layout, losses
from stan_jax.training.losses import LossKinds, Sampling
from stan_jax.types import Pair

Counts = dict[str, Float[Array, ""]]  # of what each loss is a mean over
Metrics = dict[str, Float[Array, ""]]
Options = dict[str, Any] | None


class TrainState(NamedTuple):
    """All that an update changes."""

    step: Int[Array, ""]
    params: PyTree
    opt: PyTree
    average: PyTree = None  # of the parameters over the updates, where one is kept


Update = Callable[[TrainState, Pair], tuple[TrainState, Metrics]]


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
    # One program for all zeros, where JAX would compile one for each shape.
    return TrainState(jnp.int32(0), params, jax.jit(optimizer.init)(params), mean)


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
    accumulate: int = 1,
    shard_state: bool = False,
) -> Update:
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
      accumulate: parts that the pairs of a device are gone through in, one after the
        other, see `AccumulatedUpdate`; the update stays that of the whole batch.
      shard_state: the state is cut over the devices, see `layout.cuts`. Each has whole
        parameters while it computes its gradient, and no longer.
    """
    every, cut = PartitionSpec(), PartitionSpec("data")
    on = partial(NamedSharding, mesh)

    def lies(tree: PyTree) -> PyTree:
        """How a part of the state lies on the devices."""
        return layout.cuts(tree, mesh.size if shard_state else 1)

    def terms(params: PyTree, pairs: Pair, keys: Key[Array, " b"]):
        model = parameters.merge(structure, Parameters(params, statistics), dtype)
        return losses.terms(
            model,
            pairs,
            keys,
            thresholds=thresholds,
            sampling=sampling,
            kinds=kinds,
        )

    def counts(found: Mapping[str, losses.Term]) -> Counts:
        # Of all devices, so that shares of means can be added.
        return {k: jax.lax.psum(count, "data") for k, (_, count) in found.items()}

    def shares(
        params: PyTree, pairs: Pair, keys: Key[Array, " b"], over: Counts | None
    ):
        """Metrics and gradients of some pairs, as shares of those of the batch."""

        def loss_fn(params):
            found = terms(params, pairs, keys)
            whole = counts(found) if over is None else over
            found = {k: (s, whole[k]) for k, (s, _) in found.items()}
            return losses.total(found, loss_weights)

        (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        return metrics | {"loss": loss}, grads

    def total(metrics: Metrics, grads: PyTree, how: PyTree):
        """Sums over all devices, of gradients only the pieces that lie on this one."""
        if shard_state:
            return jax.lax.psum(metrics, "data"), layout.scatter_sum(grads, how)
        if mesh.size == 1 or mesh.devices.flat[0].platform != "cpu":
            return jax.lax.psum((metrics, grads), "data")
        # As one vector: devices of a CPU meet once instead of once for each array.
        flat, restore = ravel_pytree((metrics, grads))
        return restore(jax.lax.psum(flat, "data"))

    def draws(step: Int[Array, ""], pairs: Pair) -> Key[Array, " b"]:
        key = jax.random.fold_in(jax.random.key(seed), step)
        return jax.random.split(key, len(pairs.labels))

    def updated(state: TrainState, metrics: Metrics, grads: PyTree):
        updates, opt = optimizer.update(grads, state.opt, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics["grad_norm"] = optax.tree.norm(grads)
        mean = None
        if average:
            # The start is forgotten; as tf.train.ExponentialMovingAverage.
            kept = jnp.minimum(average, (1.0 + state.step) / (10.0 + state.step))
            mean = optax.incremental_update(params, state.average, 1 - kept)
        new = TrainState(state.step + 1, params, opt, mean)
        if shard_state:
            new = jax.lax.with_sharding_constraint(new, jax.tree.map(on, lies(new)))
        return new, metrics

    # Left to itself, the compiler gathers the features of all devices on each of them
    # to pool RoIs from: half as fast on two.
    on_each = partial(
        jax.shard_map,
        mesh=mesh,
        check_vma=False,  # which would want a cast at every loop
    )

    def train_step(state: TrainState, pairs: Pair):
        how = lies(state.params)

        def gradients(params, pairs, keys):
            return total(*shares(layout.gather(params, how), pairs, keys, None), how)

        gradients = on_each(gradients, in_specs=(how, cut, cut), out_specs=(every, how))
        keys = draws(state.step, pairs)
        return updated(state, *gradients(state.params, pairs, keys))

    if accumulate == 1:
        return jax.jit(train_step, donate_argnums=0)

    def part_of(tree: PyTree, number: Int[Array, ""]) -> PyTree:
        """What one part has of the rows of a device.

        Its number is counted on the device: from the host it would be a transfer.
        """

        def rows(x: Array) -> Array:
            size = len(x) // accumulate
            return jax.lax.dynamic_slice_in_dim(x, number * size, size)

        return jax.tree.map(rows, tree)

    def begin(params: PyTree, step: Int[Array, ""], pairs: Pair):
        keys = draws(step, pairs)
        names = jax.eval_shape(terms, params, *part_of((pairs, keys), jnp.int32(0)))
        zeros = dict.fromkeys([*names, "loss"], jnp.float32(0)), params
        each = jax.tree.map(lambda x: jnp.zeros((mesh.size, *x.shape), x.dtype), zeros)
        return jnp.int32(0), dict.fromkeys(names, jnp.float32(0)), each

    def count(params: PyTree, step: Int[Array, ""], pairs: Pair, number, gathered):
        how = lies(params)

        def add(params, pairs, keys, number, gathered):
            params = layout.gather(params, how)
            more = counts(terms(params, *part_of((pairs, keys), number)))
            return jax.tree.map(jnp.add, gathered, more)

        add = on_each(add, in_specs=(how, cut, cut, every, every), out_specs=every)
        gathered = add(params, pairs, draws(step, pairs), number, gathered)
        return (number + 1) % accumulate, gathered

    def learn(params: PyTree, step: Int[Array, ""], pairs: Pair, number, over, sums):
        how = lies(params)

        def add(params, pairs, keys, number, over, sums):
            params = layout.gather(params, how)
            more = shares(params, *part_of((pairs, keys), number), over)
            return jax.tree.map(lambda x, y: x + y[None], sums, more)

        specs = how, cut, cut, every, every, cut
        add = on_each(add, in_specs=specs, out_specs=cut)
        sums = add(params, pairs, draws(step, pairs), number, over, sums)
        return (number + 1) % accumulate, sums

    def finish(state: TrainState, sums: PyTree):
        how = lies(state.params)
        join = on_each(
            lambda sums: total(*jax.tree.map(lambda x: x[0], sums), how),
            in_specs=(cut,),
            out_specs=(every, how),
        )
        return updated(state, *join(sums))

    alike, apart = on(every), on(cut)
    return AccumulatedUpdate(
        accumulate,
        jax.jit(begin, out_shardings=(alike, alike, apart)),
        jax.jit(count, out_shardings=alike, donate_argnums=(3, 4)),
        jax.jit(learn, out_shardings=(alike, apart), donate_argnums=(3, 5)),
        jax.jit(finish, donate_argnums=0),
    )


class AccumulatedUpdate(NamedTuple):
    """An update that goes through its batch in parts: memory is that of one part.

    Losses are means over what was drawn in the whole batch. So all parts are gone
    through twice: forward alone to count, then once more to learn. Each is a call of
    its own, since convolutions inside a loop are slow on a CPU.
    """

    parts: int
    begin: Any
    count: Any
    learn: Any
    finish: Any

    def __call__(self, state: TrainState, pairs: Pair) -> tuple[TrainState, Metrics]:
        """Return the state after the update, and its metrics."""
        given = state.params, state.step, pairs
        number, counts, sums = self.begin(*given)
        for _ in range(self.parts):
            number, counts = self.count(*given, number, counts)
        for _ in range(self.parts):
            number, sums = self.learn(*given, number, counts, sums)
        return self.finish(state, sums)

    def compiled(
        self, state: TrainState, pairs: Pair, options: Options = None
    ) -> "AccumulatedUpdate":
        """Return it compiled for these; arguments as of `compiled`."""
        given = state.params, state.step, pairs
        lowered = self.begin.lower(*given)
        begin = lowered.compile(options)
        number, counts, sums = jax.tree.map(
            lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at),
            lowered.out_info,
            begin.output_shardings,
        )
        return self._replace(
            begin=begin,
            count=self.count.lower(*given, number, counts).compile(options),
            learn=self.learn.lower(*given, number, counts, sums).compile(options),
            finish=self.finish.lower(state, sums).compile(options),
        )


def compiled(
    update: Any, state: TrainState, pairs: Pair, options: Options = None
) -> Any:
    """Return an update that is compiled for these, and takes nothing else.

    Apart from the first step, whose arrays would come on top of what compiling took.

    Args:
      update: as `make_train_step` gives it.
      state, pairs: arrays, or their shapes with the places where they are to lie.
      options: of the compiler.
    """
    if isinstance(update, AccumulatedUpdate):
        update = update.compiled(state, pairs, options)
    else:
        update = update.lower(state, pairs).compile(options)
    compiling.give_back()
    return update
