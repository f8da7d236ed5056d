"""The contract of every tokenizer: a signal to tokens and back."""

import keras
import numpy as np
from keras import ops

from keras_mmai.distribution import STATE, sum_across_replicas
from keras_mmai.noise import row_seeds
from keras_mmai.serialization import register
from keras_mmai.serving import Servable, codec_signatures, ensure_ids
from keras_mmai.training import TrainingModel, batch_size

MOMENTUM = 0.99


def check_sample_rate(name, expected, received):
    """That signals which come with a sample rate, Hz, have the tokenizer's."""
    if received not in (None, expected):
        advice = "Build it with its `sample_rate`." if expected is None else "Resample the signal."
        raise ValueError(f"{name} takes signals at sample_rate={expected}. Received: sample_rate={received}. {advice}")


@register
class Standardize(keras.layers.Layer):
    """Brings each channel to zero mean and unit variance by running statistics of what it saw in training.

    Call: x (b, ..., c) to the same shape, float32; `inverse` goes back. The running mean and variance move by
    max(1 - 0.99, 1 / n) of the difference at the n-th training batch; a value that is not finite is left out.
    """

    def build(self, input_shape):
        self.mean = self.add_weight(shape=input_shape[-1:], initializer="zeros", name="mean", **STATE)
        self.variance = self.add_weight(shape=input_shape[-1:], initializer="ones", name="variance", **STATE)
        self.num_updates = self.add_weight(shape=(), initializer="zeros", name="num_updates", **STATE)
        self.built = True

    def call(self, x, training=False):
        x = ops.cast(x, "float32")
        if training:
            self._update(ops.stop_gradient(x))
        return (x - self.mean) * ops.rsqrt(self.variance + 1e-12)

    def _update(self, x):
        rows = ops.reshape(x, (-1, x.shape[-1]))
        valid = ops.all(ops.isfinite(rows), axis=-1, keepdims=True)
        total = sum_across_replicas(ops.sum(ops.cast(valid, "float32")))

        def mean_of(values):
            return sum_across_replicas(ops.sum(ops.where(valid, values, 0.0), axis=0)) / ops.maximum(total, 1.0)

        mean = mean_of(rows)
        variance = mean_of(ops.square(rows - mean))
        rate = ops.where(total > 0, ops.maximum(1.0 - MOMENTUM, 1.0 / (1.0 + self.num_updates)), 0.0)
        difference = mean - self.mean
        # the variance of the mixture of what was seen and this batch
        mixed = (1.0 - rate) * self.variance + rate * variance + rate * (1.0 - rate) * ops.square(difference)
        self.variance.assign(mixed)
        self.mean.assign(self.mean + rate * difference)
        self.num_updates.assign_add(ops.cast(total > 0, "float32"))

    def inverse(self, x):
        return ops.cast(x, "float32") * ops.sqrt(self.variance + 1e-12) + self.mean

    def compute_output_shape(self, input_shape):
        return input_shape


class Tokenizer(Servable, TrainingModel):
    """Base of the tokenizers: a signal x (b, *input_shape) in [-1, 1] to tokens, and tokens to a signal.

    Tokens are "codes", int32 (b, *token_shape) in 0..vocabulary-1, or "latents", float32 (b, *latent_shape) of about
    zero mean and unit variance. `decode` tells them apart by their dtype.

    `call` returns a dict: "outputs" (the reconstruction), "latents", and whatever a subclass adds ("codes"): so
    `predict` encodes and reconstructs a whole data set, compiled, in batches.
    """

    vocabulary = None
    tokens = ("latents",)
    quantizer_losses = ()  # names of losses that quantizers add, and `call` returns

    def encode(self, x, tokens=None, seed=None, temperature=1.0):
        """Signal to tokens, of the first kind in `self.tokens` unless said otherwise.

        Without a seed they are the nearest codes, or the mean latents. With one they are drawn: codes as `sample` of
        the quantizer says, latents of a `VAE` from its posterior with the deviation times the temperature.

        Args:
            x: (b, *input_shape) float.
            tokens: "codes", "latents" or None.
            seed: int, or int32 (b, 2) with a seed for each row; None.
            temperature: float > 0.

        Raises:
            ValueError: on another shape than (b, *input_shape) or mixed shapes, integers, numpy values out of [-1, 1],
                a kind of tokens that this tokenizer does not have, a seed for tokens that are not drawn, or a
                temperature that is not positive.
        """
        x = batch_of(x)
        if isinstance(x, np.ndarray):
            self.check_values(x)
        kind = self.kind_of_tokens(tokens)
        x = self._check_signal(x)
        if temperature <= 0:
            raise ValueError(
                f"`temperature` must be positive: leave `seed` out for what is likeliest. Received: {temperature}"
            )
        if seed is not None:
            return self.draw_tokens(x, kind, row_seeds(seed, ops.shape(x)[0]), temperature)
        return self.encode_codes(x) if kind == "codes" else self.encode_latents(x)

    def predict(self, x, *args, **kwargs):
        self._check_first(x)
        return super().predict(x, *args, **kwargs)

    def kind_of_tokens(self, tokens):
        """`tokens`, or the first kind if it is None."""
        kind = tokens or self.tokens[0]
        if kind not in self.tokens:
            raise ValueError(f"{type(self).__name__} gives tokens of the kinds {self.tokens}. Received: {tokens!r}")
        return kind

    def shape_of(self, kind):
        """The shape of the tokens of one signal, of a kind."""
        return self.token_shape if kind == "codes" else self.latent_shape

    # Encoding is no training, wherever it is called: inside the step of a model that trains on the tokens, too. So a
    # subclass gives `training=False` to its layers, and encodes to latents without a layer that adds losses.

    def encode_codes(self, x):
        raise NotImplementedError

    def encode_latents(self, x):
        """The standardised latents of a signal."""
        raise NotImplementedError

    def draw_tokens(self, x, kind, seed, temperature):
        """Tokens of a kind by chance, if there are any, with seeds int32 (b, 2)."""
        raise ValueError(f"The {kind} of {type(self).__name__} are not drawn: leave `seed` out.")

    def decode(self, tokens):
        """Tokens of either kind to a signal (b, *input_shape), float32 in [-1, 1].

        Raises:
            ValueError: on another shape than that of the tokens, or numpy codes out of 0..vocabulary-1.
        """
        tokens = tokens if ops.is_tensor(tokens) else np.asarray(tokens)
        discrete = "int" in keras.backend.standardize_dtype(tokens.dtype)
        expected = self.shape_of("codes" if discrete else "latents")
        if discrete and self.vocabulary is None:
            raise ValueError(f"{type(self).__name__} has no codes: decode takes float latents (b, *{expected}).")
        if tuple(tokens.shape[1:]) != expected:
            raise ValueError(
                f"decode takes {'int codes' if discrete else 'float latents'} of shape "
                f"{('b', *expected)}. Received: {tuple(tokens.shape)}"
            )
        if discrete and isinstance(tokens, np.ndarray):
            self.check_codes(tokens)
        tokens = ops.convert_to_tensor(tokens)
        return ops.clip(self.decode_codes(tokens) if discrete else self.decode_latents(tokens), -1.0, 1.0)

    def decode_latents(self, latents):
        raise NotImplementedError

    def reconstruct(self, x):
        """decode(encode(x)): (b, *input_shape) float32 in [-1, 1]."""
        return self.decode(self.encode(x))

    def _check_signal(self, x):
        x = ops.convert_to_tensor(x)
        dtype = keras.backend.standardize_dtype(x.dtype)
        if tuple(x.shape[1:]) != self.input_shape or "float" not in dtype:
            raise ValueError(
                f"{type(self).__name__} takes signals of shape {('b', *self.input_shape)}, channels "
                f"last, float in [-1, 1]. Received: {tuple(x.shape)} {dtype}"
            )
        return ops.cast(x, "float32")

    def check_values(self, x):
        check_signal_values(signal_of(x), f"Signals of {type(self).__name__}")

    @property
    def code_limits(self):
        """The least code, and one more than the largest of each place of the last axes of the codes: (int, array)."""
        return 0, self.vocabulary

    def check_codes(self, codes):
        """Codes of any number of tokens, numpy.

        Raises:
            ValueError: on codes out of range.
        """
        low, limits = self.code_limits
        wrong = (codes < low) | (codes >= limits)
        if wrong.any():
            first = tuple(int(i) for i in np.argwhere(wrong)[0])
            limit = np.broadcast_to(limits, codes.shape)[first]
            raise ValueError(
                f"{type(self).__name__} has codes in {low}..{limit - 1} there. Received: {codes[first]} at index "
                f"{first}"
            )

    def named_losses(self, x, y_pred):
        error = ops.square(y_pred["outputs"] - ops.cast(signal_of(x), "float32"))
        return {"reconstruction": ops.mean(error, axis=tuple(range(1, len(error.shape)))) / self.data_variance}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        total = super().compute_loss(x, y, y_pred, sample_weight, training)
        for name in self.quantizer_losses:  # already in the total, by `add_loss`
            self.track(name, y_pred[name][0], batch_size(x))
        return total

    def serving_signatures(self):
        """{name: (function, {argument: (shape, dtype)})} of the SavedModel that `export` writes."""
        x = (self.input_shape, "float32")
        if self.vocabulary is None:
            return codec_signatures(self.encode, self.decode, x, (self.latent_shape, "float32"))
        low, limits = self.code_limits

        def decode(codes):
            return self.decode(ensure_ids(codes, limits, low))

        return codec_signatures(self.encode, decode, x, (self.token_shape, "int32"))


def signal_of(x):
    """The signal of a batch that is an array, or a dict with the array under "x"."""
    return x["x"] if isinstance(x, dict) else x


def batch_of(x):
    """`x` itself if it is a tensor, else as a numpy array."""
    if ops.is_tensor(x):
        return x
    try:
        return np.asarray(x)
    except ValueError:
        shapes = ", ".join(map(str, sorted({np.shape(row) for row in x})))
        raise ValueError(f"The signals of a batch have one shape: pad or crop them. Received: {shapes}") from None


def by_rows(losses, outputs):
    """Scalar losses repeated for each row of `outputs`, since `predict` joins what a call returns by rows."""
    ones = ops.ones_like(outputs[(slice(None), *[0] * (len(outputs.shape) - 1))])
    return {name: loss * ones for name, loss in losses.items()}


def check_signal_values(x, name):
    """Raises ValueError if the numpy signals `x` (b, ...) are integers, hold NaN, or reach out of [-1, 1]."""
    if x.dtype == object:
        raise ValueError(f"{name} have one shape: pad or crop them. Received: an array of objects.")
    if x.dtype.kind != "f":
        raise ValueError(f"{name} are float in [-1, 1]. Received: {x.dtype}. For 8-bit images: x / 127.5 - 1.")
    low, high = float(np.min(x, initial=0.0)), float(np.max(x, initial=0.0))
    if np.isnan(low):
        examples = np.isnan(x).reshape(len(x), -1).any(axis=1)
        raise ValueError(
            f"{name} must be finite. Received: NaN in {examples.sum()} of {len(x)} examples, the first at index "
            f"{examples.argmax()}. Leave them out."
        )
    if low < -1.001 or high > 1.001:
        raise ValueError(f"{name} must lie in [-1, 1]. Received: values from {low:g} to {high:g}.")
