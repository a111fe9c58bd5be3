import json
import subprocess
import sys
from pathlib import Path

import fuzz
import pytest
from PIL import Image

import stan_jax
from stan_jax.commands import main

LOADED = "import sys; from stan_jax.commands.main import main\ntry: main({})\n"
LOADED += "except SystemExit: pass\nprint({{'jax', 'numpy'}} & set(sys.modules))"


@pytest.mark.parametrize(
    "line", [["--help"], *([name, "--help"] for name in main.COMMANDS)]
)
def test_help_loads_neither_jax_nor_numpy(line):
    code = LOADED.format(line)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "set()", done.stderr


def test_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as left:
        main.main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"stan {stan_jax.__version__}\n"


@pytest.mark.parametrize("name", main.COMMANDS)
def test_help_of_every_command_has_an_example(name, capsys):
    with pytest.raises(SystemExit) as left:
        main.main([name, "--help"])
    assert left.value.code == 0
    assert f"\n    stan {name} " in capsys.readouterr().out


def test_unknown_command_names_the_known(capsys):
    with pytest.raises(SystemExit) as left:
        main.main(["improt"])
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert all(name in error for name in main.COMMANDS)


def test_broken_file_ends_with_one_line(tmp_path):
    path = tmp_path / "x.pth"
    path.write_bytes(b"")
    with pytest.raises(SystemExit) as left:
        main.main(["import", str(path), str(tmp_path / "out")])
    assert left.value.code == f"error: {path}: must be a checkpoint, is empty"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [*fuzz.commands(Path()), "show"])
def test_tools_for_files_do_not_load_jax(tmp_path, name):
    lines = fuzz.commands(tmp_path)
    out = tmp_path / "pictures"
    lines["show"] = ["show", tmp_path / "instances.json", tmp_path, out]
    for file, content in fuzz.sound().items():
        (tmp_path / f"{file}.json").write_text(json.dumps(content))
    for video in fuzz.sound()["instances"]["videos"]:
        for frame in video["file_names"]:
            (tmp_path / frame).parent.mkdir(exist_ok=True)
            Image.new("RGB", (video["width"], video["height"])).save(tmp_path / frame)
    code = LOADED.format([str(word) for word in lines[name]]).replace(
        "'numpy'", "'flax'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "set()", done.stderr
    assert "Traceback" not in done.stderr
