"""The contract of every quantizer."""

import math

import keras
from keras import ops

from keras_mmai import noise
from keras_mmai.distribution import STATE, sum_across_replicas
from keras_mmai.layers.quantizers.search import count_codes

USE_DECAY = 0.99
LARGEST_VOCABULARY = 2**24


class Quantizer(keras.layers.Layer):
    """Base of the quantizers: latents to codes, and codes to vectors.

    Call: `z` (b, ..., embedding_dim) of any rank, `mask` (b, ...) bool or None (False: padding). Returns a dict:
    "quantized" (b, ..., embedding_dim) in the dtype of z, zero where masked; "codes" (b, ..., *code_shape) int32 in
    0..vocabulary-1, zero where masked; "losses", float32 scalars by the names in `loss_names`, whose sum is also added
    with `add_loss`. With `trainable = False` nothing moves in training either.

    Search, statistics, losses and state are float32 under every policy. A latent that is masked out, or not finite,
    leaves no trace in losses and statistics; "quantized" of the latter is not finite either, so that a broken encoder
    is seen. Leave quantizers out of `keras.RematScope`: what is computed twice would move the statistics twice.

    A subclass sets `loss_names`, `vocabulary` and `code_shape`, and gives `encode_rows`, `lookup_rows`, `sample_rows`,
    and `compared` where latents are not compared with codes as they are. They work at `code_dim`, the width of the
    codes: where it is not `embedding_dim`, a dense layer leads there and one back.

    Raises:
        ValueError: when called on latents of another width.
    """

    loss_names = ()
    code_shape = ()
    lowest_code = 0  # or -1, where a code may be left out

    def __init__(self, embedding_dim, code_dim, **kwargs):
        super().__init__(**kwargs)
        if embedding_dim < 1 or code_dim < 1:
            raise ValueError(
                f"`embedding_dim` and `code_dim` must be positive. Received: embedding_dim={embedding_dim}, "
                f"code_dim={code_dim}"
            )
        self.supports_masking = True
        self.autocast = False
        self.embedding_dim = embedding_dim
        self.code_dim = code_dim

    def build(self, z_shape):
        self.check_width(z_shape)
        self.project_in = self.project_out = None
        if self.code_dim != self.embedding_dim:
            self.project_in = keras.layers.Dense(self.code_dim, name="project_in", dtype="float32")
            self.project_out = keras.layers.Dense(self.embedding_dim, name="project_out", dtype="float32")
            self.project_in.build((None, self.embedding_dim))
            self.project_out.build((None, self.code_dim))
        self.build_codes()
        self.built = True

    def build_codes(self):
        """Adds the weights, if there are any but the use of codes."""
        self.add_use()

    def encode_rows(self, rows, valid, leading_shape, training):
        """(n, code_dim) float32 to the quantized rows, their codes (n, *code_shape) and named losses.

        The quantized rows carry the gradient to `rows`. All rows are finite; `valid` (n,) bool says which of them
        count. `leading_shape` is the shape (b, ...) whose product is n.
        """
        raise NotImplementedError

    def sample_rows(self, rows, seed, temperature):
        """`sample` of rows (n, code_dim), with a seed int32 (n, 2) for each: int32 (n, *code_shape)."""
        raise NotImplementedError

    def lookup_rows(self, codes):
        """Codes (n, *code_shape) in range to vectors (n, code_dim) float32."""
        raise NotImplementedError

    def compared(self, rows):
        """Rows (n, code_dim) as they are compared with codes."""
        return rows

    def distances(self, z, codes):
        """How far latents lie from their codes, where the two are compared: at the width of the codes.

        `z` (b, ..., embedding_dim) and `codes` (b, ..., *code_shape) in range to float32 (b, ..., *code_shape).
        """
        self.check_width(z.shape)
        shape = ops.shape(z)[:-1]
        rows = self._in(ops.reshape(ops.cast(z, "float32"), (-1, self.embedding_dim)))
        codes = ops.reshape(ops.cast(codes, "int32"), (-1, *self.code_shape))
        return ops.reshape(self.distance_rows(rows, codes), (*shape, *self.code_shape))

    def distance_rows(self, rows, codes):
        """`distances` of rows (n, code_dim) and codes (n, *code_shape): (n, *code_shape)."""
        return length(self.compared(rows) - self.lookup_rows(codes))

    @property
    def vocabularies(self):
        """The number of codes of each place of `code_shape`, in order: a tuple of ints."""
        return (self.vocabulary,)

    def lookup(self, codes):
        """Codes (b, ..., *code_shape) int to their vectors (b, ..., embedding_dim) float32.

        What lies outside lowest_code..vocabulary-1 is clipped, since values are not known in a compiled program.
        """
        codes = ops.clip(ops.cast(codes, "int32"), self.lowest_code, self.vocabulary - 1)
        shape, axes = ops.shape(codes), len(codes.shape) - len(self.code_shape)
        rows = self.lookup_rows(ops.reshape(codes, (-1, *self.code_shape)))
        return ops.reshape(self._out(rows), (*shape[:axes], self.embedding_dim))

    def call(self, z, mask=None, training=False):
        output = self.encode(z, mask, training)
        if output["losses"]:
            self.add_loss(sum(output["losses"].values()))
        return output

    def encode(self, z, mask=None, training=False):
        """What a call gives, without adding its losses to those of a model: for a tokenizer that is only used."""
        self.check_width(z.shape)
        training = training and self.trainable
        shape, dtype = ops.shape(z), z.dtype
        rows = ops.reshape(ops.cast(z, "float32"), (-1, self.embedding_dim))
        valid = ops.all(ops.isfinite(rows), axis=-1)
        keep = ops.ones_like(valid) if mask is None else ops.reshape(ops.cast(mask, "bool"), (-1,))
        valid = ops.logical_and(valid, keep)
        rows = ops.where(valid[:, None], rows, 0.0)  # NaN would spoil gradients even at weight zero

        quantized, codes, losses = self.encode_projected(rows, valid, shape[:-1], training)

        others = ops.where(keep, float("nan"), 0.0)
        quantized = ops.where(valid[:, None], quantized, others[:, None])
        codes = ops.where(ops.reshape(valid, (-1, *[1] * len(self.code_shape))), codes, 0)
        return {
            "quantized": ops.cast(ops.reshape(quantized, shape), dtype),
            "codes": ops.reshape(codes, (*shape[:-1], *self.code_shape)),
            "losses": losses,
        }

    def sample(self, z, seed, temperature=1.0):
        """Codes by chance: those of distance d to a latent with a probability in proportion to exp(-d^2 / temperature).

        The distance is that of `distances`; where there are several codes, each is drawn given those before it
        (Lee et al. 2022, arXiv:2203.01941, section 3.2.3).

        Args:
            z: (b, ..., embedding_dim).
            seed: int, or int32 (b, 2) with a seed for each row.
            temperature: float > 0. The smaller, the more often it is the code that `encode` gives.

        Returns:
            int32 (b, ..., *code_shape). A latent that is not finite counts as zeros.

        Raises:
            ValueError: on latents of another width, a temperature that is not positive, or another kind of seed.
        """
        self.check_width(z.shape)
        if temperature <= 0:
            raise ValueError(
                f"`temperature` must be positive: `encode` takes the nearest code. Received: {temperature}"
            )
        shape = ops.shape(z)[:-1]
        rows = ops.reshape(ops.cast(z, "float32"), (-1, self.embedding_dim))
        rows = ops.where(ops.all(ops.isfinite(rows), axis=-1, keepdims=True), rows, 0.0)
        seed = noise.row_seeds(seed, shape[0])
        if len(shape) > 1:
            seed = ops.reshape(noise.split(seed, math.prod(shape[1:])), (-1, 2))
        codes = self.sample_rows(self._in(rows), seed, temperature)
        return ops.reshape(codes, (*shape, *self.code_shape))

    def encode_projected(self, rows, valid, leading_shape, training):
        """`encode_rows` at the width of the latents."""
        quantized, codes, losses = self.encode_rows(self._in(rows), valid, leading_shape, training)
        return self._out(quantized), codes, losses

    def _in(self, rows):
        return rows if self.project_in is None else self.project_in(rows)

    def _out(self, rows):
        return rows if self.project_out is None else self.project_out(rows)

    def check_width(self, z_shape):
        if z_shape[-1] != self.embedding_dim:
            raise ValueError(
                f"The quantizer takes latents of width {self.embedding_dim}. Received: latents of shape "
                f"{tuple(z_shape)}"
            )

    @property
    def bits(self):
        """Bits that the codes of one latent take."""
        return math.log2(self.vocabulary)

    # How codes are used

    def add_use(self):
        """Adds the weight `uses`: the running average of how often a training batch uses each code."""
        self.uses = self.add_weight(shape=(self.vocabulary,), initializer="zeros", name="uses", **STATE)

    def track_use(self, codes, valid):
        """Moves `uses`, and returns how often the batch uses each code, on all replicas: float32 (vocabulary,)."""
        counts = sum_across_replicas(count_codes(codes, valid, self.vocabulary))
        decay = ops.where(ops.sum(counts) > 0, USE_DECAY, 1.0)
        self.uses.assign(decay * self.uses + (1.0 - decay) * counts)
        return counts

    @property
    def use(self):
        """The running share of each code in training: float32 (*code_shape, vocabulary); `perplexity` takes it.

        Zeros before the first training step. A batch's own share is that of the "codes" of its output.
        """
        return self.uses / ops.maximum(ops.sum(self.uses), 1e-12)

    # What Keras asks for

    def compute_mask(self, z, mask=None):
        return {"quantized": mask, "codes": mask, "losses": dict.fromkeys(self.loss_names)}

    def compute_output_spec(self, z, mask=None, training=False):
        return {
            "quantized": keras.KerasTensor(z.shape, dtype=z.dtype),
            "codes": keras.KerasTensor((*z.shape[:-1], *self.code_shape), dtype="int32"),
            "losses": {name: keras.KerasTensor((), dtype="float32") for name in self.loss_names},
        }


def straight_through(rows, quantized):
    """The value of `quantized`, exactly, with the gradient of `rows`."""
    return ops.stop_gradient(quantized) + (rows - ops.stop_gradient(rows))


def mean_over(valid, values):
    """Mean of `values` (n,) over the valid ones; 0 if there are none."""
    weight = ops.cast(valid, "float32")
    return ops.sum(ops.where(valid, values, 0.0)) / ops.maximum(ops.sum(weight), 1.0)


def mean_square(valid, a, b):
    """Mean of (a - b)^2 over the valid rows of two arrays (n, d)."""
    difference = ops.where(valid[:, None], a - b, 0.0)  # before the square, or NaN would reach the gradient
    return mean_over(valid, ops.mean(ops.square(difference), axis=-1))


def length(x):
    """Euclidean length of the rows of (..., d): (...,)."""
    return ops.sqrt(ops.sum(ops.square(x), axis=-1))


def unit(x):
    return x * ops.rsqrt(ops.maximum(ops.sum(ops.square(x), axis=-1, keepdims=True), 1e-12))


def check_vocabulary(vocabulary, argument):
    if vocabulary > LARGEST_VOCABULARY:
        raise ValueError(
            f"A quantizer has at most 2**24 codes, the integers that float32 counts. Received: {argument}, which makes "
            f"{vocabulary}. Split the channels by a `GroupedQuantizer`."
        )
