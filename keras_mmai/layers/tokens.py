"""Ids as vectors: what a `PatchEmbed` is for numbers."""

import math

import keras
from keras import ops

from keras_mmai.serialization import register


@register
class TokenEmbedding(keras.layers.Layer):
    """Ids to vectors, with one more row for the mask: (b, *grid, *codes) int32 in 0..vocabulary to (b, n, hidden_dim).

    n is the product of the grid, and `vocabulary` itself the mask. The vectors of several ids of one token, such as the
    levels of a residual quantizer, are added, each of its own table.

    Args:
        vocabulary: int, the number of different ids.
        hidden_dim: int.
        code_axes: int, how many of the last axes are several ids of one token.
        stddev: float, of the vectors' entries at the start. 0.3 is about what a `PatchEmbed` makes of latents; much
            smaller ones are at first lost beside the positions that are added to them.
    """

    def __init__(self, vocabulary, hidden_dim, code_axes=0, stddev=0.3, **kwargs):
        super().__init__(**kwargs)
        self.vocabulary = vocabulary
        self.hidden_dim = hidden_dim
        self.code_axes = code_axes
        self.stddev = stddev

    def build(self, ids_shape):
        self.num_codes = math.prod(ids_shape[len(ids_shape) - self.code_axes :])
        self.table = keras.layers.Embedding(
            self.num_codes * (self.vocabulary + 1),
            self.hidden_dim,
            embeddings_initializer=keras.initializers.RandomNormal(stddev=self.stddev),
            name="table",
            dtype=self.dtype_policy,
        )
        self.table.build((None, None))
        self.built = True

    def call(self, ids):
        num_tokens = math.prod(ids.shape[1 : len(ids.shape) - self.code_axes])
        ids = ops.reshape(ops.cast(ids, "int32"), (-1, num_tokens, self.num_codes))
        first = ops.arange(self.num_codes, dtype="int32") * (self.vocabulary + 1)
        return ops.sum(self.table(ids + first), axis=2)

    def compute_output_shape(self, ids_shape):
        return (ids_shape[0], math.prod(ids_shape[1 : len(ids_shape) - self.code_axes]), self.hidden_dim)
