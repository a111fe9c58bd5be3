"""What the programs hold for a GPU and a TPU, read without having one."""

import re
from typing import Any

import pytest
import tiny_model
import tiny_pairs

from stan_jax.model import parameters
from stan_jax.tracking.program import Program
from stan_jax.training import mesh as meshes
from stan_jax.training import optimizer, train_step

PLATFORMS = ("cuda", "tpu")


def _tracker():
    structure, values = parameters.split(tiny_model.plain())
    program = Program(structure, values, tiny_model.TRACKING._replace(dtype="bfloat16"))
    return program.traced.trace(program.like, *program.shapes(1, tiny_model.CANVAS))


def _training():
    structure, values = parameters.split(tiny_pairs.model())
    tx = optimizer.make(
        values.params, name="sgd", learning_rate=0.1, weight_decay=0.0, clip_norm=1.0
    )
    one = meshes.make_mesh(1)
    update: Any = train_step.make_train_step(
        structure,
        values.statistics,
        tx,
        one,
        seed=0,
        loss_weights=tiny_pairs.WEIGHTS,
        thresholds=tiny_model.THRESHOLDS,
        sampling=tiny_pairs.SAMPLING,
        kinds=tiny_pairs.KINDS,
        dtype="bfloat16",
    )
    pairs = tiny_pairs.batch(tiny_pairs.pair(0))
    return update.trace(train_step.start(values.params, tx), pairs)


@pytest.fixture(scope="module", params=[_tracker, _training], ids=["track", "train"])
def program(request):
    return request.param()


@pytest.mark.parametrize("platform", PLATFORMS)
def test_programs_stay_on_the_device_and_in_bfloat16(program, platform):
    text = program.lower(lowering_platforms=(platform,)).as_text()
    assert "custom_call" not in text  # callbacks of the host are such calls
    for kind in ("convolution", "dot_general"):
        operations = re.findall(rf"stablehlo\.{kind}.* : \((.*)\) ->", text)
        assert operations
        full = [given for given in operations if "bf16" not in given]
        # The likeness of embeddings, its two gradients, and two for the masks' targets.
        assert len(full) <= 5, full


@pytest.mark.parametrize("platform", PLATFORMS)
def test_no_loop_runs_once_per_box(program, platform):
    loops = (
        program.lower(lowering_platforms=(platform,)).as_text().count("stablehlo.while")
    )
    # NMS of proposals and of detections: blocks of 256 rows, each with those before it
    # and its sweeps; frames of a clip; parts of the attention's map; taps of RoIAlign's
    # gradient in three pools.
    assert 0 < loops <= 6
