import jax
import numpy as np
import pytest
from jax import export
from safetensors import safe_open

from stan_jax.export import jax_folder
from tests.export import doc_runs, flat_runs


@pytest.fixture(scope="module")
def case():
    return flat_runs.case("openmmlab")


@pytest.fixture(scope="module")
def folder(case, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "tracker"
    jax_folder.write(case.flat, folder)
    return folder


def test_loader_of_the_docs_tracks_with_jax_and_safetensors_alone(case, folder):
    found = doc_runs.tracks("jax", folder.parent)
    doc_runs.check(found, case)


def test_program_is_for_every_platform_and_names_no_file_of_this_machine(folder):
    assert sorted(x.name for x in folder.iterdir()) == [
        jax_folder.PROGRAM,
        jax_folder.WEIGHTS,
    ]
    content = (folder / jax_folder.PROGRAM).read_bytes()
    assert export.deserialize(bytearray(content)).platforms == jax_folder.PLATFORMS
    for word in (b".py", b"stan_jax", b"/somewhere/of/mine"):
        assert word not in content
    with safe_open(folder / jax_folder.WEIGHTS, "numpy") as file:
        about = file.metadata()
    assert about["preset"] == "openmmlab"
    assert "/somewhere/of/mine" not in str(about)
    with pytest.raises(Exception, match=r".+"):
        export.deserialize(bytearray(content[:-200]))


def test_program_says_what_it_takes_and_is_of_a_clip_where_asked():
    flat = flat_runs.case("original", length=2).flat
    program = jax_folder.program_of(flat)
    (weights, inputs), _ = jax.tree.unflatten(program.in_tree, program.in_avals)
    assert set(weights) == set(flat.weights)
    assert {k: (x.shape, x.dtype) for k, x in inputs.items()} == {
        k: (x.shape, np.dtype(x.dtype)) for k, x in flat.inputs.items()
    }
    results = jax.tree.unflatten(program.out_tree, program.out_avals)
    assert set(results) == set(flat.outputs)
    assert results["boxes"].shape == (2, 6, 4)


def test_places_of_code_are_told_again_after_an_export(case):
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    jax_folder.program_of(case.flat)
    assert getattr(jax.config, name) == before
