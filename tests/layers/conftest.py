"""What the layer tests share: a layer's forward pass, compiled or not, on any backend."""

import keras
import pytest
from keras import ops

from keras_mmai.layers import DiTBlock, JointDiTBlock, SelfAttention


def tensors(inputs):
    return {name: ops.convert_to_tensor(value) for name, value in inputs.items()}


def compile_layer(layer, **kwargs):
    """inputs -> `layer(**inputs, **kwargs)`, compiled by the backend; changes of state are kept. PyTorch runs as is."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        function = tf.function(lambda values: layer(**values, **kwargs), jit_compile=True)
        return lambda inputs: function(tensors(inputs))
    if keras.backend.backend() == "jax":
        import jax

        variables = layer.variables

        @jax.jit
        def stateless(state, values):  # not `stateless_call`, which skips the autocast of the inputs
            with keras.StatelessScope(state_mapping=list(zip(variables, state)), collect_losses=True) as scope:
                outputs = layer(**values, **kwargs)
            return outputs, [scope.get_current_value(v) for v in variables]

        def call(inputs):
            outputs, after = stateless([v.value for v in variables], tensors(inputs))
            for variable, value in zip(variables, after):
                variable.assign(value)
            return outputs

        return call
    return lambda inputs: layer(**tensors(inputs), **kwargs)


def run(layer, inputs, **kwargs):
    """One forward pass in the way that takes the backend least time: one compilation on JAX, none elsewhere."""
    attends = isinstance(
        layer, (SelfAttention, DiTBlock, JointDiTBlock)
    )  # float16 attention does not compile for JAX's CPU
    if keras.backend.backend() == "jax" and not (attends and layer.compute_dtype == "float16"):
        return compile_layer(layer, **kwargs)(inputs)
    return layer(**tensors(inputs), **kwargs)


@pytest.fixture(autouse=True)
def without_gradients():
    """PyTorch hands out numbers only of what it does not differentiate; `gradients` and `fit` turn that on."""
    if keras.backend.backend() == "torch":
        import torch

        with torch.no_grad():
            yield
    else:
        yield


@pytest.fixture
def fit():
    """model, x, y, ... -> `model.fit`."""

    def run_fit(model, *args, **kwargs):
        if keras.backend.backend() == "torch":
            import torch

            with torch.enable_grad():
                return model.fit(*args, verbose=0, **kwargs)
        return model.fit(*args, verbose=0, **kwargs)

    return run_fit


@pytest.fixture
def compiled():
    return compile_layer


@pytest.fixture
def forward():
    return run
