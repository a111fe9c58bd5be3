"""Write a tracker as one ONNX file."""

from pathlib import Path

import onnx

from stan_jax.export import suppression
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


def write(tracker: FlatTracker, path: str | Path) -> None:
    """Write the model of a tracker to a file."""
    content = sealed(model_of(tracker).SerializeToString())
    with replacing(path) as temporary:
        temporary.write_bytes(content)
