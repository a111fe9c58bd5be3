"""`stan plan`: figures of compilers as a table and as json."""

import json

import pytest

from stan_jax.commands import main
from stan_jax.planning import machines, programs
from stan_jax.planning.figures import Collective, Memory
from stan_jax.planning.machines import Machine
from stan_jax.planning.programs import Cost, TooLarge
from stan_jax.training import mesh as meshes

GIB = 2**30
CONFIG = "configs/shapes_sta.py"


def _cost(peak_gib, kinds=("all-reduce",)):
    memory = Memory(GIB, int((peak_gib - 1) * GIB), 0)
    found = {kind: Collective(3, 5 * 2**20) for kind in kinds}
    return Cost(memory, 7_000_000_000, found, 30.0, 60.0)


@pytest.fixture
def asked(monkeypatch):
    """Configs that were compiled; a pair takes half a GiB, a device has 16."""
    found = []

    def update(config, classes, machine):
        found.append(config | {"classes": classes})
        peak = 2 + config["data"]["batch"] / 2
        if peak > 100:
            raise TooLarge(None, "RESOURCE_EXHAUSTED")
        if peak > 16:
            raise TooLarge(int(peak * GIB), "RESOURCE_EXHAUSTED")
        return _cost(peak)

    machine = Machine(meshes.make_mesh(2), 16 * GIB, {})
    monkeypatch.setattr(machines, "find", lambda *_: machine)
    monkeypatch.setattr(programs, "update", update)
    monkeypatch.setattr(programs, "tracker", lambda *_: _cost(1.5, ()))
    return found


def plan(*options, config=CONFIG):
    line = ["plan", "--config", config, "--platform", "tpu", "--topology", "v5e:1x2"]
    main.main([*line, *map(str, options)])


def test_command_prints_both_programs_and_that_none_was_run(asked, capsys):
    plan("--set", "data.batch=8", "--set", "run.dtype=bfloat16", "--classes", 7)
    lines = capsys.readouterr().out.splitlines()
    assert "batch 8, bfloat16, 7 classes" in lines[0]
    assert "tpu v5e:1x2, 2 x cpu: compiled, not run" in lines[1]
    words = "training step 1.00 5.00 6.00 16.00 7.0 60 s of CPU"
    assert lines[4].split() == words.split()
    assert lines[5].split() == "all-reduce: 3, 5.0 MiB in all".split()
    assert lines[6].split()[:6] == "tracker, 6 frames 1.00 0.50 1.50".split()
    assert len(lines) == 7
    assert asked[0]["classes"] == 7
    assert asked[0]["data"]["batch"] == 8
    assert asked[0]["run"]["dtype"] == "bfloat16"


def test_command_says_what_does_not_fit_and_what_it_needs(asked, capsys):
    plan("--set", "data.batch=36", "--only", "train")
    line = "training step      does not fit: needs 20.00 of 16.00 GiB"
    assert capsys.readouterr().out.splitlines()[-1] == line
    plan("--set", "data.batch=400", "--only", "train")
    line = "training step      does not fit: needs more than it has, 16.00 GiB"
    assert capsys.readouterr().out.splitlines()[-1] == line


def test_program_that_compiles_may_take_more_than_there_is(asked, monkeypatch, capsys):
    monkeypatch.setattr(programs, "tracker", lambda *_: _cost(17))
    plan("--only", "track")
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].strip() == "does not fit: needs 17.00 of 16.00 GiB"
    assert not asked


def test_largest_batch_is_searched_and_all_is_in_the_json(asked, capsys, tmp_path):
    path = tmp_path / "plan.json"
    plan("--largest", "--set", "data.batch=4", "--json", path)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "largest batch that fits: 28 (16.00 GiB), by 3 compiles"
    assert [config["data"]["batch"] for config in asked] == [4, 20, 28]
    found = json.loads(path.read_text())
    assert found["ran"] is False
    assert found["train"]["memory"]["peak"] == 4 * GIB
    assert found["train"]["collectives"] == {
        "all-reduce": {"times": 3, "size": 5 * 2**20}
    }
    assert found["track"]["fits"] is True
    assert found["largest"]["batch"] == 28
    assert list(found["largest"]["peaks"]) == ["4", "20", "28"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--set", "data.batc=8"), "--set: data.batc=8: cannot be set: .*batc"),
        (("--set", "data.batch=many"), "--set: data.batch=many: cannot be set"),
        (("--json", "absent/plan.json"), "folder absent must exist"),
    ],
)
def test_wrong_settings_are_one_line(asked, options, message):
    with pytest.raises(SystemExit, match=message) as left:
        plan(*options)
    assert "\n" not in str(left.value.code)
    assert not asked


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("configs/none.py", "there is no such file; configs/ has some"),
        ("configs/ytvis19_r50_sta.py:mine", "cannot be loaded: must be 'scratch'"),
        ("setup.cfg", "setup.cfg: cannot be loaded"),
    ],
)
def test_what_is_no_config_is_one_line(asked, config, message):
    with pytest.raises(SystemExit, match=message):
        plan(config=config)


def test_argument_of_a_config_is_heeded(asked):
    plan("--only", "train", config="configs/ytvis19_r50_sta.py:scratch")
    assert asked[0]["model"]["norm"] == "group"
