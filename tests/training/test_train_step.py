from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_model
import tiny_pairs

from stan_jax.errors import InputError
from stan_jax.model import parameters
from stan_jax.pretrained.checkpoint import Checkpoints
from stan_jax.training import losses, optimizer, train_step
from stan_jax.training import mesh as meshes
from stan_jax.types import Pair

SAMPLING, KINDS = tiny_pairs.SAMPLING, tiny_pairs.KINDS
OPTIM: dict[str, Any] = dict(
    name="sgd",  # unlike Adam's, its steps do not blow up rounding
    peak_lr=0.02,
    steps=100,
    warmup_steps=0,
    decay="steps",
    milestones=(),
    weight_decay=1e-3,
    clip_norm=10.0,
)
FROZEN = {"conv1", "bn1", "layer1"}


class Run:
    """A train step on some devices, how often it was traced, and where it starts."""

    def __init__(
        self,
        devices: int = 2,
        dtype: str = "float32",
        average: float = 0.0,
        accumulate: int = 1,
        shard_state: bool = False,
    ):
        # The second of four stages learns, the stem and the first do not.
        arguments = tiny_pairs.SETTINGS["backbone_args"] | {"frozen_stages": 1}
        model = tiny_pairs.model(tiny_pairs.Given, backbone_args=arguments)
        structure, self.values = parameters.split(model)
        self.mesh, self.traces = meshes.make_mesh(devices), 0
        tx = optimizer.build(self.values.params, **OPTIM, frozen=model.frozen_paths)
        self.first = train_step.start(self.values.params, tx, average=average)
        self.update = train_step.make_train_step(
            structure,
            meshes.replicate(self.values.statistics, self.mesh),
            tx,
            self.mesh,
            seed=0,
            loss_weights=tiny_pairs.WEIGHTS,
            thresholds=tiny_model.THRESHOLDS,
            sampling=SAMPLING,
            kinds=KINDS,
            dtype=dtype,
            average=average,
            accumulate=accumulate,
            shard_state=shard_state,
        )
        self.place = meshes.spread if shard_state else meshes.replicate

    def start(self) -> train_step.TrainState:
        return self.place(self.first, self.mesh)

    def __call__(self, state, pairs: Pair):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(losses, "terms", self._counted(losses.terms))
            return self.update(state, meshes.shard(pairs, self.mesh))

    def _counted(self, terms):
        def counted(*args, **options):
            self.traces += 1
            return terms(*args, **options)

        return counted


@pytest.fixture(scope="module")
def run():
    return Run()


@pytest.fixture(scope="module")
def after(run):
    """The state after three updates on other batches, and the metrics of each."""
    return _walk(run, 3)


def _walk(run, steps):
    state, found = run.start(), []
    for step in range(steps):
        state, metrics = run(state, _batch(step))
        found.append(metrics)
    return state, found


def _batch(number):
    return tiny_pairs.batch(*(tiny_pairs.pair(2 * number + i) for i in range(2)))


def _leaves(tree):
    return {k: np.asarray(x) for k, x in parameters.by_path(tree).items()}


def test_update_moves_what_learns_and_no_frozen_stage(run, after):
    before, now = _leaves(run.first.params), _leaves(after[0].params)
    assert before.keys() == now.keys()
    same = {k for k in before if np.array_equal(before[k], now[k])}
    frozen = {
        k for k in before if k.startswith("backbone/") and k.split("/")[1] in FROZEN
    }
    assert frozen
    assert same == frozen


def test_average_follows_the_parameters_as_its_loop_and_changes_none(after, tmp_path):
    run = Run(average=0.25)
    want, states = _leaves(run.first.params), [run.start()]
    for step in range(3):
        state, _ = run(jax.tree.map(jnp.copy, states[-1]), _batch(step))
        kept = min(0.25, (1 + step) / (10 + step))
        now = _leaves(state.params)
        want = {k: kept * want[k] + (1 - kept) * now[k] for k in want}
        states.append(state)
    got, raw = _leaves(states[-1].average), _leaves(states[-1].params)
    for k, plain in _leaves(after[0].params).items():
        np.testing.assert_allclose(got[k], want[k], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(raw[k], plain, rtol=1e-4, atol=1e-6)
    assert any(np.abs(got[k] - raw[k]).max() > 1e-4 for k in got)

    # A run that goes on from disk is bit for bit the one that was not stopped.
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(2, states[2]._asdict(), {})
    restored = checkpoints.restore(states[2]._asdict())
    checkpoints.close()
    assert restored is not None
    tree = restored[0]
    again, _ = run(train_step.TrainState(**tree), _batch(2))
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(states[3]), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("average", [1.0, -0.1])
def test_average_outside_its_range_is_refused(average):
    with pytest.raises(InputError, match=r"average: must lie in \[0, 1\)"):
        train_step.start({}, optax.identity(), average=average)


def test_update_counts_steps_and_reports_finite_scalars(after):
    state, found = after
    assert int(state.step) == 3
    for metrics in found:
        assert metrics.keys() == {
            *tiny_pairs.WEIGHTS,
            "accuracy_class",
            "accuracy_track",
            "loss",
            "grad_norm",
        }
        assert all(v.shape == () and np.isfinite(v) for v in metrics.values())
        total = sum(metrics[name] for name in tiny_pairs.WEIGHTS)
        assert metrics["loss"] == pytest.approx(float(total), rel=1e-5)


def test_update_lowers_the_loss_on_its_own_pair(run):
    """Metrics are of the parameters before the update, so the second call shows it."""
    state, first = run(run.start(), _batch(0))
    _, second = run(state._replace(step=jnp.zeros_like(state.step)), _batch(0))
    assert second["loss"] < 0.98 * first["loss"]


def test_loss_falls_on_one_batch(run):
    state, found = run.start(), []
    for _ in range(12):
        state, metrics = run(state, _batch(0))
        found.append(float(metrics["loss"]))
    assert np.mean(found[-3:]) < 0.75 * np.mean(found[:3])


def test_update_repeats_bit_for_bit_and_draws_anew_each_step(run):
    once, again = (run(run.start(), _batch(0)) for _ in range(2))
    for a, b in zip(jax.tree.leaves(once), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    later = run.start()
    _, other = run(later._replace(step=later.step + 1), _batch(0))
    for name in ("rpn_score", "class"):  # which depend on what is drawn
        assert other[name] != once[1][name]


def test_two_devices_agree_with_one(after):
    state, found = after
    alone, metrics = _walk(Run(devices=1), 3)
    for a, b in zip(found, metrics, strict=True):
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-4)
    before = _leaves(Run(devices=1).first.params)
    want, got = _leaves(alone.params), _leaves(state.params)
    for name in want:
        moved = np.abs(want[name] - before[name]).max()
        np.testing.assert_allclose(
            got[name], want[name], rtol=1e-5, atol=1e-2 * moved, err_msg=name
        )


def test_bfloat16_keeps_float32_parameters_and_comes_close(run, after):
    half = Run(dtype="bfloat16")
    state, metrics = half(half.start(), _batch(0))
    for leaf in jax.tree.leaves((state.params, state.opt)):
        assert leaf.dtype in (jnp.float32, jnp.int32)
    want = after[1][0]
    assert all(v.dtype == jnp.float32 for v in metrics.values())
    assert metrics["loss"] != want["loss"]
    assert metrics["loss"] == pytest.approx(float(want["loss"]), rel=0.03)
    changed = zip(
        jax.tree.leaves(half.first.params), jax.tree.leaves(state.params), strict=True
    )
    assert sum(not np.array_equal(a, b) for a, b in changed) > 20


def test_update_is_traced_and_compiled_once(run):
    state = run.start()
    for number in range(4):
        state, _ = run(state, _batch(number))
    assert run.traces == 1
    assert run.update._cache_size() == 1


def test_update_takes_its_state_and_leaves_the_callers_arrays(run):
    before = _leaves(run.first)
    state = run.start()
    run(state, _batch(0))
    assert all(x.is_deleted() for x in jax.tree.leaves(state.params))
    for name, leaf in _leaves(run.first).items():  # raises where one is deleted
        np.testing.assert_array_equal(leaf, before[name])


def test_update_needs_no_transfer_beyond_the_batch(run):
    """As in train.py, where a hidden one would cost every step."""
    state, pairs = run.start(), meshes.shard(_batch(0), run.mesh)
    for _ in range(2):
        with jax.transfer_guard("disallow"):
            state, _ = run.update(state, pairs)


# ---- in parts


def _four(number):
    """Four pairs, of different numbers of objects: a mean of means would differ."""
    present = [((1, 0, 1, 0, 1, 0), (1, 1, 0, 0, 1, 1)), ((1,) * 6, (1,) * 6)]
    present += [((0, 0, 1, 0, 0, 0), (0, 0, 1, 0, 0, 0)), present[0]]
    return tiny_pairs.batch(
        *(tiny_pairs.pair(4 * number + i, present=x) for i, x in enumerate(present))
    )


@pytest.mark.parametrize(("devices", "accumulate"), [(2, 2), (1, 4)])
def test_update_in_parts_is_that_of_the_whole_batch(devices, accumulate):
    """Of two devices also where each has a piece of the state."""
    whole = Run(devices, average=0.5)
    parts = Run(devices, "float32", 0.5, accumulate, shard_state=devices == 2)
    want, got = whole.start(), parts.start()
    for number in range(2):
        want, of_whole = whole(want, _four(number))
        got, of_parts = parts(got, _four(number))
        assert of_parts.keys() == of_whole.keys()
        for name, value in of_whole.items():
            np.testing.assert_allclose(of_parts[name], value, rtol=1e-5, err_msg=name)
    assert int(got.step) == 2
    for side in ("params", "average"):
        pairs = _leaves(getattr(got, side)), _leaves(getattr(want, side))
        assert pairs[0].keys() == pairs[1].keys()
        for name, value in pairs[1].items():
            np.testing.assert_allclose(
                pairs[0][name], value, rtol=1e-5, atol=1e-6, err_msg=name
            )


def test_update_in_parts_takes_what_it_is_given_and_transfers_nothing():
    run = Run(accumulate=2)
    pairs = meshes.shard(_four(0), run.mesh)
    want, _ = run.update(run.start(), pairs)
    update = train_step.compiled(run.update, run.start(), pairs)
    state = run.start()
    for _ in range(2):
        before = state
        with jax.transfer_guard("disallow"):
            state, _ = update(state, pairs)
        assert all(x.is_deleted() for x in jax.tree.leaves(before.params))
        if int(state.step) == 1:
            for a, b in zip(*map(jax.tree.leaves, (state, want)), strict=True):
                np.testing.assert_array_equal(a, b)


def test_eight_parts_take_less_than_a_third_of_the_memory():
    pairs = tiny_pairs.batch(*(tiny_pairs.pair(i) for i in range(8)))
    whole, parts = (
        train_step.compiled(run.update, run.start(), meshes.shard(pairs, run.mesh))
        for run in (Run(1), Run(1, accumulate=8))
    )
    peaks = [
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
        for memory in (x.memory_analysis() for x in (whole, parts.count, parts.learn))
    ]
    assert max(peaks[1:]) < peaks[0] / 3


def test_sharded_state_gives_the_parameters_of_the_whole_one(after):
    run = Run(shard_state=True)
    how = jax.tree.map(lambda x: x.sharding, run.start())
    state, found = _walk(run, 3)
    assert jax.tree.map(lambda x: x.sharding, state) == how
    for of_cut, of_whole in zip(found, after[1], strict=True):
        for name, value in of_whole.items():
            np.testing.assert_allclose(of_cut[name], value, rtol=1e-5, err_msg=name)
    for x, y in zip(*map(jax.tree.leaves, (state, after[0])), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


def test_sharded_state_takes_its_share_of_a_device(run):
    def bytes_on_first(state):
        return sum(x.addressable_data(0).nbytes for x in jax.tree.leaves(state))

    cut = meshes.spread(run.first, run.mesh)
    assert bytes_on_first(cut) < 0.6 * bytes_on_first(run.start())


# ---- the pieces


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_merge_of_split_is_the_model_in_another_type(dtype):
    structure, values = parameters.split(tiny_pairs.model(norm="frozen_batch"))
    assert {k.rsplit("/")[-1] for k in _leaves(values.statistics)} == {"mean", "var"}
    assert not {"mean", "var"} & {k.rsplit("/")[-1] for k in _leaves(values.params)}
    _, again = parameters.split(parameters.merge(structure, values, dtype))
    for a, b in zip(values, again, strict=True):
        want, got = _leaves(a), _leaves(b)
        assert want.keys() == got.keys()
        for name in want:
            assert got[name].dtype == jnp.dtype(dtype)
            np.testing.assert_array_equal(got[name], want[name].astype(dtype))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_decay_leaves_gamma_norms_and_biases_alone(name):
    """Choice A11. All leaves with one axis are of that kind, and no other."""
    model = tiny_pairs.model()
    params = jax.tree.map(jnp.ones_like, parameters.split(model)[1].params)
    settings = OPTIM | dict(name=name, weight_decay=0.1)
    rule = optimizer.build(params, **settings, frozen=("backbone/layer2", "rpn"))
    nothing = jax.tree.map(jnp.zeros_like, params)
    updates, _ = jax.jit(rule.update)(nothing, rule.init(params), params)
    frozen = ("backbone/layer2/", "rpn/")
    for path, update in _leaves(updates).items():
        decays = update.ndim > 1 and not path.startswith(frozen)
        want = -OPTIM["peak_lr"] * 0.1 if decays else 0.0
        np.testing.assert_allclose(update, want, rtol=1e-6, err_msg=path)


def test_compiled_before_the_first_step_it_is_the_same_update(run):
    pairs = meshes.shard(_batch(0), run.mesh)
    compiled = train_step.compiled(run.update, run.start(), pairs)
    got, want = compiled(run.start(), pairs), run.update(run.start(), pairs)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(a, b)
