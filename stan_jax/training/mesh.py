"""On which devices a run computes, and what lies where on them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from stan_jax.errors import InputError
from stan_jax.training import layout
from stan_jax.types import Pair


def configure(*, cpu_devices: int, platform: str | None = None) -> None:
    """Configure JAX; must run before anything touches a device.

    Args:
      cpu_devices: how many devices a CPU shows. Half of a training step runs on one
        core only, so two devices of half a batch each keep two cores busy.
      platform: "cpu", "cuda", "gpu" or "tpu"; default: JAX_PLATFORMS, else the best.
    Raises: InputError where there is no such device.
    Compiled programs are kept in STAN_JAX_CACHE (default ~/.cache/stan_jax/xla), so a
    second run starts at once.
    """
    jax.config.update("jax_num_cpu_devices", cpu_devices)
    cache = os.environ.get("STAN_JAX_CACHE", Path.home() / ".cache/stan_jax/xla")
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    if platform is not None:
        jax.config.update("jax_platforms", platform)
    try:
        jax.devices()
    except (RuntimeError, AssertionError):
        if jax.distributed.is_initialized():  # or another process has none, or ended
            raise
        name = "JAX_PLATFORMS" if platform is None else "device"
        asked = platform or os.environ.get("JAX_PLATFORMS")
        rule = f"JAX finds no {asked} here"
        cure = "name another, or none; the extras `cuda` and `tpu` bring what they need"
        raise InputError(name, "", f"{rule}: {cure}") from None


def make_mesh(
    num_devices: int | None = None, devices: Sequence[Any] | None = None
) -> jax.sharding.Mesh:
    """Return a mesh of one axis, `data`, over the first (default: all) devices.

    devices: those there are; default: what JAX finds here.
    """
    # So that each process holds rows of the batch that follow one another:
    # `jax.make_mesh` lays them out along the wires of a TPU slice.
    ordered = _by_process(jax.devices() if devices is None else devices)
    # Automatic axes: with explicit ones, the default, convolutions ask for shardings.
    return Mesh(np.array(ordered[:num_devices]), ("data",), axis_types=(AxisType.Auto,))


def _by_process(devices: Sequence[Any]) -> list[Any]:
    return sorted(devices, key=lambda d: (d.process_index, d.id))


def workers() -> list[jax.Device]:
    """Return the devices that videos are dealt over, process by process.

    Those of a CPU share its cores: one of each process keeps them busy.
    """
    devices = _by_process(jax.devices())
    first = {d.process_index: d for d in reversed(devices)}
    return [d for d in devices if d.platform != "cpu" or d is first[d.process_index]]


def replicate(tree: PyTree, mesh: jax.sharding.Mesh) -> PyTree:
    """Return the tree with a copy on every device; each process has the same tree."""
    return _placed(tree, jax.tree.map(lambda _: PartitionSpec(), tree), mesh)


def spread(tree: PyTree, mesh: jax.sharding.Mesh) -> PyTree:
    """Return the tree cut over the devices, see `layout.cuts`; else as `replicate`."""
    return _placed(tree, layout.cuts(tree, mesh.size), mesh)


def whole(tree: PyTree, mesh: jax.sharding.Mesh) -> PyTree:
    """Return what `spread` has cut with a copy on every device."""
    if all(x.is_fully_replicated for x in jax.tree.leaves(tree)):
        return tree
    every = NamedSharding(mesh, PartitionSpec())
    return jax.jit(_same, out_shardings=every)(tree)


def _same(tree: PyTree) -> PyTree:
    # Not a lambda: at each evaluation it would be another, and compiled anew.
    return tree


def _placed(tree: PyTree, how: PyTree, mesh: jax.sharding.Mesh) -> PyTree:
    # Buffers of its own, since the train step takes them over. One by one: put on
    # several devices at once, a device array lends its buffer to the first of them.
    def place(x: Any, spec: PartitionSpec) -> jax.Array:
        sharding = NamedSharding(mesh, spec)
        of_devices = sharding.addressable_devices_indices_map(x.shape)
        x = np.asarray(x) if any(spec) else x  # on a device each cut would be compiled
        pieces = [
            jax.device_put(x[index] if any(spec) else x, device, may_alias=False)
            for device, index in of_devices.items()
        ]
        return jax.make_array_from_single_device_arrays(x.shape, sharding, pieces)

    return jax.tree.map(place, tree, how)


def shard(pairs: Pair, mesh: jax.sharding.Mesh) -> Pair:
    """Return the batch cut along its first axis, one piece per device.

    pairs: those of this process, in the order of its devices in the mesh.
    """
    # `device_put` would send all of it to every process, to see that it is the same.
    return jax.make_array_from_process_local_data(
        NamedSharding(mesh, PartitionSpec("data")), pairs
    )


def check_batch(batch: int, mesh: jax.sharding.Mesh, accumulate: int = 1) -> None:
    """Raise InputError where a batch does not divide over devices and parts."""
    devices = mesh.devices.size
    if batch % devices:
        rule = f"{batch} must divide by the number of devices, {devices}"
        raise InputError("data.batch", "", rule)
    if accumulate < 1 or batch // devices % accumulate:
        rule = f"{accumulate} must divide the pairs of a device, {batch // devices}"
        raise InputError("optim.accumulate", "", rule)
