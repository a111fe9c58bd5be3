"""Runtimes that run ONNX models: each opens a file and gives arrays for arrays."""

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from stan_jax.errors import InputError


class Given(NamedTuple):
    """Shape and type of an input."""

    shape: tuple[int, ...]
    dtype: np.dtype


@runtime_checkable
class Session(Protocol):
    """An opened model.

    inputs: by name. metadata: texts by name.
    """

    inputs: dict[str, Given]
    metadata: dict[str, str]

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Return the results by name."""


class OnnxRuntime:
    """A model in onnxruntime, on the CPU."""

    def __init__(self, path: Path):
        runtime = importlib.import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # errors
        self._session = runtime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        self.inputs = {
            x.name: Given(tuple(x.shape), _KINDS[x.type])
            for x in self._session.get_inputs()
        }
        self.metadata = self._session.get_modelmeta().custom_metadata_map
        self._names = [str(x.name) for x in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Return the results by name."""
        found: Any = self._session.run(None, dict(inputs))
        return dict(zip(self._names, found, strict=True))


class OpenVino:
    """A model in OpenVINO, on the CPU, computed in float32."""

    def __init__(self, path: Path):
        # Its import sends word of its use over the network where this package is.
        loaded: Any = sys.modules
        loaded.setdefault("openvino_telemetry", None)
        openvino = importlib.import_module("openvino")
        reader = importlib.import_module("openvino.frontend").FrontEndManager()
        onnx = reader.load_by_framework("onnx")  # no other: they take what is cut
        model = onnx.convert(onnx.load(path))
        for node in model.get_ops():
            # As ONNX has it: of equal entries that of the lower index first.
            if node.get_type_name() == "TopK":
                node.set_attribute("stable", True)
        self.inputs = {
            x.get_any_name(): Given(
                tuple(x.get_shape()), x.get_element_type().to_dtype()
            )
            for x in model.inputs
        }
        about: Any = model.get_rt_info()["framework"]
        about = about if isinstance(about, dict) else {}  # where there are no texts
        self.metadata = {name: x.astype(str) for name, x in about.items()}
        self._model = openvino.compile_model(model, "CPU", _EXACT)
        self._names = [x.get_any_name() for x in model.outputs]

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Return the results by name."""
        found = self._model(dict(inputs))
        return {name: np.array(found[name]) for name in self._names}


_EXACT = {
    "INFERENCE_PRECISION_HINT": "f32",
    "PERFORMANCE_HINT": "LATENCY",
    # Of 2026.4 the generated kernels of the attention's neighbours compute nonsense.
    "SNIPPETS_MODE": "DISABLE",
}
_KINDS = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(bool)": np.dtype(bool),
}
_CURES = {
    "onnxruntime": "export it anew",
    "openvino": "if it is of int8 take onnxruntime, else export it anew",
}
RUNTIMES = {"onnxruntime": OnnxRuntime, "openvino": OpenVino}


def open_session(path: Path, runtime: str) -> Session:
    """Return a model's file, opened.

    runtime: a key of `RUNTIMES`.
    Raises: InputError for another runtime or one that is not installed, and for a file
    that it cannot open.
    """
    if runtime not in RUNTIMES:
        rule = f"must be one of {', '.join(RUNTIMES)}, is {runtime!r}"
        raise InputError("runtime", "", rule)
    if importlib.util.find_spec(runtime) is None:
        raise InputError(runtime, "", "is not installed", f"pip install {runtime}")
    try:
        return RUNTIMES[runtime](path)
    except Exception as error:  # each runtime has its own
        said = str(error).strip().splitlines() or [type(error).__name__]
        rule = f"{runtime} cannot open it: {said[-1]:.200}"  # OpenVINO: the cause
        raise InputError(path, "", rule, _CURES[runtime]) from error
