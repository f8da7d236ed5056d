"""Vector quantization: latents to the nearest of K learned codes (van den Oord, Vinyals & Kavukcuoglu 2017).

With the code e of a latent z and sg the stop-gradient:

    (1)  code        argmin_k |z - e_k|^2 = argmax_k (z - m).(e_k - m) - |e_k - m|^2 / 2      for any m
    (2)  output      e + (z - sg z)                       its value is exactly e, its gradient is z's
    (3)  commitment  beta |z - sg e|^2                                                        (paper, eq. 3)
    (4)  gradient codebook   |sg z - e|^2                                                     (paper, eq. 3)
    (5)  EMA codebook   N <- d N + (1 - d) n,  M <- d M + (1 - d) sum z,  e = M / N           (paper, appendix A.1)

Search, statistics and losses are float32 under every policy. A latent that is masked out, or not finite, leaves no
trace in losses and statistics.
"""

import keras
from keras import ops

from keras_mmai.serialization import register

SCORE_BYTES = 64 * 2**20
DYNAMIC_ROWS = 1024
EPSILON = 1e-5
K_MEANS_STEPS = 10


def nearest_code(z, codebook):
    """Index of the nearest row of `codebook` (k, d) for each row of `z` (n, d), by equation (1): int32 (n,).

    Both are centred on the mean code, which costs nothing and keeps float32 exact where they share an offset, and rows
    are taken in chunks, so that no more than 64 MiB of scores exist at once.
    """
    num_codes, dim = codebook.shape
    centre = ops.mean(codebook, axis=0)
    codes = ops.transpose(codebook - centre)
    bias = -0.5 * ops.sum(ops.square(codes), axis=0)

    def search(rows):
        return ops.cast(ops.argmax(ops.matmul(rows - centre, codes) + bias, axis=-1), "int32")

    chunk = max(1, SCORE_BYTES // (4 * num_codes))
    if z.shape[0] is None:
        chunk = min(chunk, DYNAMIC_ROWS)  # the last chunk is padded: a small one wastes little
    elif z.shape[0] <= chunk:
        return search(z)
    n = ops.shape(z)[0]
    num_chunks = (n + chunk - 1) // chunk
    padded = ops.pad(z, ((0, num_chunks * chunk - n), (0, 0)))
    return ops.reshape(ops.map(search, ops.reshape(padded, (num_chunks, chunk, dim))), (-1,))[:n]


def code_statistics(z, codes, valid, num_codes):
    """Counts (k,) and sums (k, d) of the valid rows of z by their code."""
    buckets = ops.where(valid, codes, num_codes)  # what is not valid goes to a bucket that is thrown away
    counts = ops.segment_sum(ops.cast(valid, "float32"), buckets, num_segments=num_codes + 1)
    sums = ops.segment_sum(z, buckets, num_segments=num_codes + 1)
    return counts[:num_codes], sums[:num_codes]


def perplexity(counts):
    """exp of the entropy of the distribution in proportion to `counts` (k,): 1 to k, 0 if there are none."""
    total = ops.sum(counts)
    p = counts / ops.maximum(total, 1e-12)
    return ops.where(total > 0, ops.exp(-ops.sum(p * ops.log(p + 1e-20))), 0.0)


def unit(x):
    return x * ops.rsqrt(ops.maximum(ops.sum(ops.square(x), axis=-1, keepdims=True), 1e-12))


@register
class VectorQuantizer(keras.layers.Layer):
    """A codebook of `num_embeddings` vectors, learned by moving averages or by gradient.

    Call: `z` (b, ..., embedding_dim) of any rank, `mask` (b, ...) bool or None (False: padding). Returns a dict:
    "quantized" (b, ..., embedding_dim) in the dtype of z, zero where masked; "codes" (b, ...) int32, zero where
    masked; "losses": {"commitment", "codebook"}, float32 scalars, whose sum is also added with `add_loss`. With
    `trainable = False` the codebook stands still in training too.

    Args:
        num_embeddings: int k, number of codes.
        embedding_dim: int.
        codebook: "ema" (moving averages of the latents) or "gradient".
        distance: "euclidean", or "cosine": latents and codes are compared, and given out, at unit length.
        initialization: "batch" (latents of the first training batch), "kmeans" (ten steps of k-means on them) or
            "uniform" (van den Oord's uniform in +-1/k: as is).
        commitment_weight: float, beta.
        decay: float, d of the moving averages.
        revival_threshold: float; a code used less than this fraction of the mean is moved to a random latent of the
            batch. 0 turns revival off.
        seed: int or None.

    Raises:
        ValueError: at construction on a word or number out of range; when called on latents of another width.
    """

    def __init__(
        self,
        num_embeddings,
        embedding_dim,
        codebook="ema",
        distance="euclidean",
        initialization="batch",
        commitment_weight=0.25,
        decay=0.99,
        revival_threshold=0.1,
        seed=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        for name, value, allowed in (
            ("codebook", codebook, ("ema", "gradient")),
            ("distance", distance, ("euclidean", "cosine")),
            ("initialization", initialization, ("batch", "kmeans", "uniform")),
        ):
            if value not in allowed:
                raise ValueError(f"`{name}` must be one of {allowed}. Received: {value!r}")
        if num_embeddings < 1 or embedding_dim < 1:
            raise ValueError(
                f"`num_embeddings` and `embedding_dim` must be positive. Received: {num_embeddings} and {embedding_dim}"
            )
        if not 0.0 < decay < 1.0 or not 0.0 <= revival_threshold < 1.0:
            raise ValueError(
                "`decay` must lie in (0, 1) and `revival_threshold` in [0, 1). Received: "
                f"decay={decay}, revival_threshold={revival_threshold}"
            )
        self.supports_masking = True
        self.autocast = False
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.codebook = codebook
        self.distance = distance
        self.initialization = initialization
        self.commitment_weight = commitment_weight
        self.decay = decay
        self.revival_threshold = revival_threshold
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    @property
    def vocabulary(self):
        return self.num_embeddings

    @property
    def loss_names(self):
        return ("commitment", "codebook") if self.codebook == "gradient" else ("commitment",)

    def _check_width(self, z_shape):
        if z_shape[-1] != self.embedding_dim:
            raise ValueError(
                f"The quantizer holds codes of width {self.embedding_dim}. Received: latents of shape {tuple(z_shape)}"
            )

    def build(self, z_shape):
        self._check_width(z_shape)
        shape = (self.num_embeddings, self.embedding_dim)
        limit = 1.0 / self.num_embeddings
        uniform = keras.initializers.RandomUniform(-limit, limit, seed=self.seed)

        def start(shape, dtype):  # the same values at each call, so that codes and sums begin equal
            values = uniform(shape, dtype)
            return unit(values) if self.distance == "cosine" else values

        state = dict(trainable=False, autocast=False, dtype="float32")
        learned = self.codebook == "gradient"
        self.embeddings = self.add_weight(
            shape=shape, initializer=start, trainable=learned, autocast=False, dtype="float32", name="embeddings"
        )
        self.counts = self.add_weight(shape=shape[:1], initializer="ones", name="counts", **state)
        # EMA: the sums M of equation (5). Gradient: what moves a code without the optimizer, since a layer's call
        # may not assign to a trainable weight on JAX.
        name, initial = ("shift", "zeros") if learned else ("sums", start)
        self.shift = self.add_weight(shape=shape, initializer=initial, name=name, **state)
        self.initialized = self.add_weight(
            shape=(), initializer="ones" if self.initialization == "uniform" else "zeros", name="initialized", **state
        )
        self.built = True

    @property
    def codes(self):
        """The codebook in use: float32 (num_embeddings, embedding_dim)."""
        codebook = ops.convert_to_tensor(self.embeddings)
        if self.codebook == "gradient":
            codebook = codebook + self.shift
        return unit(codebook) if self.distance == "cosine" else codebook

    def lookup(self, codes):
        """Codes (b, ...) int in 0..num_embeddings-1 to their vectors (b, ..., embedding_dim) float32."""
        return ops.take(self.codes, ops.clip(ops.cast(codes, "int32"), 0, self.num_embeddings - 1), axis=0)

    def call(self, z, mask=None, training=False):
        self._check_width(z.shape)
        training = training and self.trainable
        shape, dtype = ops.shape(z), z.dtype
        rows = ops.reshape(ops.cast(z, "float32"), (-1, self.embedding_dim))
        valid = ops.all(ops.isfinite(rows), axis=-1)
        keep = ops.ones_like(valid) if mask is None else ops.reshape(ops.cast(mask, "bool"), (-1,))
        valid = ops.logical_and(valid, keep)
        rows = ops.where(keep[:, None], rows, 0.0)  # NaN in padding would spoil gradients even at weight zero
        if self.distance == "cosine":
            rows = unit(rows)
        clean = ops.where(valid[:, None], ops.stop_gradient(rows), 0.0)

        if training:
            candidates = self._candidates(clean, valid)
            self._initialize(clean, valid, candidates)
        codebook = self.codes
        codes = nearest_code(clean, ops.stop_gradient(codebook))
        chosen = ops.take(codebook, codes, axis=0)
        losses = self._named_losses(rows, clean, chosen, valid)
        self.add_loss(sum(losses.values()))
        if training:
            self._update(clean, codes, valid, candidates)

        quantized = ops.stop_gradient(chosen) + (rows - ops.stop_gradient(rows))
        quantized = ops.where(keep[:, None], quantized, 0.0)
        return {
            "quantized": ops.cast(ops.reshape(quantized, shape), dtype),
            "codes": ops.reshape(ops.where(valid, codes, 0), shape[:-1]),
            "losses": losses,
        }

    def _named_losses(self, rows, clean, chosen, valid):
        weight = ops.cast(valid, "float32") / ops.maximum(ops.sum(ops.cast(valid, "float32")), 1.0)

        def mean_square(a, b):
            difference = ops.where(valid[:, None], a - b, 0.0)
            return ops.sum(weight * ops.mean(ops.square(difference), axis=-1))

        losses = {"commitment": self.commitment_weight * mean_square(rows, ops.stop_gradient(chosen))}
        if self.codebook == "gradient":
            losses["codebook"] = mean_square(clean, chosen)
        return losses

    def _candidates(self, clean, valid):
        """One valid latent for each code, at random: row numbers are spread evenly, so few repeat."""
        order = ops.cumsum(ops.cast(valid, "float32"))  # 1..m at the m valid rows
        draw = keras.random.uniform((self.num_embeddings,), seed=self.seed_generator)
        rank = (ops.arange(self.num_embeddings, dtype="float32") + draw) / self.num_embeddings * order[-1]
        shuffled = ops.take(rank, ops.argsort(keras.random.uniform((self.num_embeddings,), seed=self.seed_generator)))
        rows = ops.searchsorted(order, ops.minimum(ops.floor(shuffled) + 1.0, order[-1]), side="left")
        return ops.take(clean, ops.clip(ops.cast(rows, "int32"), 0, ops.shape(clean)[0] - 1), axis=0)

    def _place(self, codebook, counts):
        """Sets codes and their counts, keeping e = M / N."""
        if self.codebook == "gradient":
            self.shift.assign(ops.stop_gradient(codebook - self.embeddings))
        else:
            self.embeddings.assign(codebook)
            self.shift.assign(codebook * counts[:, None])
        self.counts.assign(counts)

    def _initialize(self, clean, valid, candidates):
        if self.initialization == "uniform":
            return
        first = ops.logical_and(self.initialized < 0.5, ops.any(valid))

        def start():
            codebook = candidates
            for _ in range(K_MEANS_STEPS if self.initialization == "kmeans" else 0):
                counts, sums = code_statistics(clean, nearest_code(clean, codebook), valid, self.num_embeddings)
                means = sums / ops.maximum(counts, 1.0)[:, None]
                codebook = ops.where(counts[:, None] > 0, unit(means) if self.distance == "cosine" else means, codebook)
            return codebook

        codebook = ops.cond(first, start, lambda: self._raw())
        self._place(codebook, ops.where(first, 1.0, ops.convert_to_tensor(self.counts)))
        self.initialized.assign(ops.maximum(ops.cast(first, "float32"), self.initialized))

    def _raw(self):
        return self.embeddings + self.shift if self.codebook == "gradient" else self.embeddings + 0.0

    def _update(self, clean, codes, valid, candidates):
        """Equation (5), then revival of codes that the data has left."""
        counts, sums = code_statistics(clean, codes, valid, self.num_embeddings)
        decay = ops.where(ops.any(valid), self.decay, 1.0)  # a batch of padding or of NaN moves nothing
        counts = decay * self.counts + (1.0 - decay) * counts
        codebook = self._raw()
        if self.codebook == "ema":
            means = (decay * self.shift + (1.0 - decay) * sums) / ops.maximum(counts, EPSILON)[:, None]
            means = unit(means) if self.distance == "cosine" else means
            codebook = ops.where(counts[:, None] > EPSILON, means, codebook)
        if self.revival_threshold > 0.0:
            average = ops.mean(counts)
            dead = ops.logical_and(counts < self.revival_threshold * average, ops.any(valid))
            codebook = ops.where(dead[:, None], candidates, codebook)
            counts = ops.where(dead, self.revival_threshold * average, counts)
        self._place(codebook, counts)

    def compute_mask(self, z, mask=None):
        return {"quantized": mask, "codes": mask, "losses": dict.fromkeys(self.loss_names)}

    def compute_output_spec(self, z, mask=None, training=False):
        return {
            "quantized": keras.KerasTensor(z.shape, dtype=z.dtype),
            "codes": keras.KerasTensor(z.shape[:-1], dtype="int32"),
            "losses": {name: keras.KerasTensor((), dtype="float32") for name in self.loss_names},
        }
