"""Convolutional encoder and decoder of a tokenizer, one implementation for 1-D, 2-D and 3-D.

The layout is the one that van den Oord, Vinyals & Kavukcuoglu 2017 (VQ-VAE, section 4.1) describe and DeepMind's
example fixes: strided convolutions of kernel 4, one of kernel 3, a residual stack; the decoder mirrors it.
"""

import math

import keras

from keras_mmai.layers.convolution import ResidualStack, convolution, margin, per_axis, reach
from keras_mmai.serialization import register


class Chain(keras.layers.Layer):
    """Base of encoders and decoders: layers in order, for a signal of the rank that the input has.

    A subclass gives `chain`, and `strides`: the factors by which the lengths change, each an int or one for each axis.
    """

    def chain(self, rank):
        """The layers in order, not built."""
        raise NotImplementedError

    def factors(self, rank):
        """The product of the strides along each axis."""
        return tuple(math.prod(axis) for axis in zip((1,) * rank, *[per_axis(s, rank) for s in self.strides]))

    @property
    def reach(self):
        """Steps of the input before an output's own ones on which it depends, if causal."""
        return reach(self.layers)

    @property
    def margin(self):
        """Steps of the input around an output's own ones, on any side, beyond which it depends on nothing."""
        return margin(self.layers)

    def build(self, input_shape):
        self.layers = self.chain(len(input_shape) - 2)
        shape = input_shape
        for layer in self.layers:
            layer.build(shape)
            shape = layer.compute_output_shape(shape)
        self.built = True

    def call(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def widths_and_strides(filters, strides):
    """`filters` and one stride for each of them."""
    filters = tuple(filters)
    strides = (strides,) * len(filters) if isinstance(strides, int) else tuple(strides)
    if len(strides) != len(filters):
        raise ValueError(
            f"`strides` has an entry for each of `filters`. Received: filters={filters}, strides={strides}"
        )
    return filters, tuple(s if isinstance(s, int) else tuple(s) for s in strides)


def kernel_of(stride):
    """The kernel of a strided convolution: twice the stride, and 3 where nothing is strided; an int or a tuple."""
    return kernel_of((stride,))[0] if isinstance(stride, int) else tuple(2 * s if s > 1 else 3 for s in stride)


class ConvStack(Chain):
    """Base of the two below.

    Args:
        filters: ints, the encoder's widths, one for each strided convolution.
        output_dim: int, channels of the output.
        num_residual_layers, residual_filters: see `ResidualStack`.
        strides: int, or one entry for each of `filters`: an int, or one for each axis.
        causal: bool: along the first axis, time, nothing depends on what comes later.

    Raises:
        ValueError: on strides that do not fit the filters, or the signal's rank.
    """

    def __init__(
        self,
        filters,
        output_dim,
        num_residual_layers=2,
        residual_filters=32,
        strides=2,
        causal=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filters, self.strides = widths_and_strides(filters, strides)
        self.output_dim = output_dim
        self.num_residual_layers = num_residual_layers
        self.residual_filters = residual_filters
        self.causal = causal

    def convolution(self, rank, filters, kernel_size, **kwargs):
        return convolution(rank, filters, kernel_size, causal=self.causal, dtype=self.dtype_policy, **kwargs)

    def middle(self, rank):
        """The convolution and residual stack of the narrowest part."""
        residual = ResidualStack(
            self.num_residual_layers, self.residual_filters, self.causal, name="residual", dtype=self.dtype_policy
        )
        return [self.convolution(rank, self.filters[-1], 3, name="mix"), residual]


@register
class ConvEncoder(ConvStack):
    """Signal to latents: (b, *s, c) -> (b, *s / strides, output_dim). Arguments as `ConvStack`."""

    def chain(self, rank):
        down = [
            self.convolution(rank, filters, kernel_of(s), strides=s, activation="relu", name=f"down_{i}")
            for i, (filters, s) in enumerate(zip(self.filters, self.strides))
        ]
        return [*down, *self.middle(rank), self.convolution(rank, self.output_dim, 1, name="to_latents")]

    def compute_output_shape(self, input_shape):
        axes = zip(input_shape[1:-1], self.factors(len(input_shape) - 2))
        return (input_shape[0], *[n and -(-n // f) for n, f in axes], self.output_dim)


@register
class ConvDecoder(ConvStack):
    """Latents to signal, the encoder's mirror: (b, *s, d) -> (b, *s * strides, output_dim).

    Arguments as `ConvStack`; `filters` and `strides` are the encoder's, and are read from the last to the first.
    """

    def chain(self, rank):
        strides = self.strides[::-1]
        up = [
            self.convolution(rank, filters, kernel_of(s), strides=s, transposed=True, activation="relu", name=f"up_{i}")
            for i, (filters, s) in enumerate(zip(self.filters[-2::-1], strides))
        ]
        last = self.convolution(
            rank, self.output_dim, kernel_of(strides[-1]), strides=strides[-1], transposed=True, name="to_signal"
        )
        return [*self.middle(rank), *up, last]

    def compute_output_shape(self, input_shape):
        axes = zip(input_shape[1:-1], self.factors(len(input_shape) - 2))
        return (input_shape[0], *[n and n * f for n, f in axes], self.output_dim)
