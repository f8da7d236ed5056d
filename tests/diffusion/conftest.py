"""What the diffusion tests share: the reference arrays, compilation on any backend, and one exactly solvable model."""

import keras
import numpy as np
import pytest
from keras import ops


@pytest.fixture
def compiled():
    """function of tensors -> the same function, compiled by the backend (PyTorch runs it as it is)."""

    def compile_function(function):
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            return tf.function(function, reduce_retracing=True)
        if keras.backend.backend() == "jax":
            import jax

            return jax.jit(function)
        return function

    return compile_function


class GaussianModel:
    """The perfect network for data ~ N(mean, std^2): every answer, and the end of the ODE, in closed form."""

    def __init__(self, process, mean=0.3, std=0.5):
        self.process, self.mean, self.std = process, mean, std

    def network(self, x_t, t):
        alpha, sigma = (ops.reshape(v, (-1,) + (1,) * (len(x_t.shape) - 1)) for v in self.process.schedule(t))
        score = (x_t - alpha * self.mean) / (alpha**2 * self.std**2 + sigma**2)
        x_hat, eps_hat = self.mean + alpha * self.std**2 * score, sigma * score
        _, target = self.process.corrupt(x_hat, t, eps_hat)
        return target

    @property
    def denoiser(self):
        return self.process.denoiser(self.network)

    def end(self, x_1):
        """x_0 at the end of the probability-flow ODE from x_1, in float64."""
        alpha, sigma = (float(ops.convert_to_numpy(v)) for v in self.process.schedule(1.0))
        return self.mean + self.std * (np.asarray(x_1, "float64") - alpha * self.mean) / np.sqrt(
            alpha**2 * self.std**2 + sigma**2
        )


@pytest.fixture
def gaussian_model():
    return GaussianModel
