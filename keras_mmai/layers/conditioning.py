"""What a network is told besides its tokens: the time and the class."""

import keras
import numpy as np
from keras import ops

from keras_mmai.serialization import register


def timestep_embedding(t, dim, max_period=10000.0):
    """Sinusoids of a time: (b,) -> (b, dim) float32, cosines first; an odd `dim` ends in a zero.

    Reference: Vaswani et al. 2017, section 3.5, with frequencies max_period ** (-i / (dim // 2)) as in DDPM and DiT.
    """
    half = dim // 2
    frequencies = np.exp(-np.log(max_period) * np.arange(half, dtype="float64") / half).astype("float32")
    angles = ops.cast(t, "float32")[..., None] * ops.convert_to_tensor(frequencies)
    embedding = ops.concatenate([ops.cos(angles), ops.sin(angles)], axis=-1)
    if dim % 2:
        embedding = ops.concatenate([embedding, ops.zeros_like(angles[..., :1])], axis=-1)
    return embedding


@register
class TimestepEmbedding(keras.layers.Layer):
    """Time to vector: sinusoids, then two dense layers with SiLU between. (b,) -> (b, hidden_dim).

    Args:
        hidden_dim: int.
        frequency_dim: int, number of sinusoids.
        time_scale: float, the factor on t before the sinusoids. They are made for times of 0 to 1000, and raw times
            in [0, 1] leave all but a few of them constant, so the default is 1000; 1 is for networks that were
            trained on integer steps.

    Reference: Peebles & Xie 2023 (DiT), section 3.2.
    """

    def __init__(self, hidden_dim, frequency_dim=256, time_scale=1000.0, **kwargs):
        super().__init__(**kwargs)
        self.autocast = False  # bfloat16 would turn step 517 into 516
        self.hidden_dim = hidden_dim
        self.frequency_dim = frequency_dim
        self.time_scale = time_scale

    def build(self, t_shape):
        dense = dict(kernel_initializer=keras.initializers.RandomNormal(stddev=0.02), dtype=self.dtype_policy)
        self.expand = keras.layers.Dense(self.hidden_dim, activation="silu", name="expand", **dense)
        self.expand.build((None, self.frequency_dim))
        self.project = keras.layers.Dense(self.hidden_dim, name="project", **dense)
        self.project.build((None, self.hidden_dim))
        self.built = True

    def call(self, t):
        t = ops.cast(t, "float32") * self.time_scale
        return self.project(self.expand(timestep_embedding(t, self.frequency_dim)))

    def compute_output_shape(self, t_shape):
        return (*t_shape, self.hidden_dim)


@register
class LabelEmbedding(keras.layers.Layer):
    """Class to vector, with one more row, the null class `num_classes`, that stands for "no label".

    Call: `labels` (b,) int32 in 0..num_classes. In training each label is replaced by the null class with probability
    `dropout`, which is what classifier-free guidance needs (Ho & Salimans 2022, algorithm 1). Output (b, hidden_dim).

    Args:
        num_classes: int.
        hidden_dim: int.
        dropout: float in [0, 1].
        seed: int or None.
    """

    def __init__(self, num_classes, hidden_dim, dropout=0.1, seed=None, **kwargs):
        super().__init__(**kwargs)
        if not 0.0 <= dropout <= 1.0:
            raise ValueError(f"`dropout` is a probability in [0, 1]. Received: dropout={dropout}")
        self.num_classes = num_classes
        self.hidden_dim = hidden_dim
        self.dropout = dropout
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def build(self, labels_shape):
        self.table = keras.layers.Embedding(
            self.num_classes + 1,
            self.hidden_dim,
            embeddings_initializer=keras.initializers.RandomNormal(stddev=0.02),
            name="table",
            dtype=self.dtype_policy,
        )
        self.table.build(labels_shape)
        self.built = True

    def call(self, labels, training=False):
        labels = ops.cast(labels, "int32")  # the null class may be beyond the labels' own dtype
        if training and self.dropout > 0.0:
            drop = keras.random.uniform(ops.shape(labels), seed=self.seed_generator) < self.dropout
            labels = ops.where(drop, self.num_classes, labels)
        return self.table(labels)

    def compute_output_shape(self, labels_shape):
        return (*labels_shape, self.hidden_dim)
