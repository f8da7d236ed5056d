"""What the convolutional tokenizers share: encoder and decoder, shapes, time and losses."""

from keras import ops

from keras_mmai.layers.coders import ConvDecoder, ConvEncoder
from keras_mmai.tokenizers.tokenizer import Standardize, Tokenizer, check_sample_rate, signal_of


class ConvTokenizer(Tokenizer):
    """Base: a signal (b, *input_shape) through an encoder, a bottleneck that the subclass gives, and a decoder.

    A causal tokenizer whose `input_shape` has one frame more than a multiple of the stride in time takes the first
    frame by itself: it is repeated until it fills a token. So one frame alone is an image, and 1 + n strides are video.

    Args:
        loss_names: of the bottleneck.
        input_shape: tuple (*s, c) of one signal, channels last.
        encoder_dim, latent_dim: channels that leave the encoder, and that enter the decoder.
        filters, strides, num_residual_layers, residual_filters, causal: of the `ConvEncoder` and `ConvDecoder`.
        encoder, decoder: layers to take instead; None are these. They have `factors`, `causal` and `output_dim`, as
            `SEANetEncoder` and `SEANetDecoder` have.
        data_variance: float by which the squared error is divided.
        perceptual_loss: an object with `names`, which gives of signal and reconstruction, (b, *input_shape) float32
            each, a loss (b,) by each name, as `SpectralLoss` does; None. If it has a `sample_rate`, so has the signal.
        sample_rate: Hz of an audio signal, or frames in a second of a video; None if that is of no concern.
        ema_decays: see `TrainingModel`.

    Raises:
        ValueError: on a shape that the strides do not divide, an encoder or decoder that does not fit, or a loss at
            another sample rate.
    """

    def __init__(
        self,
        loss_names,
        input_shape,
        encoder_dim,
        latent_dim,
        *,
        filters,
        strides,
        num_residual_layers,
        residual_filters,
        causal,
        encoder,
        decoder,
        data_variance,
        perceptual_loss,
        sample_rate,
        ema_decays,
        **kwargs,
    ):
        extra = () if perceptual_loss is None else tuple(perceptual_loss.names)
        super().__init__(("reconstruction", *extra, *loss_names), ema_decays, **kwargs)
        rate = getattr(perceptual_loss, "sample_rate", None)
        if rate not in (None, sample_rate):
            raise ValueError(
                f"`perceptual_loss` is for signals at {rate} Hz: give the tokenizer the same `sample_rate`. "
                f"Received: sample_rate={sample_rate}"
            )
        self.input_shape = tuple(input_shape)
        self.filters = tuple(filters)
        self.strides = strides
        self.num_residual_layers = num_residual_layers
        self.residual_filters = residual_filters
        self.causal = causal
        self.data_variance = data_variance
        self.perceptual_loss = perceptual_loss
        self.sample_rate = sample_rate
        sizes = dict(
            num_residual_layers=num_residual_layers,
            residual_filters=residual_filters,
            strides=strides,
            causal=causal,
            dtype=self.dtype_policy,
        )
        channels = self.input_shape[-1]
        self.encoder = encoder or ConvEncoder(self.filters, encoder_dim, name="encoder", **sizes)
        self.decoder = decoder or ConvDecoder(self.filters, channels, name="decoder", **sizes)
        for name, layer, dim in (("encoder", self.encoder, encoder_dim), ("decoder", self.decoder, channels)):
            if layer.output_dim != dim or layer.causal != causal:
                raise ValueError(
                    f"`{name}` must have output_dim={dim} and causal={causal}, as the tokenizer. Received: "
                    f"output_dim={layer.output_dim}, causal={layer.causal}"
                )
        factors = check_shape(self.input_shape, self.encoder, causal)
        if self.decoder.factors(len(factors)) != factors:
            raise ValueError(
                f"`decoder` must undo the strides of `encoder`, {factors}. Received: "
                f"{self.decoder.factors(len(factors))}"
            )
        # frames that are put before the first, so that it fills a token
        self.lead = factors[0] - 1 if factors[0] > 1 and self.input_shape[0] % factors[0] == 1 else 0
        first = (self.input_shape[0] + self.lead) // factors[0]
        self.grid = (first, *[s // f for s, f in zip(self.input_shape[1:-1], factors[1:])])
        self.latent_shape = (*self.grid, latent_dim)
        self.standardize = Standardize(name="standardize", dtype="float32")

    def build(self, input_shape=None):
        if self.built:
            return
        for layer, shape in (
            (self.encoder, self.input_shape),
            (self.standardize, self.latent_shape),
            (self.decoder, self.latent_shape),
        ):
            if not layer.built:  # one that was loaded, or used before, is
                layer.build((None, *shape))
        self.build_averages()
        self.built = True

    def encode(self, x, tokens=None, seed=None, temperature=1.0, sample_rate=None):
        """Signal to tokens: see `Tokenizer`. A `sample_rate` other than the tokenizer's is an error."""
        check_sample_rate(self.name, self.sample_rate, sample_rate)
        return super().encode(x, tokens, seed, temperature)

    def encoded(self, x, lead=True):
        """What the encoder makes of a signal of any length, float32; `lead`: whether it begins with the first frame."""
        if lead and self.lead:
            x = ops.concatenate([ops.repeat(x[:, :1], self.lead, axis=1), x], axis=1)
        return ops.cast(self.encoder(x), "float32")

    def decoded(self, latents, lead=True):
        """What the decoder makes of latents, float32."""
        outputs = ops.cast(self.decoder(latents), "float32")
        return outputs[:, self.lead :] if lead else outputs

    def to_tokens(self, z, kind):
        """What the encoder gives, float32, to tokens of a kind. As in all of encoding, nothing learns here."""
        raise NotImplementedError

    def from_tokens(self, tokens, kind):
        """Tokens of a kind to what the decoder takes."""
        raise NotImplementedError

    def encode_codes(self, x):
        return self.to_tokens(self.encoded(x), "codes")

    def encode_latents(self, x):
        return self.to_tokens(self.encoded(x), "latents")

    def decode_codes(self, codes):
        return self.decoded(self.from_tokens(codes, "codes"))

    def decode_latents(self, latents):
        return self.decoded(self.from_tokens(latents, "latents"))

    def named_losses(self, x, y_pred):
        losses = super().named_losses(x, y_pred)
        if self.perceptual_loss is not None:
            losses |= self.perceptual_loss(ops.cast(signal_of(x), "float32"), y_pred["outputs"])
        return losses


def check_shape(input_shape, encoder, causal):
    """The factors by which `encoder` divides the axes of a signal, if it can.

    Raises:
        ValueError: if it can't.
    """
    if len(input_shape) not in (2, 3, 4) or not all(isinstance(s, int) and s > 0 for s in input_shape):
        raise ValueError(
            "`input_shape` is (samples, channels), (height, width, channels) or (frames, height, width, "
            f"channels), all known. Received: {input_shape}"
        )
    factors = encoder.factors(len(input_shape) - 1)
    rests = [s % f for s, f in zip(input_shape[:-1], factors)]
    if causal and rests[0] == 1:
        rests[0] = 0
    if any(rests):
        axes = factors[0] if len(set(factors)) == 1 else factors
        raise ValueError(
            f"Every axis of `input_shape` must be a multiple of {axes}, the product of the strides"
            f"{' (or one more in time)' if causal else ''}. Received: {input_shape}. Pad or crop the signal."
        )
    return factors
