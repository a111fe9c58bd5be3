import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from stan_jax.errors import InputError
from stan_jax.model import parameters
from stan_jax.training import optimizer

RATES = (0.1, 0.03, 0.2, 0.01)
DECAY, MOMENTUM, CLIP = 0.05, 0.9, 1.5


@pytest.fixture
def params(key):
    k = jax.random.split(key, 4)
    return {
        "backbone": {
            "layer1": {0: {"bn1": {"scale": 1.0 + jax.random.normal(k[0], (3,))}}}
        },
        "head": {"kernel": jax.random.normal(k[1], (3, 2)), "bias": jnp.ones(2)},
        "sta": {"gamma": jnp.full((), 0.5), "embed": {"kernel": jnp.ones((2, 3))}},
    }


def _rates(step):
    return jnp.asarray(RATES)[step]


def _gradients(params, step):
    """Some gradients, different in each step, of norm around 4."""
    key = jax.random.key(100 + step)
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    noise = [jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, noise)


def _walk(params, steps=4, learning_rate=_rates, gradients=_gradients, **options: Any):
    """Parameters after some updates of the optimizer under test."""
    options: dict[str, Any] = (
        dict(name="sgd", weight_decay=DECAY, clip_norm=CLIP) | options
    )
    tx = optimizer.make(params, learning_rate=learning_rate, **options)
    state = tx.init(params)
    for step in range(steps):
        updates, state = tx.update(gradients(params, step), state, params)
        params = optax.apply_updates(params, updates)
    return params


def _flat(tree):
    return {k: np.array(x, np.float64) for k, x in parameters.by_path(tree).items()}


def _clipped(gradients):
    norm = math.sqrt(sum((g**2).sum() for g in gradients.values()))
    return {k: g * min(1.0, CLIP / norm) for k, g in gradients.items()}


def test_sgd_equals_pytorch_formula_written_as_a_loop(params):
    want = _flat(params)
    buffer = {k: np.zeros_like(v) for k, v in want.items()}
    for step, rate in enumerate(RATES):
        for k, g in _clipped(_flat(_gradients(params, step))).items():
            decays = k.split("/")[-1] not in ("scale", "bias", "gamma")
            buffer[k] = MOMENTUM * buffer[k] + g + DECAY * decays * want[k]
            want[k] = want[k] - rate * buffer[k]
    got = _flat(_walk(params, momentum=MOMENTUM))
    for k in want:
        np.testing.assert_allclose(
            got[k], want[k], rtol=1e-5, atol=1e-6, err_msg=str(k)
        )


def test_adamw_equals_its_formula_written_as_a_loop(params):
    b1, b2 = 0.8, 0.99
    want = _flat(params)
    m, v = ({k: np.zeros_like(x) for k, x in want.items()} for _ in range(2))
    for step, rate in enumerate(RATES):
        for k, g in _clipped(_flat(_gradients(params, step))).items():
            decays = k.split("/")[-1] not in ("scale", "bias", "gamma")
            m[k] = b1 * m[k] + (1 - b1) * g
            v[k] = b2 * v[k] + (1 - b2) * g * g
            direction = (m[k] / (1 - b1 ** (step + 1))) / (
                np.sqrt(v[k] / (1 - b2 ** (step + 1))) + 1e-8
            )
            want[k] = want[k] - rate * (direction + DECAY * decays * want[k])
    got = _flat(_walk(params, name="adamw", betas=(b1, b2)))
    for k in want:
        np.testing.assert_allclose(
            got[k], want[k], rtol=1e-5, atol=1e-5, err_msg=str(k)
        )


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_frozen_leaves_stay_and_change_no_other_leaf(params, name):
    got = _walk(params, name=name, frozen=("backbone",))
    jax.tree.map(np.testing.assert_array_equal, got["backbone"], params["backbone"])

    rest = {k: v for k, v in params.items() if k != "backbone"}
    alone = lambda p, s: {k: _gradients(params, s)[k] for k in p}  # noqa: E731
    want = _walk(rest, name=name, gradients=alone)
    for part in rest:
        jax.tree.map(np.testing.assert_array_equal, got[part], want[part])


def test_frozen_leaves_keep_no_state(params):
    frozen, free = (
        optimizer.make(
            params,
            name="adamw",
            learning_rate=0.1,
            weight_decay=0.1,
            clip_norm=1.0,
            frozen=(part,),
        ).init(params)
        for part in ("head", "nothing")
    )
    sizes = [sum(x.size for x in jax.tree.leaves(s)) for s in (frozen, free)]
    assert sizes[1] - sizes[0] == 2 * (3 * 2 + 2)  # two moments of kernel and bias


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_decay_shrinks_kernels_but_not_gamma_norms_and_biases(params, name):
    none = lambda p, s: jax.tree.map(jnp.zeros_like, p)  # noqa: E731
    got = _flat(_walk(params, 1, name=name, gradients=none))
    for path, before in _flat(params).items():
        factor = 1.0 - RATES[0] * DECAY if path.endswith("kernel") else 1.0
        np.testing.assert_allclose(got[path], factor * before, rtol=1e-6)


def test_no_decay_names_are_an_argument(params):
    none = lambda p, s: jax.tree.map(jnp.zeros_like, p)  # noqa: E731
    got = _walk(params, 1, gradients=none, no_decay=("kernel",))
    assert got["sta"]["gamma"] < params["sta"]["gamma"]
    np.testing.assert_array_equal(got["head"]["kernel"], params["head"]["kernel"])


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_factor_multiplies_the_update_of_the_leaves_of_that_name(params, name):
    options = dict(name=name, steps=1, frozen=["backbone/layer1"])
    plain, fast = (
        _flat(_walk(params, **options, gamma_factor=factor)) for factor in (1.0, 5.0)
    )
    start = _flat(params)
    for path in start:
        factor = 5 if path == "sta/gamma" else 1
        want = start[path] + factor * (plain[path] - start[path])
        np.testing.assert_allclose(fast[path], want, rtol=1e-5, atol=1e-6)


def test_a_factor_of_1_leaves_the_state_as_it_was(params):
    options: dict[str, Any] = dict(name="adamw", weight_decay=0.1, clip_norm=1.0)
    one, none = (
        optimizer.make(params, learning_rate=0.1, **options, **more).init(params)
        for more in ({"gamma_factor": 1.0}, {})
    )
    assert jax.tree.structure(one) == jax.tree.structure(none)


def test_clip_bounds_the_norm_and_leaves_small_gradients_alone(params):
    plain = dict(learning_rate=1.0, weight_decay=0.0, momentum=0.0)

    def moved(clip_norm):
        new = _walk(params, 1, clip_norm=clip_norm, **plain)
        return optax.tree.norm(jax.tree.map(jnp.subtract, new, params))

    norm = float(optax.tree.norm(_gradients(params, 0)))
    np.testing.assert_allclose(moved(0.25 * norm), 0.25 * norm, rtol=1e-5)
    np.testing.assert_allclose(moved(4.0 * norm), norm, rtol=1e-5)
    np.testing.assert_allclose(moved(None), norm, rtol=1e-5)


def test_jitted_update_of_nnx_state_equals_that_of_its_plain_dict():
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    _, state, _ = nnx.split(model, nnx.Param, ...)
    plain = nnx.to_pure_dict(state)
    results = []
    for params in (state, plain):
        tx = optimizer.make(
            params, name="sgd", learning_rate=0.1, weight_decay=0.1, clip_norm=1.0
        )
        ones = jax.tree.map(jnp.ones_like, params)
        updates, _ = jax.jit(tx.update)(ones, tx.init(params), params)
        results.append(updates)
    got = nnx.to_pure_dict(results[0])
    jax.tree.map(np.testing.assert_array_equal, got, results[1])


def test_schedule_steps_has_these_values_at_its_corners():
    rate = optimizer.schedule(
        peak_lr=0.3,
        warmup_steps=4,
        warmup_factor=1 / 3,
        total_steps=20,
        decay="steps",
        milestones=(8, 11),
        gamma=0.1,
    )
    want = {0: 0.1, 2: 0.2, 4: 0.3, 7: 0.3, 8: 0.03, 10: 0.03, 11: 0.003, 30: 0.003}
    for step, value in want.items():
        np.testing.assert_allclose(rate(step), value, rtol=1e-5, err_msg=str(step))


def test_schedule_cosine_has_these_values_at_its_corners():
    rate = optimizer.schedule(
        peak_lr=0.3, warmup_steps=4, warmup_factor=0.5, total_steps=20, decay="cosine"
    )
    want = {0: 0.15, 2: 0.225, 4: 0.3, 12: 0.15, 20: 0.0, 25: 0.0}
    for step, value in want.items():
        np.testing.assert_allclose(rate(step), value, rtol=1e-5, atol=1e-7)


def test_schedule_without_warmup_starts_at_the_peak():
    rate = optimizer.schedule(
        peak_lr=0.3, warmup_steps=0, total_steps=10, decay="steps"
    )
    np.testing.assert_allclose(np.asarray([rate(0), rate(9)]), 0.3, rtol=1e-6)


def test_schedule_decays_during_the_warmup_too_and_twice_at_one_milestone():
    rate = optimizer.schedule(
        peak_lr=0.4,
        warmup_steps=4,
        warmup_factor=0.5,
        total_steps=20,
        decay="steps",
        milestones=(2, 8, 8),
    )
    want = {0: 0.2, 1: 0.25, 2: 0.03, 4: 0.04, 7: 0.04, 8: 0.0004}
    for step, value in want.items():
        np.testing.assert_allclose(rate(step), value, rtol=1e-5, err_msg=str(step))


def test_schedule_cosine_that_is_all_warmup_ends_after_it():
    rate = optimizer.schedule(
        peak_lr=0.4, warmup_steps=4, warmup_factor=0.5, total_steps=4, decay="cosine"
    )
    got = [float(rate(step)) for step in (0, 2, 4, 5)]
    np.testing.assert_allclose(got, [0.2, 0.3, 0.4, 0.0], atol=1e-7)


def test_schedule_is_the_same_traced_and_called_with_integers():
    rate = optimizer.schedule(
        peak_lr=0.3, warmup_steps=3, total_steps=9, decay="steps", milestones=(5,)
    )
    steps = jnp.arange(10)
    eager = np.asarray([rate(int(s)) for s in steps])
    np.testing.assert_allclose(jax.jit(jax.vmap(rate))(steps), eager, rtol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (dict(decay="linear"), "linear"),
        (dict(warmup_steps=11), "0..10.*11"),
        (dict(milestones=(5, 3)), r"\(5, 3\)"),
    ],
)
def test_schedule_refuses_what_makes_no_sense(wrong, named):
    right = dict(peak_lr=0.1, warmup_steps=1, total_steps=10, decay="steps")
    with pytest.raises(InputError, match=named):
        optimizer.schedule(**right | wrong)


def test_optimizer_refuses_an_unknown_name(params):
    with pytest.raises(InputError, match="sgd or adamw, not 'lamb'"):
        _walk(params, name="lamb")
