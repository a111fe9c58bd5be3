import math
from typing import Any

import jax
import jax.numpy as jnp
import pytest
import small
from test_machines import has

from stan_jax.errors import InputError
from stan_jax.planning import blueprint, figures, machines, programs
from stan_jax.planning.machines import Machine
from stan_jax.training import mesh as meshes
from stan_jax.training import train_step

CLASSES = 3
BATCH = 8
# Memory is planned before the machine's own code is made, which is half of the time.
QUICKLY = {"xla_backend_optimization_level": 0}
CONFIG = small.config(data__batch=BATCH)


def here(devices: int = 2) -> Machine:
    """The devices of this machine, as if they were elsewhere."""
    return Machine(meshes.make_mesh(devices), 2**30, QUICKLY)


@pytest.fixture(scope="module")
def its():
    return blueprint.model(CONFIG, CLASSES)


@pytest.fixture(scope="module")
def cost():
    return programs.update(CONFIG, CLASSES, here())


def _bytes(shapes):
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(shapes))


def _flops(config, its, devices):
    update, *given = blueprint.update(config, its, here(devices).mesh)
    return figures.flops(jax.make_jaxpr(update)(*given).jaxpr)


def test_plan_makes_no_array(its):
    before = {id(x) for x in jax.live_arrays()}
    config = small.config(data__batch=BATCH, run__average=0.5)
    _, state, pairs = blueprint.update(config, its, here().mesh)
    leaves = jax.tree.leaves((its.values, state, pairs))
    assert {type(x) for x in leaves} == {jax.ShapeDtypeStruct}
    assert _bytes(state.average) == _bytes(its.values.params)
    assert {id(x) for x in jax.live_arrays()} <= before


def test_planned_step_takes_what_a_step_of_arrays_takes(cost, its):
    update, *given = blueprint.update(CONFIG, its, here().mesh)
    state, pairs = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), given)
    state, pairs = (
        meshes.replicate(state, here().mesh),
        meshes.shard(pairs, here().mesh),
    )
    compiled = train_step.compiled(update, state, pairs, QUICKLY)
    assert figures.memory(compiled) == cost.memory
    assert figures.collectives(compiled.as_text()) == cost.collectives
    # AdamW holds two moments of each parameter; half of a batch lies on a device.
    held = 3 * _bytes(its.values.params) + _bytes(given[1]) / 2
    assert cost.memory.arguments == pytest.approx(held, rel=0.01)
    # The gradients, and a few sums and counts.
    exchanged = sum(c.size for c in cost.collectives.values())
    assert exchanged == pytest.approx(_bytes(its.values.params), rel=0.01)


@pytest.mark.slow
def test_batch_in_parts_takes_less_beside_what_it_keeps(cost, its):
    config = small.config(data__batch=BATCH, optim__accumulate=4)
    parts = programs.update(config, CLASSES, here())
    assert cost.memory.beside == 0
    assert parts.memory.beside >= 2 * _bytes(its.values.params)
    assert parts.memory.temporaries < 0.5 * cost.memory.temporaries
    # Once more forward, to count; each part counts, the gradients are joined once.
    assert 1.2 < parts.flops / cost.flops < 1.5
    many, few = (c.collectives["all-reduce"] for c in (parts, cost))
    assert many.times > few.times
    assert many.size == pytest.approx(few.size, rel=0.01)


def test_operations_grow_with_the_pairs_of_a_device(cost, its):
    double = small.config(data__batch=2 * BATCH)
    assert _flops(double, its, 2) == pytest.approx(2 * cost.flops, rel=0.02)
    assert _flops(CONFIG, its, 1) == pytest.approx(2 * cost.flops, rel=0.02)


def test_batch_that_does_not_divide_is_refused():
    with pytest.raises(InputError, match=r"data.batch: 3 must divide .* devices, 2"):
        programs.update(small.config(data__batch=3), CLASSES, here())


def test_statistics_of_frozen_norms_go_into_the_program():
    config = small.config()
    config["model"]["norm"] = "frozen_batch"
    its = blueprint.model(config, CLASSES)
    assert jax.tree.leaves(its.values.statistics)
    assert _flops(config, its, 1) > 0


def test_tracker_is_planned_for_one_device(its):
    found = programs.tracker(CONFIG, CLASSES, here())
    assert found.collectives == {}
    assert found.memory.arguments > _bytes(its.values.params)
    assert found.flops > 0


@pytest.fixture
def refused(monkeypatch):
    """What becomes of an error of the compiler."""

    def plan(text):
        def refuse(*its):
            assert its == (*given, QUICKLY)
            raise jax.errors.JaxRuntimeError(text)

        given: Any = (jnp.add, 1.0, 1.0)
        monkeypatch.setattr(blueprint, "model", lambda *_: None)
        monkeypatch.setattr(blueprint, "update", lambda *_: given)
        monkeypatch.setattr(train_step, "compiled", refuse)
        programs.update({}, CLASSES, here(1))

    return plan


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required "
            "for HLO temporaries (64.00G) exceeds available HBM (15.75G).",
            64 * 2**30,
        ),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. "
            "Used 16.50G of 15.75G hbm. Exceeded hbm capacity by 768M",
            33 * 2**29,
        ),
        ("RESOURCE_EXHAUSTED: too much", None),
    ],
)
def test_program_that_does_not_fit_says_what_it_needs(refused, text, needed):
    with pytest.raises(programs.TooLarge) as caught:
        refused(text)
    assert caught.value.needed == needed


def test_other_errors_stay_what_they_are(refused):
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        refused("INTERNAL: broken")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("platform", "topology"), [("tpu", "v5e:2x4"), ("cuda", "h100:8")]
)
def test_small_model_compiles_for_machines_that_are_not_here(
    its, cost, platform, topology
):
    if not has(platform):
        pytest.skip(f"needs the extra plan-{platform}, of some 100 MB")
    machine = machines.find(platform, topology)
    found = programs.update(CONFIG, CLASSES, machine)
    assert found.flops == pytest.approx(cost.flops / 4, rel=0.02)
    assert 3 * _bytes(its.values.params) < found.memory.peak < 2**28
    exchanged = found.collectives["all-reduce"].size
    assert exchanged == pytest.approx(_bytes(its.values.params), rel=0.05)
    assert not programs.tracker(CONFIG, CLASSES, machine).collectives
