"""Write a tracker as one ONNX file."""

from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import helper

from stan_jax.export import smaller, suppression
from stan_jax.export.convert import onnx_of
from stan_jax.export.flat import FlatTracker
from stan_jax.files import replacing
from stan_jax.runtimes.seal import sealed


def model_of(tracker: FlatTracker) -> onnx.ModelProto:
    """Return the model of a tracker, with its weights, that the checker has passed."""
    names, outputs = tracker.inputs, tracker.outputs

    def track(*arrays):
        table = dict(zip(names, arrays, strict=True))
        results = tracker(tracker.weights, table)
        return [results[name] for name in outputs]

    model = onnx_of(
        track,
        *names.values(),
        inputs=list(names),
        outputs=outputs,
        replaced=suppression.REPLACED,
        metadata=tracker.metadata(),
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def write(
    tracker: FlatTracker,
    path: str | Path,
    precision: str = "float32",
    videos: Sequence[str] = (),
) -> None:
    """Write the model of a tracker to a file.

    precision: one of `smaller.PRECISIONS`. videos: what int8 is calibrated with.
    """
    model = model_of(tracker)
    if precision != "float32":
        int8 = precision == "int8"
        model = smaller.quantised(model, videos) if int8 else smaller.half(model)
        onnx.checker.check_model(model, full_check=True)
    helper.set_model_props(model, tracker.metadata() | {"precision": precision})
    content = sealed(model.SerializeToString())
    with replacing(path) as temporary:
        temporary.write_bytes(content)
