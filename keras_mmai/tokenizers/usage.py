"""How a codebook is used: metrics over the codes of many batches."""

import math

import keras
from keras import ops

from keras_mmai.layers.quantizers import perplexity


class CodeCounts(keras.metrics.Metric):
    """Counts codes of shape (..., *code_shape), ints in 0..num_embeddings-1, each place of `code_shape` by itself.

    `update_state(codes, sample_weight)` takes weights (...), or None. A code below 0 stands for none, and is left out.
    """

    def __init__(self, num_embeddings, code_shape=(), name=None, **kwargs):
        super().__init__(name=name, **kwargs)
        self.num_embeddings = num_embeddings
        self.code_shape = tuple(code_shape)
        self.counts = self.add_variable((math.prod(self.code_shape), num_embeddings), "zeros", name="counts")

    def update_state(self, codes, sample_weight=None):
        places = self.counts.shape[0]
        codes = ops.reshape(ops.cast(codes, "int32"), (-1, places))
        weight = ops.cast(codes >= 0, "float32")
        if sample_weight is not None:
            weight = weight * ops.reshape(ops.cast(sample_weight, "float32"), (-1, 1))
        index = ops.maximum(codes, 0) + self.num_embeddings * ops.arange(places, dtype="int32")
        counts = ops.segment_sum(
            ops.reshape(weight, (-1,)), ops.reshape(index, (-1,)), num_segments=places * self.num_embeddings
        )
        self.counts.assign_add(ops.reshape(counts, self.counts.shape))

    def get_config(self):
        return {**super().get_config(), "num_embeddings": self.num_embeddings, "code_shape": self.code_shape}


@keras.saving.register_keras_serializable(package="keras_mmai")
class Perplexity(CodeCounts):
    """exp of the entropy of the codes since the last reset: from 1 to num_embeddings, equal use giving the most.

    Of several places it is the geometric mean of theirs.
    """

    def __init__(self, num_embeddings, code_shape=(), name="perplexity", **kwargs):
        super().__init__(num_embeddings, code_shape, name=name, **kwargs)

    def result(self):
        each = perplexity(self.counts)
        return ops.where(ops.all(each > 0), ops.exp(ops.mean(ops.log(ops.maximum(each, 1.0)))), 0.0)


@keras.saving.register_keras_serializable(package="keras_mmai")
class CodesInUse(CodeCounts):
    """Number of different codes since the last reset, summed over places."""

    def __init__(self, num_embeddings, code_shape=(), name="codes_in_use", **kwargs):
        super().__init__(num_embeddings, code_shape, name=name, **kwargs)

    def result(self):
        return ops.sum(ops.cast(self.counts > 0, "float32"))
