"""VAE with a weighted Kullback-Leibler term: Kingma & Welling 2014; Higgins et al. 2017 (beta-VAE)."""

import keras
from keras import ops

from keras_mmai.layers.convolution import ConvDecoder, ConvEncoder
from keras_mmai.serialization import register
from keras_mmai.tokenizers.tokenizer import Standardize, Tokenizer
from keras_mmai.tokenizers.vqvae import token_grid


@register
class VAE(Tokenizer):
    """Convolutional VAE for signals of any rank, which `input_shape` decides.

    Trained with `fit` on x (b, *input_shape) in [-1, 1], or on {"x": x, "noise": eps}, eps (b, *latent_shape), when
    the noise of the reparametrisation is to be given. Named losses: reconstruction (mean squared error over
    `data_variance`) and kl (nats for each latent, times `kl_weight`). Its tokens are "latents": the standardised
    means.

    Args:
        input_shape: tuple (*s, c) of one signal, channels last.
        filters: ints, the encoder's widths, one halving of every axis each.
        latent_dim: int, channels of the latents.
        num_residual_layers, residual_filters: ints, of the residual stacks.
        kl_weight: float, beta.
        data_variance: float by which the reconstruction error is divided.
        ema_decays: see `TrainingModel`.
        seed: int or None.

    Raises:
        ValueError: on a shape that is not a multiple of 2 ** len(filters).
    """

    def __init__(
        self,
        input_shape,
        filters=(64, 128),
        latent_dim=4,
        num_residual_layers=2,
        residual_filters=32,
        kl_weight=1e-3,
        data_variance=1.0,
        ema_decays=(),
        seed=None,
        **kwargs,
    ):
        super().__init__(("reconstruction", "kl"), ema_decays, **kwargs)
        self.input_shape = tuple(input_shape)
        self.filters = tuple(filters)
        self.latent_dim = latent_dim
        self.num_residual_layers = num_residual_layers
        self.residual_filters = residual_filters
        self.kl_weight = kl_weight
        self.data_variance = data_variance
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.token_shape = token_grid(self.input_shape, self.filters)
        self.latent_shape = (*self.token_shape, latent_dim)
        sizes = dict(
            num_residual_layers=num_residual_layers, residual_filters=residual_filters, dtype=self.dtype_policy
        )
        self.encoder = ConvEncoder(self.filters, 2 * latent_dim, name="encoder", **sizes)
        self.decoder = ConvDecoder(self.filters, self.input_shape[-1], name="decoder", **sizes)
        self.standardize = Standardize(name="standardize", dtype="float32")
        self.build()

    def build(self, input_shape=None):
        if self.built:
            return
        self.encoder.build((None, *self.input_shape))
        for layer in (self.standardize, self.decoder):
            layer.build((None, *self.latent_shape))
        self.build_averages()
        self.built = True

    def moments(self, x):
        """Mean and log variance of the posterior, each (b, *latent_shape) float32."""
        mean, log_variance = ops.split(ops.cast(self.encoder(x), "float32"), 2, axis=-1)
        return mean, ops.clip(log_variance, -30.0, 20.0)

    def call(self, x, training=False):
        inputs = x if isinstance(x, dict) else {"x": x}
        mean, log_variance = self.moments(self._check_signal(inputs["x"]))
        z = mean
        if "noise" in inputs:
            z = mean + ops.exp(0.5 * log_variance) * ops.cast(inputs["noise"], "float32")
        elif training:
            z = mean + ops.exp(0.5 * log_variance) * keras.random.normal(ops.shape(mean), seed=self.seed_generator)
        return {
            "outputs": ops.cast(self.decoder(z), "float32"),
            "latents": self.standardize(mean, training=training),
            "kl": 0.5 * (ops.square(mean) + ops.exp(log_variance) - 1.0 - log_variance),
        }

    def named_losses(self, x, y_pred):
        kl = ops.mean(y_pred["kl"], axis=tuple(range(1, len(y_pred["kl"].shape))))
        return {**super().named_losses(x, y_pred), "kl": self.kl_weight * kl}

    def encode_latents(self, x):
        return self.standardize(self.moments(x)[0], training=False)

    def decode_latents(self, latents):
        return ops.cast(self.decoder(self.standardize.inverse(latents)), "float32")
