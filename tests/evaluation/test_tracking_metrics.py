import json

import pytest

from stan_jax.evaluation import tracking_metrics as metrics

CASES = "01_clean 02_switches 03_busy 04_empties 05_classes 06_exact_iou".split()


@pytest.mark.parametrize("case", CASES)
def test_summary_equals_the_reference_to_the_last_digit(golden, case):
    folder = golden / "hota" / case
    want = json.loads((folder / "expected.json").read_text())["summary"]
    got = metrics.evaluate_files(folder / "instances.json", folder / "results.json")
    assert want.keys() <= got.keys()
    for name in want:
        assert got[name] == want[name], name
