"""Which devices a machine has that is not here, for compilers that need to see none."""

import importlib.util
import os
from typing import Any, NamedTuple

from jax.experimental import topologies
from jax.sharding import Mesh

from stan_jax.errors import InputError
from stan_jax.training import mesh as meshes

GIB = 2**30


class Machine(NamedTuple):
    """Devices that can be compiled for.

    Args:
      mesh: of one axis, `data`.
      memory: bytes that a program may take of a device.
      options: of the compiler.
    """

    mesh: Mesh
    memory: int
    options: dict[str, Any]


class _Tpu(NamedTuple):
    memory_gib: float  # of the chip's 16, 32, 95: what the compiler lets programs take
    shapes: tuple[str, ...]
    options: dict[str, Any]


_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_DEEP = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")
# Two cores of a chip are one device; else libtpu would show both.
_MEGACORE = {"chip_config_name": "megacore", "num_slices": 1}
TPUS = {
    "v4": _Tpu(30.75, _DEEP, _MEGACORE),
    "v5e": _Tpu(15.75, _FLAT, {}),
    "v5p": _Tpu(95.74, _DEEP, _MEGACORE),
    "v6e": _Tpu(31.25, _FLAT, {}),
}
# As CUDA describes an H100 SXM, its memory less what the driver takes.
_H100 = {
    "core_count": 132,
    "clock_rate_ghz": 1.98,
    "fpus_per_core": 128,
    "threads_per_warp": 32,
    "threads_per_block_limit": 1024,
    "threads_per_core_limit": 2048,
    "registers_per_block_limit": 65536,
    "registers_per_core_limit": 65536,
    "shared_memory_per_block": 48 * 2**10,
    "shared_memory_per_block_optin": 227 * 2**10,
    "shared_memory_per_core": 228 * 2**10,
    "block_dim_limit_x": 2**31 - 1,
    "block_dim_limit_y": 65535,
    "block_dim_limit_z": 65535,
    "l2_cache_size": 50 * 2**20,
    "memory_bandwidth": 3_352_320_000_000,
    "device_memory_size": 79 * GIB,
}
GPUS = {"h100": ("NVIDIA H100 80GB HBM3", _H100, 9)}
GPU_SHAPES = ("1", "2", "4", "8", "2x8", "4x8", "8x8", "16x8")
# Of a GPU JAX takes so much, unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise.
GPU_SHARE = 0.75
PACKAGES = {"tpu": "libtpu", "cuda": "jax_cuda13_plugin"}


def find(platform: str, topology: str) -> Machine:
    """Return the machine of a topology; needs none of its devices.

    Args:
      platform: "tpu" or "cuda".
      topology: chips of a slice, "v5e:4x4"; hosts and GPUs of each, "h100:2x8".
    Raises: InputError for an unknown topology, and where the extra is not installed.
    """
    if platform not in PACKAGES:
        rule = f"must be one of {', '.join(PACKAGES)}, is '{platform}'"
        raise InputError("--platform", "", rule)
    kind, _, shape = topology.partition(":")
    table = {name: tpu.shapes for name, tpu in TPUS.items()}
    if platform == "cuda":
        table = dict.fromkeys(GPUS, GPU_SHAPES)
    if shape not in table.get(kind, ()):
        known = "; ".join(f"{name}: {' '.join(table[name])}" for name in table)
        rule = f"must be KIND:SHAPE of these ({known}), is '{topology}'"
        raise InputError("--topology", "", rule)
    if importlib.util.find_spec(PACKAGES[platform]) is None:
        cure = f"pip install 'stan_jax[plan-{platform}]'"
        rule = f"needs {PACKAGES[platform]}, which is not installed: {cure}"
        raise InputError(f"--platform {platform}", "", rule)
    return _tpu(kind, shape) if platform == "tpu" else _gpu(kind, shape)


def _tpu(kind: str, shape: str) -> Machine:
    # It would ask the cloud where it is, and lock the chips of this machine.
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-16")  # which it warns for
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    sides = [int(n) for n in shape.split("x")]
    host = tuple(min(2, n) for n in (*sides, 1)[:2]) + (1,)
    given = {"chips_per_host_bounds": host} | TPUS[kind].options
    name = f"{kind}:{shape}"
    found = topologies.get_topology_desc(name, platform="tpu", **given)
    memory = int(TPUS[kind].memory_gib * GIB)
    return Machine(meshes.make_mesh(devices=found.devices), memory, {})


def _gpu(kind: str, shape: str) -> Machine:
    name, facts, capability = GPUS[kind]
    *hosts, gpus = shape.split("x")
    lines = [f"{key}: {value}" for key, value in facts.items()]
    lines.append(f"cuda_compute_capability {{ major: {capability} }}")
    target = (
        f"gpu_device_info {{ {' '.join(lines)} }} "
        f'platform_name: "CUDA" device_description_str: "{name}" '
        "dnn_version_info { major: 9 minor: 12 } runtime_version { major: 13 }"
    )
    # Each host is a partition, since NVLink ends there.
    found = topologies.get_topology_desc(
        platform="cuda", target_config=target, topology=f"{(*hosts, 1)[0]}x1x{gpus}"
    )
    # What is found by trying it out cannot be, without a GPU.
    options = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}
    memory = int(GPU_SHARE * facts["device_memory_size"])
    return Machine(meshes.make_mesh(devices=found.devices), memory, options)
