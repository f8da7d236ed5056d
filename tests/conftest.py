"""Shared by all tests: import order, reproducibility, and where the reference numbers are."""

import importlib.metadata
import importlib.util
import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

if "PYTEST_XDIST_WORKER" in os.environ:  # there is a worker for each core: more threads only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

# Tests compile far more than they compute, and XLA's older emitters do it in half the time. These are for the releases
# alone that have them: XLA ends the program at a flag that it does not know.
if os.environ.get("KERAS_BACKEND") == "jax" and importlib.metadata.version("jaxlib").startswith("0.10."):
    flags = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ.setdefault("XLA_FLAGS", flags)

if importlib.util.find_spec("torch"):  # some wheels crash when tensorflow comes first
    import torch  # noqa: F401

import keras
import numpy as np
from keras import ops

SHARED = Path(os.environ.get("KERAS_MMAI_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the slow tests too")


def pytest_collection_modifyitems(config, items):
    # what takes longest comes first, so that no worker is alone with it in the end
    items.sort(key=lambda item: item.path.stem not in ("test_recipes", "test_examples", "test_benchmarks"))
    if config.getoption("--slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))


@pytest.fixture(autouse=True)
def reproducible():
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture
def shared():
    """The folder of reference numbers and data sets, which a user's checkout does not have."""
    if not SHARED.is_dir():
        if "KERAS_MMAI_SHARED" in os.environ:
            pytest.fail(f"KERAS_MMAI_SHARED names no folder: {SHARED}")
        pytest.skip("the reference folder is not here (KERAS_MMAI_SHARED names it)")
    return SHARED


@pytest.fixture
def diffusion_fixtures(shared):
    """name -> the arrays of fixtures/diffusion/{name}, numbers of the original implementations, as a dict."""
    folder = shared / "fixtures" / "diffusion"

    def load(name):
        if name.endswith(".safetensors"):
            from safetensors.numpy import load_file

            return load_file(folder / name)
        return dict(np.load(folder / f"{name}.npz"))

    return load


@pytest.fixture(autouse=True)
def quick_compilation():
    """Programs of tests run for moments, and JAX would spend most of a test on making them faster."""
    if keras.backend.backend() != "jax":
        yield
        return
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def numpy_initializers(monkeypatch):
    """Kernels drawn by numpy: JAX compiles a program for each new shape that it draws, which takes most of a test."""

    def draw(self, shape, dtype=None):
        values = np.random.default_rng(0).normal(size=shape) / np.sqrt(max(1, np.prod(shape[:-1])))
        return ops.convert_to_tensor(values.astype("float32"), dtype)

    for initializer in (keras.initializers.VarianceScaling, keras.initializers.RandomNormal):
        monkeypatch.setattr(initializer, "__call__", draw)


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


@pytest.fixture
def gradients():
    return gradients_of
