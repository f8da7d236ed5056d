"""Vector quantization: latents to the nearest of K learned codes (van den Oord, Vinyals & Kavukcuoglu 2017).

With the code e of a latent z and sg the stop-gradient:

    (1)  code        argmin_k |z - e_k|^2
    (2)  output      e + (z - sg z)                       its value is exactly e, its gradient is z's
    (3)  commitment  beta |z - sg e|^2                                                        (paper, eq. 3)
    (4)  gradient codebook   |sg z - e|^2                                                     (paper, eq. 3)
    (5)  EMA codebook   N <- d N + (1 - d) n,  M <- d M + (1 - d) sum z,  e = M / N           (paper, appendix A.1)

The rotation trick (Fifty et al. 2024, arXiv:2410.06424, section 4) replaces the gradient of (2) by that of
lambda R z, with R the rotation that carries z to the direction of e and lambda = |e| / |z|, both held constant.
"""

import keras
from keras import ops

from keras_mmai.distribution import STATE, of_first_replica, sum_across_replicas
from keras_mmai.layers.quantizers.quantizer import Quantizer, mean_square, straight_through, unit
from keras_mmai.layers.quantizers.search import count_codes, draw_code, nearest_code, sum_by_code
from keras_mmai.serialization import register

EPSILON = 1e-5
K_MEANS_STEPS = 10
LARGEST_GAIN = 100.0


class CodebookQuantizer(Quantizer):
    """Base of the quantizers that search in a codebook, which `codes` gives."""

    def __init__(self, num_embeddings, embedding_dim, code_dim, distance, commitment_weight, **kwargs):
        if num_embeddings < 1:
            raise ValueError(f"`num_embeddings` must be positive. Received: num_embeddings={num_embeddings}")
        check_word("distance", distance, ("euclidean", "cosine"))
        super().__init__(embedding_dim, code_dim, **kwargs)
        self.num_embeddings = num_embeddings
        self.distance = distance
        self.commitment_weight = commitment_weight
        self._saved_shape = None

    @property
    def vocabulary(self):
        return self.num_embeddings

    @property
    def codes(self):
        """The codebook in use: float32 (num_embeddings, code_dim)."""
        raise NotImplementedError

    @property
    def started(self):
        """Scalar bool: whether the codebook has its first values."""
        return ops.ones((), dtype="bool")

    def compared(self, rows):
        return unit(rows) if self.distance == "cosine" else rows

    def lookup_rows(self, codes):
        return ops.take(self.codes, codes, axis=0)

    def sample_rows(self, rows, seed, temperature):
        return draw_code(self.compared(rows), self.codes, seed, temperature)

    def load_own_variables(self, store):
        # where that fails, Keras looks at a second place of the file, finds nothing, and would tell only of that
        self._saved_shape = tuple(store["0"].shape) if "0" in store else self._saved_shape
        here = (self.num_embeddings, self.code_dim)
        if self._saved_shape not in (None, here):
            raise ValueError(
                f"{self.name} has a codebook of shape {here}. Received: a file with one of {self._saved_shape}"
            )
        super().load_own_variables(store)

    def start(self, clean, valid):
        """Before a training step of the rows `clean` (n, code_dim), of which the valid ones count. What it returns is
        handed to `move`."""

    def move(self, clean, codes, valid, started_with):
        """After the step."""
        self.track_use(codes, valid)

    def pass_gradient(self, rows, chosen):
        return straight_through(rows, chosen)

    def encode_rows(self, rows, valid, leading_shape, training):
        rows = self.compared(rows)
        clean = ops.stop_gradient(rows)
        started_with = self.start(clean, valid) if training else None
        codebook = self.codes
        codes = nearest_code(clean, ops.stop_gradient(codebook))
        chosen = ops.take(codebook, codes, axis=0)
        losses = {"commitment": self.commitment_weight * mean_square(valid, rows, ops.stop_gradient(chosen))}
        if "codebook" in self.loss_names:
            losses["codebook"] = mean_square(valid, clean, chosen)
        if training:
            self.move(clean, codes, valid, started_with)
        return self.pass_gradient(rows, chosen), codes, losses


@register
class VectorQuantizer(CodebookQuantizer):
    """A codebook of `num_embeddings` vectors, learned by moving averages or by gradient.

    Call, outputs and masks: see `Quantizer`. Losses: "commitment", and "codebook" if it is learned by gradient.

    Args:
        num_embeddings: int k, number of codes.
        embedding_dim: int, width of the latents.
        codebook: "ema" (moving averages of the latents) or "gradient". Weight decay would pull the latter to zero: the
            models of this package leave it out, others by `optimizer.exclude_from_weight_decay([layer.embeddings])`.
        distance: "euclidean", or "cosine": latents and codes are compared, and given out, at unit length.
        initialization: "batch" (latents of the first training batch), "kmeans" (ten steps of k-means on them) or
            "uniform" (van den Oord's uniform in +-1/k: as is).
        commitment_weight: float, beta.
        decay: float, d of the moving averages.
        revival_threshold: float; a code used less than this fraction of the mean is moved to a random latent of the
            batch. 0 turns revival off.
        code_dim: int, width of the codes, to which the latents are projected; None is `embedding_dim`.
        gradient: "straight_through", or "rotation": the gradient of the latents is rotated and scaled as z is to e.
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
        code_dim=None,
        gradient="straight_through",
        seed=None,
        **kwargs,
    ):
        check_word("codebook", codebook, ("ema", "gradient"))
        check_word("initialization", initialization, ("batch", "kmeans", "uniform"))
        check_word("gradient", gradient, ("straight_through", "rotation"))
        if not 0.0 < decay < 1.0 or not 0.0 <= revival_threshold < 1.0:
            raise ValueError(
                "`decay` must lie in (0, 1) and `revival_threshold` in [0, 1). Received: "
                f"decay={decay}, revival_threshold={revival_threshold}"
            )
        super().__init__(
            num_embeddings, embedding_dim, code_dim or embedding_dim, distance, commitment_weight, **kwargs
        )
        self.codebook = codebook
        self.initialization = initialization
        self.decay = decay
        self.revival_threshold = revival_threshold
        self.gradient = gradient
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    @property
    def loss_names(self):
        return ("commitment", "codebook") if self.codebook == "gradient" else ("commitment",)

    def build_codes(self):
        shape = (self.num_embeddings, self.code_dim)
        limit = 1.0 / self.num_embeddings
        uniform = keras.initializers.RandomUniform(-limit, limit, seed=self.seed)

        def start(shape, dtype):  # the same values at each call, so that codes and sums begin equal
            values = uniform(shape, dtype)
            return unit(values) if self.distance == "cosine" else values

        learned = self.codebook == "gradient"
        self.embeddings = self.add_weight(
            shape=shape, initializer=start, name="embeddings", **{**STATE, "trainable": learned}
        )
        self.embeddings.decays = False  # weight decay would pull all codes to zero, also those without a latent
        self.add_use()
        # N of equation (5): as `uses`, but for codes that were revived. At first what one use in one batch leaves, and
        # no more: revival then begins with the training, before the latents have moved away from the first codes.
        self.first_count = 1.0 - self.decay
        once = keras.initializers.Constant(self.first_count)
        self.counts = self.add_weight(shape=(self.num_embeddings,), initializer=once, name="counts", **STATE)
        # EMA: the sums M of equation (5). Gradient: what moves a code without the optimizer, since a layer's call
        # may not assign to a trainable weight on JAX.
        name, scale = ("shift", 0.0) if learned else ("sums", self.first_count)
        self.shift = self.add_weight(
            shape=shape, initializer=lambda shape, dtype: scale * start(shape, dtype), name=name, **STATE
        )
        self.initialized = self.add_weight(
            shape=(), initializer="ones" if self.initialization == "uniform" else "zeros", name="initialized", **STATE
        )

    @property
    def codes(self):
        codebook = self._raw()
        return unit(codebook) if self.distance == "cosine" else codebook

    def _raw(self):
        codebook = ops.convert_to_tensor(self.embeddings)
        return codebook + self.shift if self.codebook == "gradient" else codebook

    @property
    def started(self):
        return ops.convert_to_tensor(self.initialized) > 0.5

    def pass_gradient(self, rows, chosen):
        return rotated(rows, chosen) if self.gradient == "rotation" else straight_through(rows, chosen)

    def _candidates(self, clean, valid):
        """One valid latent for each code, at random: row numbers are spread evenly, so few repeat."""
        n, k = ops.shape(clean)[0], self.num_embeddings
        place = ops.arange(n)
        valid_first = ops.argsort(ops.where(valid, place, place + n))
        num_valid = ops.sum(ops.cast(valid, "float32"))
        draw = keras.random.uniform((k,), seed=self.seed_generator)
        rank = (ops.arange(k, dtype="float32") + draw) / k * num_valid
        rank = ops.clip(ops.floor(rank), 0.0, ops.maximum(num_valid - 1.0, 0.0))
        shuffled = ops.take(rank, ops.argsort(keras.random.uniform((k,), seed=self.seed_generator)))
        return ops.take(clean, ops.take(valid_first, ops.cast(shuffled, "int32")), axis=0)

    def _place(self, codebook, counts):
        """Sets codes and their counts, keeping e = M / N."""
        if self.codebook == "gradient":
            self.shift.assign(ops.stop_gradient(codebook - self.embeddings))
        else:
            self.embeddings.assign(codebook)
            self.shift.assign(codebook * counts[:, None])
        self.counts.assign(counts)

    def start(self, clean, valid):
        """Draws a latent for each code, and gives the codebook its first values in the first batch with a valid row."""
        candidates = self._candidates(clean, valid)
        if self.initialization != "uniform":
            self._start_from(candidates, clean, valid)
        return candidates

    def _start_from(self, candidates, clean, valid):
        # where there are replicas, the first one's rows decide for all
        first = ops.logical_and(ops.logical_not(self.started), of_first_replica(ops.any(valid)))

        def from_batch():
            steps = K_MEANS_STEPS if self.initialization == "kmeans" else 0
            return ops.fori_loop(0, steps, k_means_step, candidates)

        def k_means_step(_, codebook):
            codes = nearest_code(clean, codebook)
            counts = count_codes(codes, valid, self.num_embeddings)[:, None]
            means = sum_by_code(clean, codes, valid, self.num_embeddings) / ops.maximum(counts, 1.0)
            return ops.where(counts > 0, unit(means) if self.distance == "cosine" else means, codebook)

        codebook = of_first_replica(ops.cond(first, from_batch, lambda: self._raw() + 0.0))
        self._place(codebook, ops.where(first, self.first_count, ops.convert_to_tensor(self.counts)))
        self.initialized.assign(ops.maximum(ops.cast(first, "float32"), self.initialized))

    def move(self, clean, codes, valid, candidates):
        """Equation (5), then revival of codes that the data has left."""
        counts = self.track_use(codes, valid)
        decay = ops.where(ops.sum(counts) > 0, self.decay, 1.0)  # a batch of padding or of NaN moves nothing
        counts = decay * self.counts + (1.0 - decay) * counts
        codebook = self._raw()
        if self.codebook == "ema":
            sums = sum_across_replicas(sum_by_code(clean, codes, valid, self.num_embeddings))
            means = (decay * self.shift + (1.0 - decay) * sums) / ops.maximum(counts, EPSILON)[:, None]
            means = unit(means) if self.distance == "cosine" else means
            codebook = ops.where(counts[:, None] > EPSILON, means, codebook)
        if self.revival_threshold > 0.0:
            average = ops.mean(counts)
            dead = ops.logical_and(counts < self.revival_threshold * average, of_first_replica(ops.any(valid)))
            codebook = ops.where(dead[:, None], of_first_replica(candidates), codebook)
            counts = ops.where(dead, self.revival_threshold * average, counts)
        self._place(codebook, counts)


def rotated(z, e):
    """The value of `e` (n, d), with the gradient of the rotation and scaling that carries `z` to it.

    Where they are opposite, or z is so short that its gradient would grow more than 100 times: straight-through.
    """
    z_length, e_length = (ops.sqrt(ops.sum(ops.square(ops.stop_gradient(x)), -1, keepdims=True)) for x in (z, e))
    from_direction = ops.stop_gradient(z) / ops.maximum(z_length, 1e-12)
    to_direction = ops.stop_gradient(e) / ops.maximum(e_length, 1e-12)
    between = from_direction + to_direction
    middle = unit(between)

    def along(direction):
        return ops.sum(z * direction, axis=-1, keepdims=True)

    turned = z - 2.0 * along(middle) * middle + 2.0 * along(from_direction) * to_direction
    defined = ops.logical_and(
        e_length < LARGEST_GAIN * z_length, ops.sum(ops.square(between), -1, keepdims=True) > 1e-6
    )
    defined = ops.logical_and(defined, e_length > 0)
    gain = ops.where(defined, e_length / ops.maximum(z_length, 1e-12), 1.0)
    return straight_through(ops.where(defined, gain * turned, z), e)


def check_word(name, value, allowed):
    if value not in allowed:
        raise ValueError(f"`{name}` must be one of {allowed}. Received: {value!r}")
