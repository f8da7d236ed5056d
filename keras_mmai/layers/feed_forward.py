"""Feed-forward layers of a transformer block."""

import keras
from keras import ops

from keras_mmai.serialization import register


@register
class FeedForward(keras.layers.Layer):
    """Two dense layers with the tanh form of GELU between them: (b, n, d) -> (b, n, d).

    Args:
        hidden_dim: int, width between the two.

    Reference: Hendrycks & Gimpel 2016, section 2 (the tanh approximation, as DiT uses it).
    """

    def __init__(self, hidden_dim, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.hidden_dim = hidden_dim

    def build(self, x_shape):
        self.expand = keras.layers.Dense(self.hidden_dim, name="expand", dtype=self.dtype_policy)
        self.expand.build(x_shape)
        self.project = keras.layers.Dense(x_shape[-1], name="project", dtype=self.dtype_policy)
        self.project.build((*x_shape[:-1], self.hidden_dim))
        self.built = True

    def call(self, x):
        return self.project(ops.gelu(self.expand(x), approximate=True))

    def compute_output_shape(self, x_shape):
        return x_shape


@register
class SwiGLU(keras.layers.Layer):
    """Gated feed-forward: `W3 (silu(W1 x) * W2 x)`, (b, n, d) -> (b, n, d).

    Args:
        hidden_dim: int, width of the gate. Two thirds of a `FeedForward`'s width cost the same.

    Reference: Shazeer 2020 (GLU variants), equation 5.
    """

    def __init__(self, hidden_dim, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.hidden_dim = hidden_dim

    def build(self, x_shape):
        self.gate = keras.layers.Dense(2 * self.hidden_dim, name="gate", dtype=self.dtype_policy)
        self.gate.build(x_shape)
        self.project = keras.layers.Dense(x_shape[-1], name="project", dtype=self.dtype_policy)
        self.project.build((*x_shape[:-1], self.hidden_dim))
        self.built = True

    def call(self, x):
        gate, value = ops.split(self.gate(x), 2, axis=-1)
        return self.project(ops.silu(gate) * value)

    def compute_output_shape(self, x_shape):
        return x_shape
