import errno
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from stan_jax.errors import InputError
from stan_jax.model import parameters
from stan_jax.pretrained import checkpoint
from stan_jax.training import optimizer

ROOT = Path(__file__).resolve().parents[2]


class State(NamedTuple):
    step: Any
    params: Any
    opt: Any


def _state(seed=0, width=4, dtype=jnp.bfloat16):
    """A small training state with every kind of leaf and of empty container."""
    k = jax.random.split(jax.random.key(seed), 3)
    params = {
        "backbone": {"layer1": {0: {"kernel": jax.random.normal(k[0], (3, 3, 2))}}},
        "box": {"kernel": jax.random.normal(k[1], (width, 6), dtype)},
        "sta": {"gamma": jax.random.normal(k[2], ())},
    }
    tx = optimizer.make(
        params,
        name="adamw",
        learning_rate=lambda step: 0.1,
        weight_decay=0.1,
        clip_norm=1.0,
        frozen=("backbone",),
    )
    ones = jax.tree.map(jnp.ones_like, params)
    _, opt = tx.update(ones, tx.init(params), params)
    return State(jnp.int32(seed), params, opt)


def _assert_same(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def _shapes(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


@pytest.fixture
def run(tmp_path):
    """Opens the checkpoints of one folder; the same folder each time."""
    opened = []

    def open_(**options):
        opened.append(checkpoint.Checkpoints(tmp_path / "run", **options))
        return opened[-1]

    yield open_
    for checkpoints in opened:
        checkpoints.close()


@pytest.mark.parametrize("data", [{"next": [7, {"a": None}]}, b"\x00\xff", {"i": b"7"}])
def test_restore_gives_back_every_bit(run, data):
    want = _state(5)
    assert run().save(5, want, data)
    state, data_state, step = run().restore(_shapes(_state(1)))
    _assert_same(state, want)
    assert (data_state, step) == (data, 5)


def test_restore_of_an_empty_folder_is_none(run):
    assert run().restore(_state()) is None
    assert (run().latest, run().best) == (None, None)


def test_restore_takes_the_newest_or_the_asked_step(run):
    checkpoints = run()
    for step in (1, 2, 10):
        checkpoints.save(step, _state(step), {})
    assert int(checkpoints.restore(_state())[0].step) == 10
    state, _, step = checkpoints.restore(_state(), step=2)
    assert step == 2
    _assert_same(state, _state(2))


def _sharding(*axes):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec(*axes))


@pytest.mark.skipif(len(jax.devices()) < 2, reason="needs two devices")
@pytest.mark.parametrize("axes", [(), ("data",)])
def test_restore_obeys_the_shardings_asked_for(run, axes):
    want = {"w": jax.random.normal(jax.random.key(0), (4, 3))}
    run().save(1, want, {})  # saved from one device
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=_sharding(*axes)),
        want,
    )
    got, _, _ = run().restore(like)
    assert got["w"].sharding == like["w"].sharding
    _assert_same(got, want)


@pytest.mark.skipif(len(jax.devices()) < 2, reason="needs two devices")
def test_state_saved_in_pieces_comes_back_whole(run):
    want = {"params": {"w": np.random.default_rng(0).normal(size=(4, 3))}}
    want = jax.tree.map(np.float32, want)
    run().save(1, jax.device_put(want, _sharding("data")), {})
    _, table = checkpoint.read(run().folder)
    _assert_same(table, {"params/w": want["params"]["w"]})
    like = jax.ShapeDtypeStruct((4, 3), np.float32, sharding=_sharding())
    got, _, _ = run().restore({"params": {"w": like}})
    assert got["params"]["w"].is_fully_replicated
    _assert_same(got, want)


@pytest.mark.skipif(len(jax.devices()) < 2, reason="needs two devices")
def test_restored_replicas_may_be_donated(run):
    # Replicas that shared one buffer would be halved twice by the second step.
    want = jax.random.normal(jax.random.key(0), (64, 64))
    checkpoints = run()
    checkpoints.save(1, {"w": jax.device_put(np.asarray(want), _sharding())}, {})
    like = {"w": jax.ShapeDtypeStruct(want.shape, want.dtype, sharding=_sharding())}
    state, _, _ = checkpoints.restore(like)
    halve = jax.jit(lambda s: jax.tree.map(lambda x: 0.5 * x, s), donate_argnums=0)
    state = halve(halve(state))
    for shard in state["w"].addressable_shards:
        np.testing.assert_array_equal(np.asarray(shard.data), 0.25 * np.asarray(want))
    again, _, _ = checkpoints.restore(like)
    _assert_same(again, {"w": want})


@pytest.mark.skipif(len(jax.devices()) < 2, reason="needs two devices")
def test_save_of_what_all_devices_hold_compiles_nothing(run):
    state = jax.device_put({"kernel": jnp.ones((6, 10))}, _sharding())
    compiled = []

    def note(event, _, **about):
        if "compile" in event:
            compiled.append((event, about))

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        run().save(1, state, {})
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    assert not compiled
    _assert_same(run().restore(_shapes(state))[0], state)


def test_saved_state_may_be_donated_at_once(run):
    checkpoints = run()
    want, state = _state(3), _state(3)
    bump = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    checkpoints.save(3, state, {})
    bump(state)
    _assert_same(checkpoints.restore(_state())[0], want)


def test_save_keeps_the_last_n_and_the_best(run):
    checkpoints = run(keep_last=2, best="ap")
    scores = {1: 0.1, 2: 0.7, 3: float("nan"), 4: 0.7, 5: 0.2, 6: None, 7: 0.3}
    for step, ap in scores.items():
        checkpoints.save(step, _state(step), {}, None if ap is None else {"ap": ap})
    assert checkpoints.steps == [4, 6, 7]
    assert run(keep_last=2, best="ap").best == 4


def test_best_is_never_a_step_whose_metric_is_not_a_number(run):
    checkpoints = run(best="ap")
    for step, ap in ((1, float("nan")), (2, 0.5)):
        checkpoints.save(step, _state(step), {}, {"ap": ap})
    assert checkpoints.best == 2


def test_save_of_a_step_already_there_changes_nothing(run):
    checkpoints = run()
    assert checkpoints.save(4, _state(1), {})
    assert not checkpoints.save(4, _state(2), {})
    _assert_same(checkpoints.restore(_state())[0], _state(1))


def test_save_refuses_a_step_older_than_the_newest(run):
    run().save(4, _state(), {})
    with pytest.raises(InputError, match=r"step 3: .*step 4, is there"):
        run().save(3, _state(), {})


def _without(state, part):
    return state._replace(params={k: v for k, v in state.params.items() if k != part})


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (
            lambda s: _state(width=5),
            r"params/box/kernel is \(4, 6\) bfloat16 in .*\(5, 6\) bfloat16 in the m",
        ),
        (
            lambda s: _state(dtype=jnp.float32),
            r"params/box/kernel is \(4, 6\) bfloat16 .*\(4, 6\) float32",
        ),
        (
            lambda s: _without(s, "sta"),
            r"params/sta/gamma is \(\) float32 in the checkpoint, absent in the model",
        ),
        (
            lambda s: s._replace(params=s.params | {"new": jnp.zeros(3)}),
            r"params/new is absent in the checkpoint, \(3,\) float32 in the model",
        ),
    ],
)
def test_restore_of_another_architecture_names_folder_leaf_and_shapes(
    run, monkeypatch, other, named
):
    run().save(4, _state(), {})

    def load(*_):
        raise AssertionError("loaded before the check")

    monkeypatch.setattr(checkpoint, "_load", load)
    with pytest.raises(InputError, match=named) as raised:
        run().restore(other(_state()))
    assert raised.value.file == str(run().folder)
    assert raised.value.record == "step 4"


def test_record_stands_beside_the_arrays_and_is_checked_before_them(run, monkeypatch):
    run(record={"model": {"depth": 50, "stages": (1, 2)}}).save(4, _state(), {})
    want = {"model": {"depth": 50, "stages": [1, 2]}, "step": 4}
    assert checkpoint.read_record(run().folder) == want
    seen = []
    assert run().restore(_state(), check=seen.append)
    assert seen == [want]
    monkeypatch.setattr(checkpoint, "_load", None)  # nothing is loaded

    def refuse(record):
        raise InputError("x", "", "of another run")

    with pytest.raises(InputError, match="of another run"):
        run().restore(_state(), check=refuse)


def test_check_says_which_record_is_saved_from_here_on(run):
    run(record={"origin": "x.pth"}).save(4, _state(), {})
    checkpoints = run(record={"origin": ""})
    checkpoints.restore(_state(), check=lambda theirs: theirs | {"more": 1})
    checkpoints.save(5, _state(5), {})
    want = {"origin": "x.pth", "more": 1, "step": 5}
    assert checkpoint.read_record(checkpoints.folder) == want


@pytest.mark.parametrize("largest_only", [False, True])
def test_restore_of_a_damaged_checkpoint_is_an_input_error(run, largest_only):
    state = {"w": jax.random.normal(jax.random.key(0), (500, 500))}
    run().save(4, state, {})
    files = [p for p in (run().folder / "4" / "state").rglob("*") if p.is_file()]
    largest = max(files, key=lambda p: p.stat().st_size)
    for path in [largest] if largest_only else files:
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="step 4: cannot be read"):
        run().restore(state)


def test_restore_of_a_step_that_is_not_there_lists_those_that_are(run):
    run().save(4, _state(), {})
    with pytest.raises(InputError, match=r"step 3: .*steps here: \[4\]"):
        run().restore(_state(), step=3)


def _names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_save_on_a_full_disk_names_folder_and_bytes_before_writing(run, monkeypatch):
    checkpoints = run()
    checkpoints.save(1, _state(1), {})
    monkeypatch.setattr(checkpoint, "_free", lambda folder: 1000)
    with pytest.raises(InputError, match=r"disk full: needs \d{7} bytes, 1000 are"):
        checkpoints.save(2, _state(2), {})
    assert _names(checkpoints.folder) == ["1"]


def test_save_that_meets_a_full_disk_half_way_leaves_nothing(run, monkeypatch):
    checkpoints = run()
    checkpoints.save(1, _state(1), {})

    def rename(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        for name in ("rename", "replace"):
            patch.setattr(f"os.{name}", rename)
        with pytest.raises(InputError, match="step 2: disk full: needs"):
            checkpoints.save(2, _state(2), {})
    assert _names(checkpoints.folder) == ["1"]
    assert checkpoints.save(2, _state(2), {})  # there is room again
    _assert_same(checkpoints.restore(_state())[0], _state(2))


FULL_DISK = """
    import jax, jax.numpy as jnp, os
    from stan_jax.errors import InputError
    from stan_jax.pretrained import checkpoint
    run = checkpoint.Checkpoints("{folder}/run")
    noise = lambda n: {{"w": jax.random.normal(jax.random.key(0), (n, 1000))}}
    run.save(1, noise(10), {{}})
    checkpoint._free = lambda folder: 1 << 40  # another process takes it meanwhile
    try:
        run.save(2, noise(2000), {{}})
    except InputError as error:
        assert "disk full: needs 9048576 bytes" in str(error), error
    assert os.listdir(run.folder) == ["1"], os.listdir(run.folder)
    assert run.save(3, noise(10), {{}}) and run.restore(noise(10))[2] == 3
    print("done")
"""


def test_save_survives_a_disk_that_is_really_full(tmp_path):
    private = ["unshare", "--mount", "--map-root-user"]
    mount = f"mount -t tmpfs -o size=4m none {tmp_path}"
    if (
        not shutil.which("unshare")
        or subprocess.run([*private, "sh", "-c", mount], capture_output=True).returncode
    ):
        pytest.skip("no private mounts on this machine")
    code = textwrap.dedent(FULL_DISK.format(folder=tmp_path))
    done = subprocess.run(
        [*private, "sh", "-c", f'{mount} && exec "$0" -c "$1"', sys.executable, code],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr
    assert "Traceback" not in done.stderr  # Orbax is not to speak as well


KILLED = """
    import jax.numpy as jnp
    from stan_jax.pretrained import checkpoint
    run = checkpoint.Checkpoints("{folder}", keep_last=2)
    found = run.restore({{"a": jnp.zeros((200, 500)), "b": jnp.zeros(3)}})
    step = found[2] if found else 0
    while True:
        step += 1
        state = {{"a": jnp.full((200, 500), 1.0 * step), "b": jnp.full(3, 1.0 * step)}}
        run.save(step, state, {{"next": step}})
"""


def test_kill_at_any_moment_leaves_the_newest_complete_checkpoint(tmp_path):
    folder = tmp_path / "run"
    code = textwrap.dedent(KILLED.format(folder=folder))
    rng = np.random.default_rng(0)
    like = {"a": jnp.zeros((200, 500)), "b": jnp.zeros(3)}
    before = 0
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
        while not (folder / str(before + 2)).is_dir():
            assert child.poll() is None
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.2))
        child.send_signal(signal.SIGKILL)
        child.wait()
        run = checkpoint.Checkpoints(folder, keep_last=2)
        found = run.restore(like)
        run.close()
        assert found is not None
        state, data, step = found
        assert step >= before + 2
        assert data == {"next": step}
        _assert_same(state, jax.tree.map(lambda x: jnp.full_like(x, step), like))  # noqa: B023
        assert all(name.isdigit() for name in _names(folder))
        before = step


def test_unfinished_checkpoint_is_ignored_and_cleaned_only_by_the_writer(run):
    folder = run().folder
    run().save(1, _state(1), {})
    (folder / "2.orbax-checkpoint-tmp").mkdir()
    _, got = checkpoint.read(folder)
    _assert_same(got, _table(_state(1).params))
    assert _names(folder) == ["1", "2.orbax-checkpoint-tmp"]
    assert run().latest == 1
    deadline = time.monotonic() + 30  # Orbax cleans up in a thread of its own
    while _names(folder) != ["1"] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _names(folder) == ["1"]


def test_half_deleted_old_checkpoint_does_no_harm(run):
    checkpoints = run(best="ap")
    for step in (1, 2):
        checkpoints.save(step, _state(step), {}, {"ap": 0.5})
    folder = checkpoints.folder / "1"
    shutil.rmtree(folder / "state")
    shutil.rmtree(folder / "metrics")
    (folder / "_CHECKPOINT_METADATA").unlink()
    checkpoints = run(best="ap", keep_last=1)
    assert checkpoints.restore(_state())[2] == 2
    assert checkpoints.save(3, _state(3), {}, {"ap": 0.1})
    assert checkpoints.steps == [2, 3]


def _table(params):
    return {f"params/{path}": x for path, x in parameters.by_path(params).items()}


def test_read_gives_only_the_parts_asked_for(run):
    checkpoints = run(best="ap")
    for step, ap in ((1, 0.5), (2, 0.9), (3, 0.1)):
        checkpoints.save(step, _state(step), {}, {"ap": ap})
    folder = checkpoints.folder
    _assert_same(checkpoint.read(folder)[1], _table(_state(3).params))
    _assert_same(checkpoint.read(folder, step=1)[1], _table(_state(1).params))
    assert set(checkpoint.read(folder, prefixes=("step",))[1]) == {"step"}
    assert checkpoint.read(folder, prefixes=())[1] == {}
    assert checkpoint.find_step(folder) == 3
    assert checkpoint.find_step(folder, best="ap") == 2
    with pytest.raises(InputError, match="no checkpoint with 'loss'"):
        checkpoint.find_step(folder, best="loss")


def test_parts_of_older_checkpoints_have_their_names_of_today(run):
    """What was called frozen until November 2026 are the statistics."""
    state = {"params": {"w": jnp.ones(2)}, "frozen": {"bn": {"mean": jnp.arange(3.0)}}}
    run().save(1, state, {})
    _, got = checkpoint.read(run().folder)
    assert set(got) == {"params/w", "statistics/bn/mean"}
    like = {"params": {"w": jnp.zeros(2)}, "statistics": {"bn": {"mean": jnp.zeros(3)}}}
    tree, _, _ = run().restore(like)
    np.testing.assert_array_equal(tree["statistics"]["bn"]["mean"], jnp.arange(3.0))


def test_read_without_a_checkpoint_says_so(tmp_path):
    with pytest.raises(InputError, match="nowhere: holds no complete checkpoint"):
        checkpoint.read(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
