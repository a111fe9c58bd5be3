"""The notebook is its paired .py, without outputs; `make notebook` runs it."""

import json
import re
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"


def _cells(text):
    """(kind, source) of each cell of a file in the percent format."""
    header, *parts = re.split(r"^# %%", text, flags=re.MULTILINE)
    assert header.startswith("# ---")
    for part in parts:
        first, _, source = part.partition("\n")
        kind = "markdown" if "[markdown]" in first else "code"
        lines = source.strip("\n").split("\n")
        if kind == "markdown":
            lines = [re.sub(r"^# ?", "", line) for line in lines]
        yield kind, "\n".join(lines)


def test_notebook_has_the_cells_of_its_pair_and_no_outputs():
    cells = json.loads((FOLDER / "stan.ipynb").read_text())["cells"]
    got = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    assert got == list(_cells((FOLDER / "stan.py").read_text()))
    for cell in cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_notebook_runs_no_shell_lines_whose_failure_would_pass():
    code = [s for kind, s in _cells((FOLDER / "stan.py").read_text()) if kind == "code"]
    assert not re.findall(r"^\s*[!%].*", "\n".join(code), flags=re.MULTILINE)
