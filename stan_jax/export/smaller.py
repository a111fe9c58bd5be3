"""Make the file of a tracker smaller: weights of 16 bits, or arithmetic of 8."""

import importlib.util
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from stan_jax.errors import InputError
from stan_jax.export.graph import read_by
from stan_jax.media.open import open_source
from stan_jax.media.source import Window
from stan_jax.runtimes.exported import ExportedProgram
from stan_jax.runtimes.sessions import Session, open_session
from stan_jax.tracking.tracker import Tracker

PRECISIONS = ("float32", "float16", "int8")
WEIGHTED = ("Conv", "MatMul")  # operators whose second input may be weights
LEAST = 256  # entries of what is worth a node
FRAMES = 100  # of a video to calibrate with


def half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with its weights kept in float16; it computes in float32.

    Only what a convolution or a matrix product multiplies with: places and thresholds
    stay as they are. Runtimes widen them once, when the file is opened.
    """
    smaller = onnx.ModelProto()
    smaller.CopyFrom(model)
    graph, read = smaller.graph, _weights(model.graph)
    casts = []
    for held in graph.initializer:
        array = numpy_helper.to_array(held)
        if held.name in read and array.dtype == np.float32 and array.size >= LEAST:
            name, short = held.name, f"{held.name}_half"
            held.CopyFrom(numpy_helper.from_array(array.astype(np.float16), short))
            kind = onnx.TensorProto.FLOAT
            casts.append(helper.make_node("Cast", [short], [name], to=kind))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return smaller


def quantised(model: onnx.ModelProto, videos: Sequence[str]) -> onnx.ModelProto:
    """Return the model with convolutions and matrix products of 8-bit numbers.

    By onnxruntime's quantiser: weights by channel, maps by the least and greatest value
    that they take while the model tracks.
    videos: that it tracks then; what `media.open` takes.
    Raises: InputError where onnxruntime is not installed or a video has no frame.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        rule = "is not installed"
        raise InputError("onnxruntime", "", rule, "pip install onnxruntime")
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):
        def __init__(self, calls: Iterator[dict[str, np.ndarray]]):
            self._calls = calls

        def get_next(self) -> Any:
            return next(self._calls, None)

    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        before.write_bytes(model.SerializeToString())
        disabled = logging.root.manager.disable
        logging.disable(logging.WARNING)  # it has shapes, which the quantiser may miss
        try:
            quantization.quantize_static(
                before,
                after,
                Reader(_calls(before, videos)),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=list(WEIGHTED),
                per_channel=True,
                weight_type=quantization.QuantType.QInt8,
                activation_type=quantization.QuantType.QUInt8,
            )
        finally:
            logging.disable(disabled)
        found = onnx.load(after)
    nodes = _in_order(found.graph.node)
    del found.graph.node[:]
    found.graph.node.extend(nodes)
    return found


class _Recorded:
    """A session that keeps what it was given."""

    def __init__(self, session: Session):
        self.inputs, self.metadata = session.inputs, session.metadata
        self.given: list[dict[str, np.ndarray]] = []
        self._session = session

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
        self.given.append(dict(inputs))
        return self._session.run(inputs)


def _calls(path: Path, videos: Sequence[str]) -> Iterator[dict[str, np.ndarray]]:
    """What the model is given while it tracks, call by call."""
    session = _Recorded(open_session(path, "onnxruntime"))
    program = ExportedProgram(session, path)
    tracker = Tracker(program, None, program.categories)
    for video in videos:
        with open_source(video, Window(max_frames=FRAMES)) as source:
            for _ in tracker.track(source):
                yield from session.given
                session.given.clear()


def _in_order(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Nodes behind what they read; the quantiser overlooks what inner graphs do."""
    made = {name: n for n, node in enumerate(nodes) for name in node.output}
    before = [{made[name] for name in read_by(node) if name in made} for node in nodes]
    after: list[list[int]] = [[] for _ in nodes]
    for n, numbers in enumerate(before):
        for number in numbers:
            after[number].append(n)
    ready = [n for n, numbers in enumerate(before) if not numbers]
    for n in ready:  # which grows
        for number in after[n]:
            before[number].remove(n)
            if not before[number]:
                ready.append(number)
    return [nodes[n] for n in ready]


def _weights(graph: onnx.GraphProto) -> set[str]:
    """Names of second inputs of what has weights, in inner graphs too."""
    names = {node.input[1] for node in graph.node if node.op_type in WEIGHTED}
    for node in graph.node:
        for attribute in node.attribute:
            names |= _weights(attribute.g)
    return names
