"""How a codebook is used: metrics over the codes of many batches."""

import keras
from keras import ops

from keras_mmai.layers.quantizers import perplexity


class CodeCounts(keras.metrics.Metric):
    """Counts the codes of `update_state(codes, sample_weight)`: ints in 0..num_embeddings-1, of any shape, and their
    weights, of the same shape or None."""

    def __init__(self, num_embeddings, name=None, **kwargs):
        super().__init__(name=name, **kwargs)
        self.num_embeddings = num_embeddings
        self.counts = self.add_variable((num_embeddings,), "zeros", name="counts")

    def update_state(self, codes, sample_weight=None):
        codes = ops.reshape(ops.cast(codes, "int32"), (-1,))
        weight = ops.ones_like(codes, dtype="float32")
        if sample_weight is not None:
            weight = ops.reshape(ops.cast(sample_weight, "float32"), (-1,))
        self.counts.assign_add(ops.segment_sum(weight, codes, num_segments=self.num_embeddings))

    def get_config(self):
        return {**super().get_config(), "num_embeddings": self.num_embeddings}


@keras.saving.register_keras_serializable(package="keras_mmai")
class Perplexity(CodeCounts):
    """exp of the entropy of the codes since the last reset: from 1 to num_embeddings, equal use giving the most."""

    def __init__(self, num_embeddings, name="perplexity", **kwargs):
        super().__init__(num_embeddings, name=name, **kwargs)

    def result(self):
        return perplexity(self.counts)


@keras.saving.register_keras_serializable(package="keras_mmai")
class CodesInUse(CodeCounts):
    """Number of different codes since the last reset."""

    def __init__(self, num_embeddings, name="codes_in_use", **kwargs):
        super().__init__(num_embeddings, name=name, **kwargs)

    def result(self):
        return ops.sum(ops.cast(self.counts > 0, "float32"))
