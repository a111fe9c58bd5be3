"""A JAX function beside the ONNX model that is made of it."""

import jax
import numpy as np
import onnx
import onnxruntime

from stan_jax.export.convert import onnx_of


def session(model):
    """A session of a model that the checker has passed."""
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString())


def run(opened, *args):
    """Its results, given arrays in any pytree."""
    names = [x.name for x in opened.get_inputs()]
    leaves = [np.asarray(x) for x in jax.tree.leaves(args)]
    return opened.run(None, dict(zip(names, leaves, strict=True)))


def agree(function, *args, rtol=1e-5, atol=1e-6, **options):
    """Hold the model against JAX on these arrays; return it."""
    model = onnx_of(function, *args, **options)
    found = run(session(model), *args)
    wanted = jax.tree.leaves(jax.jit(function)(*args))
    for got, want in zip(found, wanted, strict=True):
        want = np.asarray(want)
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        if want.dtype.kind == "f":
            np.testing.assert_allclose(got, want, rtol=rtol, atol=atol)
        else:
            np.testing.assert_array_equal(got, want)
    return model


def operators(model):
    """Names of the operators in its outer graph."""
    return [node.op_type for node in model.graph.node]
