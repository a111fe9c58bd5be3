import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = (
    "stan_jax.errors",
    "stan_jax.files",
    "stan_jax.signals",
    "stan_jax.compiling",
    "stan_jax.json_stream",
    "stan_jax.types",
    "stan_jax.ops",
    "stan_jax.masks",
    "stan_jax.media",
    "stan_jax.model",
    "stan_jax.tracking",
    "stan_jax.runtimes",
    "stan_jax.training",
    "stan_jax.annotations",
    "stan_jax.loading",
    "stan_jax.shapes",
    "stan_jax.metrics",
    "stan_jax.results",
    "stan_jax.evaluation",
    "stan_jax.presets",
    "stan_jax.configs",
    "stan_jax.published",
    "stan_jax.pretrained",
    "stan_jax.dealing",
    "stan_jax.inference",
    "stan_jax.video",
    "stan_jax.export",
    "stan_jax.planning",
    "stan_jax.commands",
)
# No clock, path, log or network: what is pure may not even import the tools for them.
CORE = (
    "stan_jax.errors",
    "stan_jax.types",
    "stan_jax.ops",
    "stan_jax.model",
    "stan_jax.tracking.memory",
    "stan_jax.tracking.rollout",
    "stan_jax.training.losses",
    "stan_jax.training.train_step",
    "stan_jax.loading.clips",
)
SHELL_TOOLS = "tensorflow orbax pycocotools absl ml_collections grain".split()
WITHOUT_JAX = (
    "stan_jax.masks",
    "stan_jax.types",
    "stan_jax.media",
    "stan_jax.tracking.tracker",
    "stan_jax.runtimes",
    "stan_jax.annotations",
    "stan_jax.loading",
    "stan_jax.shapes",
    "stan_jax.metrics",
    "stan_jax.results",
    "stan_jax.evaluation",
)

FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in sorted((ROOT / "stan_jax").rglob("*.py"))
    if path.name != "__init__.py"
}


def _within(name, parents):
    return any(f"{name}.".startswith(f"{parent}.") for parent in parents)


def _floor(name):
    return next((i for i, floor in enumerate(FLOORS) if _within(name, [floor])), None)


@cache
def _imports(name):
    """Dotted names of all modules that one file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            names = {alias.name for alias in node.names} - {"__version__"}
            whole = [f"{node.module}.{name}" for name in names]
            found |= {full if full in FILES else node.module for full in whole}
    return found


def _reached(name, seen=None):
    """All that importing a file imports, through other files of the package."""
    seen = set() if seen is None else seen
    for other in _imports(name) - seen:
        seen.add(other)
        if other in FILES:
            _reached(other, seen)
    return seen


@pytest.mark.parametrize("name", FILES)
def test_file_imports_only_from_floors_above_and_its_own(name):
    assert _floor(name) is not None, f"{name} stands on no floor: see FLOORS"
    for other in _imports(name):
        if _within(other, ["stan_jax"]):
            assert other in FILES, f"import files, not packages: {other}"
            assert _floor(other) <= _floor(name), f"{name} must not import {other}"
        assert not _within(other, ["train", "eval", "configs", "tests"])


@pytest.mark.parametrize("name", FILES)
def test_file_does_not_import_itself_through_others(name):
    assert name not in _reached(name)


@pytest.mark.parametrize("name", [n for n in FILES if _within(n, CORE)])
def test_core_file_imports_no_tool_of_the_shell(name):
    assert not [m for m in _reached(name) if _within(m, SHELL_TOOLS)]


@pytest.mark.parametrize("name", FILES)
def test_file_imports_neither_tensorflow_nor_config_objects(name):
    barred = ["tensorflow"]
    if not _within(name, ["stan_jax.configs"]):
        barred.append("ml_collections")
    assert not [m for m in _imports(name) if _within(m, barred)]


@pytest.mark.parametrize("name", [n for n in FILES if _within(n, WITHOUT_JAX)])
def test_what_needs_no_jax_imports_neither_it_nor_the_model(name):
    barred = ["jax", "flax", "optax", "stan_jax.model"]
    assert not [m for m in _reached(name) if _within(m, barred)]


def test_init_files_are_empty_but_for_the_public_names():
    for path in (ROOT / "stan_jax").rglob("__init__.py"):
        if path.parent != ROOT / "stan_jax":
            assert not path.read_text().strip(), path


def test_no_room_holds_more_than_its_share_of_the_lines():
    lines = {name: len(path.read_text().splitlines()) for name, path in FILES.items()}
    rooms = {}
    for name, number in lines.items():
        room = name.rpartition(".")[0]
        rooms[room] = rooms.get(room, 0) + number
    assert max(rooms.values()) < 0.15 * sum(lines.values()), rooms


def test_every_folder_is_a_package_that_gets_installed():
    for path in FILES.values():
        assert (path.parent / "__init__.py").is_file(), path
