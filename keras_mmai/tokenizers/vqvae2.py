"""VQ-VAE-2: Razavi, van den Oord & Vinyals, Generating Diverse High-Fidelity Images with VQ-VAE-2, 2019,
arXiv:1906.00446, with two levels of latents (their figure 2a).
"""

import math

import numpy as np
from keras import ops

from keras_mmai.layers.coders import Chain
from keras_mmai.layers.convolution import ResidualStack, convolution
from keras_mmai.layers.quantizers import VectorQuantizer
from keras_mmai.noise import split
from keras_mmai.serialization import register
from keras_mmai.tokenizers.convolutional import check_shape
from keras_mmai.tokenizers.tokenizer import Standardize, Tokenizer, by_rows, signal_of
from keras_mmai.tokenizers.usage import CodesInUse, Perplexity


class Sequence(Chain):
    """A chain of the layers that a function of the rank gives."""

    def __init__(self, layers_of, **kwargs):
        super().__init__(**kwargs)
        self.chain = layers_of


@register
class VQVAE2(Tokenizer):
    """A VQ-VAE with two levels: the top one of an eighth of every axis, the bottom one, which sees it, of a quarter.

    Trained as `VQVAE` on x (b, *input_shape) in [-1, 1]. Its tokens are "codes", int32 (b, n), or "latents", float32
    (b, n, embedding_dim): those of the top level first, then those of the bottom, each flattened. With the defaults it
    has 1,388,867 parameters for RGB images.

    Args:
        input_shape: tuple (*s, c) of one signal, channels last; every axis a multiple of 8.
        filters: int, width of the convolutions.
        num_residual_layers, residual_filters: ints, of the residual stacks.
        top, bottom: quantizers of one width, with one code for each latent; None is `VectorQuantizer(512, 64)`.
        data_variance: float by which the squared error is divided.
        ema_decays: see `TrainingModel`.

    Raises:
        ValueError: on a shape that is not a multiple of 8, or quantizers that do not fit each other.
    """

    tokens = ("codes", "latents")
    strides = (2, 2, 2)

    def __init__(
        self,
        input_shape,
        filters=128,
        num_residual_layers=2,
        residual_filters=32,
        top=None,
        bottom=None,
        data_variance=1.0,
        ema_decays=(),
        **kwargs,
    ):
        top, bottom = top or VectorQuantizer(512, 64), bottom or VectorQuantizer(512, 64)
        if top.embedding_dim != bottom.embedding_dim or top.code_shape or bottom.code_shape:
            raise ValueError(
                "`top` and `bottom` must have one embedding_dim, and one code for each latent. Received: "
                f"embedding_dim={top.embedding_dim}, {bottom.embedding_dim}, code_shape={top.code_shape}, "
                f"{bottom.code_shape}"
            )
        names = tuple(dict.fromkeys((*top.loss_names, *bottom.loss_names)))
        super().__init__(("reconstruction", *names), ema_decays, **kwargs)
        self.input_shape = tuple(input_shape)
        self.filters = filters
        self.num_residual_layers = num_residual_layers
        self.residual_filters = residual_filters
        self.top = top
        self.bottom = bottom
        self.data_variance = data_variance
        self.vocabulary = max(top.vocabulary, bottom.vocabulary)
        self.quantizer_losses = names

        dim = top.embedding_dim
        self.encoder = self._part("encoder", [(filters // 2, 4), (filters, 4), (filters, 3)], residual=3)
        self.encoder_top = self._part("encoder_top", [(filters // 2, 4), (filters, 3)], residual=2)
        self.to_top = self._part("to_top", [(dim, 1)])
        self.decoder_top = self._part("decoder_top", [(filters, 3), (dim, -4)], residual=1)
        self.to_bottom = self._part("to_bottom", [(dim, 1)])
        self.upsample = self._part("upsample", [(dim, -4)])
        last = [(filters // 2, -4), (self.input_shape[-1], -4)]
        self.decoder = self._part("decoder", [(filters, 3), *last], residual=1)
        factors = check_shape(self.input_shape, self, causal=False)
        axes = list(zip(self.input_shape, factors))
        self.grids = tuple(s // f for s, f in axes), tuple(2 * s // f for s, f in axes)
        self.sizes = [math.prod(grid) for grid in self.grids]
        self.token_shape = (sum(self.sizes),)
        self.latent_shape = (*self.token_shape, dim)
        self.standardize = Standardize(name="standardize", dtype="float32")
        self.standardize_bottom = Standardize(name="standardize_bottom", dtype="float32")
        for level, quantizer in (("top", top), ("bottom", bottom)):
            setattr(self, f"perplexity_{level}", Perplexity(quantizer.vocabulary, name=f"perplexity_{level}"))
            setattr(self, f"codes_in_use_{level}", CodesInUse(quantizer.vocabulary, name=f"codes_in_use_{level}"))
        self.build()

    factors = Chain.factors

    def _part(self, name, convolutions, residual=0):
        """Convolutions of (filters, kernel), 4 halving and -4 doubling every axis, with ReLU after those that are not
        the last of their kind; a residual stack after number `residual`."""

        def layers_of(rank):
            layers = []
            for i, (filters, kernel) in enumerate(convolutions, start=1):
                strided = abs(kernel) == 4
                activation = "relu" if strided and i < len(convolutions) else None
                layers.append(
                    convolution(
                        rank,
                        filters,
                        abs(kernel),
                        strides=2 if strided else 1,
                        transposed=kernel < 0,
                        activation=activation,
                        name=f"convolution_{i}",
                        dtype=self.dtype_policy,
                    )
                )
                if i == residual:
                    sizes = (self.num_residual_layers, self.residual_filters)
                    layers.append(ResidualStack(*sizes, name="residual", dtype=self.dtype_policy))
            return layers

        return Sequence(layers_of, name=name, dtype=self.dtype_policy)

    def build(self, input_shape=None):
        if self.built:
            return
        (top, bottom), dim = self.grids, self.latent_shape[-1]
        for layer, grid, channels in (
            (self.encoder, self.input_shape[:-1], self.input_shape[-1]),
            (self.encoder_top, bottom, self.filters),
            (self.to_top, top, self.filters),
            (self.top, top, dim),
            (self.standardize, top, dim),
            (self.decoder_top, top, dim),
            (self.to_bottom, bottom, dim + self.filters),
            (self.bottom, bottom, dim),
            (self.standardize_bottom, bottom, dim),
            (self.upsample, top, dim),
            (self.decoder, bottom, 2 * dim),
        ):
            if not layer.built:  # a quantizer that was loaded, or used before, is
                layer.build((None, *grid, channels))
        self.build_averages()
        self.built = True

    @property
    def bits(self):
        """Bits that the codes of one signal take."""
        return self.sizes[0] * self.top.bits + self.sizes[1] * self.bottom.bits

    @property
    def code_limits(self):
        return 0, np.repeat([self.top.vocabulary, self.bottom.vocabulary], self.sizes)

    def _levels(self, x, quantize_top, quantize_bottom):
        """Latents and what their quantizers make of them, of the top and of the bottom level."""
        low = self.encoder(x)
        z_top = ops.cast(self.to_top(self.encoder_top(low)), "float32")
        top = quantize_top(z_top)
        above = self.decoder_top(top["quantized"])
        z_bottom = ops.cast(self.to_bottom(ops.concatenate([above, ops.cast(low, above.dtype)], axis=-1)), "float32")
        return (z_top, top), (z_bottom, quantize_bottom(z_bottom))

    def _decode(self, top, bottom):
        above = ops.cast(self.upsample(top), "float32")
        return ops.cast(self.decoder(ops.concatenate([above, bottom], axis=-1)), "float32")

    def _join(self, top, bottom):
        """Two grids to one sequence."""
        rest = top.shape[1 + len(self.grids[0]) :]
        return ops.concatenate([ops.reshape(x, (-1, n, *rest)) for x, n in zip((top, bottom), self.sizes)], axis=1)

    def _split(self, tokens):
        parts = ops.split(tokens, [self.sizes[0]], axis=1)
        return [ops.reshape(x, (-1, *grid, *tokens.shape[2:])) for x, grid in zip(parts, self.grids)]

    def call(self, x, training=False):
        quantizers = [lambda z, q=q: q(z, training=training) for q in (self.top, self.bottom)]
        (z_top, top), (z_bottom, bottom) = self._levels(self._check_signal(signal_of(x)), *quantizers)
        latents = self._join(
            self.standardize(z_top, training=training), self.standardize_bottom(z_bottom, training=training)
        )
        outputs = self._decode(top["quantized"], bottom["quantized"])
        losses = {
            name: sum(level["losses"][name] for level in (top, bottom) if name in level["losses"])
            for name in self.quantizer_losses
        }
        losses = by_rows(losses, outputs)
        return {"outputs": outputs, "codes": self._join(top["codes"], bottom["codes"]), "latents": latents, **losses}

    def encode_codes(self, x):
        (_, top), (_, bottom) = self._levels(x, self.top.encode, self.bottom.encode)
        return self._join(top["codes"], bottom["codes"])

    def draw_tokens(self, x, kind, seed, temperature):
        if kind != "codes":
            return super().draw_tokens(x, kind, seed, temperature)

        def drawing(quantizer, level):
            def draw(z):
                codes = quantizer.sample(z, split(seed, 2)[:, level], temperature)
                return {"codes": codes, "quantized": quantizer.lookup(codes)}

            return draw

        (_, top), (_, bottom) = self._levels(x, drawing(self.top, 0), drawing(self.bottom, 1))
        return self._join(top["codes"], bottom["codes"])

    def encode_latents(self, x):
        (top, _), (bottom, _) = self._levels(x, self.top.encode, self.bottom.encode)
        return self._join(self.standardize(top, training=False), self.standardize_bottom(bottom, training=False))

    def decode_codes(self, codes):
        top, bottom = self._split(codes)
        return self._decode(self.top.lookup(top), self.bottom.lookup(bottom))

    def decode_latents(self, latents):
        """Snaps standardised latents to their nearest codes, then decodes."""
        top, bottom = self._split(latents)
        top, bottom = self.standardize.inverse(top), self.standardize_bottom.inverse(bottom)
        return self._decode(self.top.encode(top)["quantized"], self.bottom.encode(bottom)["quantized"])

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        total = super().compute_loss(x, y, y_pred, sample_weight, training)
        finite = ops.all(ops.isfinite(y_pred["latents"]), axis=-1)  # what is not has code 0, and is no use of it
        parts = zip(*(ops.split(values, [self.sizes[0]], axis=1) for values in (y_pred["codes"], finite)))
        for level, (codes, valid) in zip(("top", "bottom"), parts):
            getattr(self, f"perplexity_{level}").update_state(codes, valid)
            getattr(self, f"codes_in_use_{level}").update_state(codes, valid)
        return total
