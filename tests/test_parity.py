"""Ours against the published systems, by the arrays that `parity.py` compares."""

import shutil

import numpy as np
import parity
import parity_models
import parity_ops
import pytest

WHOLE = [pytest.param(name, marks=pytest.mark.slow) for name in parity_models.CHECKS]


@pytest.mark.parametrize("name", [*parity_ops.CHECKS, *WHOLE])
def test_every_quantity_holds(golden, name):
    checks = {**parity_ops.CHECKS, **parity_models.CHECKS}
    rows = list(checks[name](parity.Folder(golden / "parity", 0)))
    assert len(rows) > 1
    assert [row for row in rows if not row.ok] == []


@pytest.fixture
def small(golden, tmp_path):
    """A folder like the golden one, of one file of arrays."""
    for name in ("rule.py", "manifest_ops.json", "anchors.npz"):
        shutil.copy(golden / "parity" / name, tmp_path)
    return tmp_path


def test_command_prints_a_line_per_quantity_and_ends_with_0(small, capsys):
    assert parity.main([str(small)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.endswith("  ok") for line in lines[1:-1])
    assert lines[-1] == "21 of 21 quantities ok"


def test_command_ends_with_1_where_a_quantity_is_off(small, capsys):
    with np.load(small / "anchors.npz") as file:
        arrays = dict(file)
    arrays["mmdet_base_2"][0, 0] += 0.01
    np.savez(small / "anchors.npz", **arrays)
    assert parity.main([str(small)]) == 1
    out = capsys.readouterr().out
    assert [x for x in out.splitlines() if "FAILED" in x][0].startswith(
        "anchors: mmdet_base_2"
    )


def test_file_without_a_check_fails(small, capsys):
    np.savez(small / "more.npz", x=np.zeros(3))
    assert parity.main([str(small)]) == 1
    assert "more: no check is known" in capsys.readouterr().out


def test_seed_is_handed_to_the_rule(golden):
    keys = "original_masktrackrcnn_r50_fpn"
    one, other = (
        parity.Folder(golden / "parity", seed).weights(keys, {}) for seed in (0, 1)
    )
    assert not np.array_equal(
        one["neck.fpn_convs.0.conv.bias"], other["neck.fpn_convs.0.conv.bias"]
    )
