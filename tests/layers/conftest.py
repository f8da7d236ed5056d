"""What the layer tests share: a layer's forward pass, compiled or not, and gradients, on any backend."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_mmai.layers import DiTBlock, SelfAttention


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
    attends = isinstance(layer, (SelfAttention, DiTBlock))  # float16 attention does not compile for JAX's CPU
    if keras.backend.backend() == "jax" and not (attends and layer.compute_dtype == "float16"):
        return compile_layer(layer, **kwargs)(inputs)
    return layer(**tensors(inputs), **kwargs)


def gradients_of(function, inputs, variables=()):
    """Value of `function(*inputs)`, and its gradients as numpy arrays: by the inputs, then by the variables."""
    given = [ops.convert_to_tensor(value) for value in inputs]
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(given)
            value = function(*given)
        gradients = tape.gradient(value, [*given, *[v.value for v in variables]])
    elif keras.backend.backend() == "jax":
        import jax

        def stateless(given, values):
            with keras.StatelessScope(state_mapping=list(zip(variables, values)), collect_losses=True):
                return function(*given)

        value, (by_input, by_variable) = jax.jit(jax.value_and_grad(stateless, argnums=(0, 1)))(
            given, [v.value for v in variables]
        )
        gradients = [*by_input, *by_variable]
    else:
        import torch

        with torch.enable_grad():
            given = [t.detach().clone().requires_grad_() for t in given]
            value = function(*given)
            gradients = torch.autograd.grad(value, [*given, *[v.value for v in variables]], allow_unused=True)
        value = value.detach()
    numbers = [None if g is None else np.asarray(ops.convert_to_numpy(g)) for g in gradients]
    return float(ops.convert_to_numpy(value)), numbers


@pytest.fixture(autouse=True)
def quick_compilation():
    """These programs run for microseconds, and JAX would spend most of a test on making them faster."""
    if keras.backend.backend() != "jax":
        yield
        return
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


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
def numpy_initializers(monkeypatch):
    """Kernels drawn by numpy: JAX compiles a program for each new shape that it draws, which takes most of a test."""

    def draw(self, shape, dtype=None):
        values = np.random.default_rng(0).normal(size=shape) / np.sqrt(max(1, np.prod(shape[:-1])))
        return ops.convert_to_tensor(values.astype("float32"), dtype)

    for initializer in (keras.initializers.VarianceScaling, keras.initializers.RandomNormal):
        monkeypatch.setattr(initializer, "__call__", draw)


@pytest.fixture
def compiled():
    return compile_layer


@pytest.fixture
def forward():
    return run


@pytest.fixture
def gradients():
    return gradients_of
