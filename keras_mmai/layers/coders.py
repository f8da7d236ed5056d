"""Convolutional encoder and decoder of a tokenizer, one implementation for 1-D, 2-D and 3-D.

The layout is the one that van den Oord, Vinyals & Kavukcuoglu 2017 (VQ-VAE, section 4.1) describe and DeepMind's
example fixes: strided convolutions of kernel 4, one of kernel 3, a residual stack; the decoder mirrors it.
"""

import math

import keras
from keras import ops

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


@register
class Framewise(keras.layers.Layer):
    """An encoder or decoder of images at work on each frame of a video: (b, t, *s, c) -> (b, t, *s', c').

    What is in a frame's latents depends on that frame alone (as in Latte, Ma et al. 2024), so a tokenizer of such
    coders is causal. A convolution has a third of the multiplications of one that sees 3 frames.

        VAE((16, 32, 32, 1), encoder=Framewise(ConvEncoder((32, 64), 8)), decoder=Framewise(ConvDecoder((32, 64), 1)),
            causal=True)

    Args:
        coder: an encoder or a decoder of (b, *s, c) that is not causal, such as that of a trained tokenizer of images.

    Raises:
        ValueError: on a causal coder, whose first axis is time.
    """

    causal = True
    reach = 0  # frames before its own of which an output depends

    def __init__(self, coder, **kwargs):
        super().__init__(**kwargs)
        if coder.causal:
            raise ValueError("`coder` works on frames, which have no time: give it `causal=False`.")
        self.coder = coder

    @property
    def output_dim(self):
        return self.coder.output_dim

    def factors(self, rank):
        """The product of the strides along each axis."""
        return (1, *self.coder.factors(rank - 1))

    def build(self, input_shape):
        if not self.coder.built:
            self.coder.build((None, *input_shape[2:]))
        self.built = True

    def call(self, x):
        y = self.coder(ops.reshape(x, (-1, *x.shape[2:])))
        return ops.reshape(y, (-1, x.shape[1], *y.shape[1:]))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:2], *self.coder.compute_output_shape((None, *input_shape[2:]))[1:])
