import importlib.util
import math

import pytest

from stan_jax.errors import InputError
from stan_jax.planning import machines


def has(platform):
    return importlib.util.find_spec(machines.PACKAGES[platform]) is not None


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        (("rocm", "h100:8"), "--platform: must be one of tpu, cuda, is 'rocm'"),
        (("tpu", "v5e:3x3"), r"v5e: 1x1 2x2 .* is 'v5e:3x3'"),
        (("tpu", "v9:2x2"), r"\(v4: .*; v6e: .*\), is 'v9:2x2'"),
        (("tpu", "v5e"), "must be KIND:SHAPE of these"),
        (("cuda", "v5e:4x4"), r"\(h100: 1 2 4 8 .*\), is 'v5e:4x4'"),
    ],
)
def test_unknown_machine_names_the_known(given, rule):
    with pytest.raises(InputError, match=rule):
        machines.find(*given)


@pytest.mark.parametrize(
    ("platform", "topology"), [("tpu", "v5e:4x4"), ("cuda", "h100:8")]
)
def test_absent_extra_is_named_with_the_command(monkeypatch, platform, topology):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    cure = rf"pip install 'stan_jax\[plan-{platform}\]'"
    with pytest.raises(InputError, match=cure):
        machines.find(platform, topology)


@pytest.mark.skipif(not has("tpu"), reason="needs libtpu: the extra plan-tpu")
@pytest.mark.parametrize("kind", machines.TPUS)
def test_every_slice_has_a_device_for_each_chip(kind):
    for shape in machines.TPUS[kind].shapes:
        machine = machines.find("tpu", f"{kind}:{shape}")
        assert machine.mesh.size == math.prod(int(n) for n in shape.split("x"))
        rows = [d.process_index for d in machine.mesh.devices.flat]
        assert rows == sorted(rows)  # of a host they follow one another
        assert 0.9 < machine.memory / machines.GIB / {
            "v4": 32, "v5e": 16, "v5p": 95.74, "v6e": 32,
        }[kind] <= 1  # fmt: skip


@pytest.mark.skipif(not has("cuda"), reason="needs the extra plan-cuda")
def test_hosts_of_gpus_are_processes():
    machine = machines.find("cuda", "h100:2x8")
    assert [d.process_index for d in machine.mesh.devices.flat] == [0] * 8 + [1] * 8
    assert {d.platform for d in machine.mesh.devices.flat} == {"gpu"}
