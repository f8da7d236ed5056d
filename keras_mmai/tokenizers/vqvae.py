"""VQ-VAE: van den Oord, Vinyals & Kavukcuoglu, Neural Discrete Representation Learning, 2017, arXiv:1711.00937."""

from keras import ops

from keras_mmai.layers.convolution import ConvDecoder, ConvEncoder
from keras_mmai.layers.quantizers import VectorQuantizer
from keras_mmai.serialization import register
from keras_mmai.tokenizers.tokenizer import Standardize, Tokenizer, signal_of
from keras_mmai.tokenizers.usage import CodesInUse, Perplexity
from keras_mmai.training import batch_size


def token_grid(input_shape, filters):
    """Axes of the latents after one halving for each entry of `filters`."""
    if len(input_shape) not in (2, 3, 4) or not all(isinstance(s, int) and s > 0 for s in input_shape):
        raise ValueError(
            "`input_shape` is (samples, channels), (height, width, channels) or (frames, height, width, "
            f"channels), all known. Received: {input_shape}"
        )
    factor = 2 ** len(filters)
    if any(s % factor for s in input_shape[:-1]):
        raise ValueError(
            f"Every axis of `input_shape` must be a multiple of {factor} (one halving for each of "
            f"filters={filters}). Received: {input_shape}. Pad or crop the signal."
        )
    return tuple(s // factor for s in input_shape[:-1])


@register
class VQVAE(Tokenizer):
    """Convolutional VQ-VAE for signals of any rank, which `input_shape` decides.

    Trained with `fit` on x (b, *input_shape) in [-1, 1] (or {"x": x}). Named losses: reconstruction (mean squared
    error over `data_variance`), commitment, and codebook if it is learned by gradient; perplexity and codes in use
    are shown beside them. Its tokens are "codes" or "latents": the standardised latents before quantization, which
    `decode` snaps to codes.

    Args:
        input_shape: tuple (*s, c) of one signal, channels last.
        filters: ints, the encoder's widths, one halving of every axis each. (64, 128), with the defaults of the
            other sizes, is DeepMind's published example.
        num_residual_layers, residual_filters: ints, of the residual stacks.
        quantizer: a quantizer layer; None is `VectorQuantizer(512, 64)`.
        data_variance: float by which the reconstruction error is divided.
        ema_decays: see `TrainingModel`.

    Raises:
        ValueError: on a shape that is not a multiple of 2 ** len(filters).
    """

    tokens = ("codes", "latents")

    def __init__(
        self,
        input_shape,
        filters=(64, 128),
        num_residual_layers=2,
        residual_filters=32,
        quantizer=None,
        data_variance=1.0,
        ema_decays=(),
        **kwargs,
    ):
        input_shape, filters = tuple(input_shape), tuple(filters)
        if quantizer is None:
            quantizer = VectorQuantizer(512, 64, name="quantizer")
        super().__init__(("reconstruction", *quantizer.loss_names), ema_decays, **kwargs)
        self.input_shape = input_shape
        self.filters = filters
        self.num_residual_layers = num_residual_layers
        self.residual_filters = residual_filters
        self.quantizer = quantizer
        self.data_variance = data_variance
        self.vocabulary = quantizer.vocabulary
        grid = token_grid(input_shape, filters)
        self.token_shape = (*grid, *quantizer.code_shape)
        self.latent_shape = (*grid, quantizer.embedding_dim)
        sizes = dict(
            num_residual_layers=num_residual_layers, residual_filters=residual_filters, dtype=self.dtype_policy
        )
        self.encoder = ConvEncoder(filters, quantizer.embedding_dim, name="encoder", **sizes)
        self.decoder = ConvDecoder(filters, input_shape[-1], name="decoder", **sizes)
        self.standardize = Standardize(name="standardize", dtype="float32")
        self.perplexity = Perplexity(self.vocabulary, quantizer.code_shape)
        self.codes_in_use = CodesInUse(self.vocabulary, quantizer.code_shape)
        self.build()

    def build(self, input_shape=None):
        if self.built:
            return
        self.encoder.build((None, *self.input_shape))
        if not self.quantizer.built:  # one that was loaded, or used before, is
            self.quantizer.build((None, *self.latent_shape))
        for layer in (self.standardize, self.decoder):
            layer.build((None, *self.latent_shape))
        self.build_averages()
        self.built = True

    def call(self, x, training=False):
        x = self._check_signal(signal_of(x))
        z = ops.cast(self.encoder(x), "float32")
        latents = self.standardize(z, training=training)
        quantized = self.quantizer(z, training=training)
        outputs = ops.cast(self.decoder(quantized["quantized"]), "float32")
        ones = ops.ones_like(outputs[(slice(None), *[0] * len(self.input_shape))])  # `predict` joins outputs by rows
        losses = {name: loss * ones for name, loss in quantized["losses"].items()}
        return {"outputs": outputs, "codes": quantized["codes"], "latents": latents, **losses}

    def encode_codes(self, x):
        return self.quantizer(ops.cast(self.encoder(x), "float32"), training=False)["codes"]

    def encode_latents(self, x):
        return self.standardize(self.encoder(x), training=False)

    def decode_codes(self, codes):
        return ops.cast(self.decoder(self.quantizer.lookup(codes)), "float32")

    def decode_latents(self, latents):
        """Snaps standardised latents to their nearest codes, then decodes."""
        z = self.standardize.inverse(latents)
        return ops.cast(self.decoder(self.quantizer(z, training=False)["quantized"]), "float32")

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        total = super().compute_loss(x, y, y_pred, sample_weight, training)
        for name in self.quantizer.loss_names:  # already in the total, by `add_loss`
            self.track(name, y_pred[name][0], batch_size(x))
        finite = ops.all(ops.isfinite(y_pred["latents"]), axis=-1)  # what is not has code 0, and is no use of it
        self.perplexity.update_state(y_pred["codes"], finite)
        self.codes_in_use.update_state(y_pred["codes"], finite)
        return total
