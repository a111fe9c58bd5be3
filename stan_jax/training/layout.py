"""How a state is cut over devices, and put together again inside a step."""

import jax
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import PyTree

AXIS = "data"  # of the mesh
SMALL = 1024  # numbers; arrays of fewer are thousandths of a model


def cuts(tree: PyTree, devices: int) -> PyTree:
    """Return how each array lies on so many devices: cut along its longest axis.

    Of the axes that divide by their number; small arrays, and those that have no such
    axis, are whole on each device.
    """

    def cut(x) -> PartitionSpec:
        axes = [i for i, size in enumerate(x.shape) if size % devices == 0]
        if not axes or np.prod(x.shape) < SMALL or devices == 1:
            return PartitionSpec()
        longest = max(axes, key=lambda i: x.shape[i])
        return PartitionSpec(*[None] * longest, AXIS)

    return jax.tree.map(cut, tree)


def gather(tree: PyTree, how: PyTree) -> PyTree:
    """Return the whole arrays; inside `shard_map`, of pieces cut as `cuts` says."""

    def whole(x, spec):
        if AXIS not in spec:
            return x
        return jax.lax.all_gather(x, AXIS, axis=len(spec) - 1, tiled=True)

    return jax.tree.map(whole, tree, how)


def scatter_sum(tree: PyTree, how: PyTree) -> PyTree:
    """Return this device's pieces of sums over devices; inside `shard_map`."""

    def piece(x, spec):
        if AXIS not in spec:
            return jax.lax.psum(x, AXIS)
        dimension = len(spec) - 1
        return jax.lax.psum_scatter(x, AXIS, scatter_dimension=dimension, tiled=True)

    return jax.tree.map(piece, tree, how)
