import json

import numpy as np
import pytest
import tiny_model

from stan_jax.export import onnx_file
from tests.export import doc_runs, flat_runs, onnx_runs


def _runner(model):
    opened = onnx_runs.session(model)
    names = [x.name for x in opened.get_outputs()]

    def run(inputs):
        return dict(zip(names, opened.run(None, inputs), strict=True))

    return run


@pytest.fixture(scope="module", params=flat_runs.MODELS)
def case(request):
    return flat_runs.case(request.param)


@pytest.fixture(scope="module")
def model(case):
    return onnx_file.model_of(case.flat)


def test_model_gives_the_tracks_of_step_frame_by_frame(case, model):
    found = flat_runs.walk(_runner(model), case)
    memory, wanted = case.steps()
    flat_runs.check(found, wanted)
    ids = [set(x.ids[x.valid].tolist()) for x in wanted]
    assert ids[1] & ids[2]  # tracks that were known
    assert set.union(*ids) - ids[0]  # tracks that came later
    for name in ("live", "ids", "labels", "next_id", "frame", "evicted"):
        want = getattr(memory, name)
        np.testing.assert_array_equal(found[-1][f"new_memory_{name}"], want)
    for n, want in enumerate(memory.features):
        got = found[-1][f"new_memory_features_{n}"]
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_model_says_what_it_is_and_nothing_of_where_it_was_made(case, model):
    about = {x.key: x.value for x in model.metadata_props}
    assert json.loads(about["classes"]) == ["cat", "dog", "cow"]
    assert json.loads(about["canvas"]) == [64, 96]
    assert json.loads(about["thresholds"])["box_nms"] == 0.5
    settings = case.settings
    tracking = json.loads(about["tracking"])
    assert tracking["association"]["share_ids"] == settings.association.share_ids
    assert about["preset"] in flat_runs.MODELS
    assert {"stan_jax", "jax", "format", "clock_per_frame", "input"} <= set(about)
    content = model.SerializeToString()
    assert b".py" not in content
    assert b"/somewhere/of/mine" not in content
    used = {node.op_type for node in model.graph.node}
    assert "NonMaxSuppression" in used


def test_program_of_the_docs_tracks_with_onnxruntime_alone(tmp_path):
    case = flat_runs.case("openmmlab")
    onnx_file.write(case.flat, tmp_path / "tracker.onnx")
    doc_runs.check(doc_runs.tracks("onnxruntime", tmp_path), case)


def test_model_of_a_clip_takes_its_frames_at_once_and_leaves_out_those_not_valid():
    case = flat_runs.case("openmmlab", length=3, sta=flat_runs.CARRIED)
    run = _runner(onnx_file.model_of(case.flat))
    memory = {f"memory_{name}": x for name, x in case.flat.memory.items()}
    found = []
    for first in (0, 3):
        number = min(3, flat_runs.FRAMES - first)
        frames = np.zeros((3, *tiny_model.CANVAS, 3), np.uint8)
        frames[:number] = flat_runs.VIDEO[first : first + number]
        now = dict(
            frames=frames,
            size_hw=flat_runs.SIZE,
            frames_valid=np.arange(3) < number,
            clock=1000 * np.arange(first, first + 3, dtype=np.int32),
        )
        results = run(now | memory)
        memory = {name: results[f"new_{name}"] for name in memory}
        assert not results["valid"][number:].any()
        names = list(results)[:7]
        found += [{k: results[k][t] for k in names} for t in range(number)]
    flat_runs.check(found, case.steps()[1])
    assert memory["memory_frame"] == flat_runs.FRAMES
