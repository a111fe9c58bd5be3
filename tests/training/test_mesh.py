import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_pairs

from stan_jax.errors import InputError
from stan_jax.training import mesh as meshes

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def two():
    return meshes.make_mesh(2)


def test_mesh_is_one_axis_over_all_or_the_first_devices(two):
    assert meshes.make_mesh().devices.tolist() == jax.devices()
    assert meshes.make_mesh(1).devices.tolist() == jax.devices()[:1]
    assert two.axis_names == ("data",)


def test_shard_cuts_the_first_axis_in_order(two):
    pairs = [tiny_pairs.pair(seed) for seed in range(4)]
    pairs = jax.tree.map(lambda *x: np.stack(x), *pairs)
    for cut, whole in zip(meshes.shard(pairs, two), pairs, strict=True):
        assert cut.dtype == whole.dtype
        np.testing.assert_array_equal(cut, whole)
        pieces = {s.device: s.data for s in cut.addressable_shards}
        for i, device in enumerate(two.devices):
            np.testing.assert_array_equal(pieces[device], whole[2 * i : 2 * i + 2])


def test_replicate_puts_a_whole_copy_on_every_device(two):
    tree = {"kernel": np.ones((2, 3), np.float32), "step": jnp.int32(3)}
    copies = meshes.replicate(tree, two)
    for name, whole in tree.items():
        assert copies[name].is_fully_replicated
        assert copies[name].dtype == whole.dtype
        shards = copies[name].addressable_shards
        assert [s.device for s in shards] == two.devices.tolist()
        for shard in shards:
            np.testing.assert_array_equal(shard.data, whole)


@pytest.mark.parametrize("devices", [1, 2])
def test_replicate_gives_copies_that_may_be_donated(devices):
    mine = jnp.arange(1000.0)
    host = np.arange(1000.0, dtype=np.float32)
    copies = meshes.replicate((mine, host), meshes.make_mesh(devices))
    changed = jax.jit(lambda x: jax.tree.map(lambda a: -a, x), donate_argnums=0)(copies)
    jax.block_until_ready(changed)
    assert copies[0].is_deleted()
    np.testing.assert_array_equal(mine, np.arange(1000.0))
    np.testing.assert_array_equal(host, np.arange(1000.0))


def test_spread_cuts_large_arrays_and_whole_puts_them_together(two):
    tree = {"kernel": np.arange(4096.0).reshape(64, 64), "step": jnp.int32(3)}
    cut = meshes.spread(tree, two)
    pieces = [s.data for s in cut["kernel"].addressable_shards]
    for piece, part in zip(pieces, (slice(32), slice(32, None)), strict=True):
        np.testing.assert_array_equal(piece, tree["kernel"][part])
    for found in (cut["step"], *meshes.whole(cut, two).values()):
        assert found.is_fully_replicated
    np.testing.assert_array_equal(meshes.whole(cut, two)["kernel"], tree["kernel"])
    assert meshes.whole(copies := meshes.replicate(tree, two), two) is copies


def test_state_in_pieces_is_put_together_by_one_program(two, monkeypatch):
    traces, same = [], meshes._same
    monkeypatch.setattr(meshes, "_same", lambda x: traces.append(1) or same(x))
    cut = meshes.spread({"kernel": np.arange(4096.0).reshape(64, 64)}, two)
    for _ in range(2):
        meshes.whole(cut, two)
    assert len(traces) == 1


def test_make_mesh_is_in_the_order_of_processes_however_they_are_wired(monkeypatch):
    real = jax.devices()
    monkeypatch.setattr(jax, "devices", lambda: real[::-1])
    assert meshes.make_mesh().devices.tolist() == real


@pytest.mark.parametrize("batch", [2, 8])
def test_check_batch_accepts_what_divides(two, batch):
    meshes.check_batch(batch, two)


@pytest.mark.parametrize("batch", [1, 7])
def test_check_batch_names_both_numbers(two, batch):
    with pytest.raises(InputError, match=rf"batch.*\b{batch}\b.*devices.*\b2\b"):
        meshes.check_batch(batch, two)


@pytest.mark.parametrize("accumulate", [0, 3, 8])
def test_check_batch_wants_parts_of_whole_pairs(two, accumulate):
    rule = rf"accumulate: {accumulate} must divide the pairs of a device, 4"
    with pytest.raises(InputError, match=rule):
        meshes.check_batch(8, two, accumulate)
    meshes.check_batch(8, two, 4)


def test_configure_sets_devices_and_cache_of_a_fresh_process(tmp_path):
    program = """if True:
        import jax
        from stan_jax.training import mesh
        mesh.configure(cpu_devices=3)
        print(mesh.make_mesh().devices.size, jax.config.jax_compilation_cache_dir)
    """
    env = os.environ | {"JAX_PLATFORMS": "cpu", "STAN_JAX_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, env=env, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["3", str(tmp_path)]
