"""VAE with a weighted Kullback-Leibler term: Kingma & Welling 2014; Higgins et al. 2017 (beta-VAE)."""

import keras
from keras import ops

from keras_mmai.distribution import STATE, sum_across_replicas
from keras_mmai.noise import normal
from keras_mmai.serialization import register
from keras_mmai.tokenizers.convolutional import ConvTokenizer


@register
class VAE(ConvTokenizer):
    """Convolutional VAE for signals of any rank, which `input_shape` decides: audio, image or video.

    Trained with `fit` on x (b, *input_shape) in [-1, 1], or on {"x": x, "noise": eps}, eps (b, *latent_shape), when
    the noise of the reparametrisation is to be given. Named losses: reconstruction (mean squared error over
    `data_variance`), kl (nats for each latent, times its weight) and those of `perceptual_loss`. Its tokens are
    "latents": the standardised means.

    Args:
        input_shape: tuple (*s, c) of one signal, channels last.
        filters: ints, the encoder's widths, one for each strided convolution.
        latent_dim: int, channels of the latents.
        num_residual_layers, residual_filters: ints, of the residual stacks.
        kl_weight: float, beta.
        kl_warmup: int; the weight of the KL term rises in proportion over this many training steps, against latents
            that carry nothing (Bowman et al. 2016, section 3.1).
        seed: int or None.
        data_variance, ema_decays, strides, causal, encoder, decoder, perceptual_loss, sample_rate: see `VQVAE`. An
            encoder gives 2 latent_dim channels.

    Raises:
        ValueError: as `VQVAE`.
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
        kl_warmup=0,
        strides=2,
        causal=False,
        encoder=None,
        decoder=None,
        perceptual_loss=None,
        sample_rate=None,
        **kwargs,
    ):
        super().__init__(
            ("kl",),
            input_shape,
            2 * latent_dim,
            latent_dim,
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
        self.latent_dim = latent_dim
        self.kl_weight = kl_weight
        self.kl_warmup = kl_warmup
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.token_shape = self.grid
        self.build()

    def build(self, input_shape=None):
        if not self.built:
            self.num_steps = self.add_weight(shape=(), initializer="zeros", name="num_steps", **STATE)
        super().build()

    def moments(self, x):
        """Mean and log variance of the posterior, each (b, *latent_shape) float32."""
        return self.split(self.encoded(x))

    def split(self, z):
        """What the encoder gives, to mean and log variance."""
        mean, log_variance = ops.split(z, 2, axis=-1)
        return mean, ops.clip(log_variance, -30.0, 20.0)

    def call(self, x, training=False):
        inputs = x if isinstance(x, dict) else {"x": x}
        mean, log_variance = self.moments(self._check_signal(inputs["x"]))
        z = mean
        if "noise" in inputs:
            z = mean + ops.exp(0.5 * log_variance) * ops.cast(inputs["noise"], "float32")
        elif training:
            z = mean + ops.exp(0.5 * log_variance) * keras.random.normal(ops.shape(mean), seed=self.seed_generator)
        if training:
            broken = sum_across_replicas(ops.sum(ops.cast(ops.logical_not(ops.isfinite(mean)), "float32")))
            self.num_steps.assign_add(ops.cast(broken == 0, "float32"))  # what is not finite is no step
        return {
            "outputs": self.decoded(z),
            "latents": self.standardize(mean, training=training),
            "kl": 0.5 * (ops.square(mean) + ops.exp(log_variance) - 1.0 - log_variance),
        }

    def named_losses(self, x, y_pred):
        kl = ops.mean(y_pred["kl"], axis=tuple(range(1, len(y_pred["kl"].shape))))
        warm = ops.minimum(1.0, self.num_steps / self.kl_warmup) if self.kl_warmup else 1.0
        return {**super().named_losses(x, y_pred), "kl": self.kl_weight * warm * kl}

    def to_tokens(self, z, kind):
        return self.standardize(self.split(z)[0], training=False)

    def draw_tokens(self, x, kind, seed, temperature):
        mean, log_variance = self.moments(x)
        noise = normal(seed, self.latent_shape)
        return self.standardize(mean + temperature * ops.exp(0.5 * log_variance) * noise, training=False)

    def from_tokens(self, tokens, kind):
        return self.standardize.inverse(tokens)
