"""VQ-VAE: van den Oord, Vinyals & Kavukcuoglu, Neural Discrete Representation Learning, 2017, arXiv:1711.00937."""

import math

import numpy as np
from keras import ops

from keras_mmai.layers.quantizers import VectorQuantizer
from keras_mmai.serialization import register
from keras_mmai.tokenizers.convolutional import ConvTokenizer
from keras_mmai.tokenizers.tokenizer import by_rows, signal_of
from keras_mmai.tokenizers.usage import CodesInUse, Perplexity


@register
class VQVAE(ConvTokenizer):
    """Convolutional VQ-VAE for signals of any rank, which `input_shape` decides: audio, image or video.

    Trained with `fit` on x (b, *input_shape) in [-1, 1] (or {"x": x}). Named losses: reconstruction (mean squared
    error over `data_variance`), those of the quantizer (commitment, codebook, entropy) and of `perceptual_loss`;
    perplexity and codes in use are shown beside them. Its tokens are "codes", int32 (b, *grid, *code_shape of the
    quantizer), or "latents": the standardised latents before quantization, which `decode` snaps to codes.

    Args:
        input_shape: tuple (*s, c) of one signal, channels last.
        filters: ints, the encoder's widths, one for each strided convolution. (64, 128), with the defaults of the
            other sizes, are those of DeepMind's published example.
        num_residual_layers, residual_filters: ints, of the residual stacks.
        quantizer: a quantizer layer; None is `VectorQuantizer(512, 64, code_dim=8)`. `VectorQuantizer(512, 64)` makes
            DeepMind's example.
        data_variance: float by which the squared error is divided.
        ema_decays: see `TrainingModel`.
        strides: int, or an entry for each of `filters`: an int, or one for each axis, as (1, 2, 2) for video.
        causal: bool: along the first axis, time, nothing depends on what comes later. `input_shape` may then have one
            frame more than a multiple of the stride: the first frame is a token by itself.
        encoder, decoder: layers to take in place of those that the sizes describe, as `SEANetEncoder`; None.
        perceptual_loss: an object that gives more losses, as `SpectralLoss`; None.
        sample_rate: Hz of audio, or frames per second of video; None if that is of no concern.

    Raises:
        ValueError: on a shape that the strides do not divide, an encoder or decoder that does not fit, or a loss at
            another sample rate.
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
        strides=2,
        causal=False,
        encoder=None,
        decoder=None,
        perceptual_loss=None,
        sample_rate=None,
        **kwargs,
    ):
        if quantizer is None:
            quantizer = VectorQuantizer(512, 64, code_dim=8, name="quantizer")
        super().__init__(
            quantizer.loss_names,
            input_shape,
            quantizer.embedding_dim,
            quantizer.embedding_dim,
            filters=filters,
            strides=strides,
            num_residual_layers=num_residual_layers,
            residual_filters=residual_filters,
            causal=causal,
            encoder=encoder,
            decoder=decoder,
            data_variance=data_variance,
            perceptual_loss=perceptual_loss,
            sample_rate=sample_rate,
            ema_decays=ema_decays,
            **kwargs,
        )
        self.quantizer = quantizer
        self.quantizer_losses = quantizer.loss_names
        self.vocabulary = quantizer.vocabulary
        self.token_shape = (*self.grid, *quantizer.code_shape)
        self.perplexity = Perplexity(self.vocabulary, quantizer.code_shape)
        self.codes_in_use = CodesInUse(self.vocabulary, quantizer.code_shape)
        self.build()

    def build(self, input_shape=None):
        if not self.built and not self.quantizer.built:
            self.quantizer.build((None, *self.latent_shape))
        super().build()

    @property
    def bits(self):
        """Bits that the codes of one signal take."""
        return self.quantizer.bits * math.prod(self.grid)

    @property
    def bits_per_second(self):
        """Bits that the codes of one second take.

        Raises:
            ValueError: if `sample_rate` is not known.
        """
        if self.sample_rate is None:
            raise ValueError("Give the tokenizer its `sample_rate` (Hz, or frames per second): it is not known.")
        return self.bits * self.sample_rate / self.input_shape[0]

    @property
    def code_limits(self):
        return self.quantizer.lowest_code, np.reshape(self.quantizer.vocabularies, self.quantizer.code_shape)

    def call(self, x, training=False):
        z = self.encoded(self._check_signal(signal_of(x)))
        latents = self.standardize(z, training=training)
        quantized = self.quantizer(z, training=training)
        outputs = self.decoded(quantized["quantized"])
        losses = by_rows(quantized["losses"], outputs)
        return {"outputs": outputs, "codes": quantized["codes"], "latents": latents, **losses}

    def to_tokens(self, z, kind):
        return self.quantizer.encode(z)["codes"] if kind == "codes" else self.standardize(z, training=False)

    def draw_tokens(self, x, kind, seed, temperature):
        if kind == "codes":
            return self.quantizer.sample(self.encoded(x), seed, temperature)
        return super().draw_tokens(x, kind, seed, temperature)

    def from_tokens(self, tokens, kind):
        """Standardised latents are snapped to their nearest codes."""
        if kind == "codes":
            return self.quantizer.lookup(tokens)
        return self.quantizer.encode(self.standardize.inverse(tokens))["quantized"]

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        total = super().compute_loss(x, y, y_pred, sample_weight, training)
        finite = ops.all(ops.isfinite(y_pred["latents"]), axis=-1)  # what is not has code 0, and is no use of it
        self.perplexity.update_state(y_pred["codes"], finite)
        self.codes_in_use.update_state(y_pred["codes"], finite)
        return total
