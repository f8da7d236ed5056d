"""Convolutional encoder and decoder of a tokenizer, one implementation for 1-D, 2-D and 3-D.

The layout is the one that van den Oord, Vinyals & Kavukcuoglu 2017 (VQ-VAE, section 4.1) describe and DeepMind's
example fixes: strided convolutions of kernel 4, one of kernel 3, a residual stack; the decoder mirrors it.
"""

import keras
from keras import ops

from keras_mmai.serialization import register

CONVOLUTIONS = {1: keras.layers.Conv1D, 2: keras.layers.Conv2D, 3: keras.layers.Conv3D}
TRANSPOSED = {1: keras.layers.Conv1DTranspose, 2: keras.layers.Conv2DTranspose, 3: keras.layers.Conv3DTranspose}


def convolution(rank, filters, kernel_size, strides=1, transposed=False, **kwargs):
    """A "same"-padded Keras convolution of the given rank."""
    if rank not in CONVOLUTIONS:
        raise ValueError(f"Signals have 1, 2 or 3 axes besides batch and channels. Received: {rank}")
    layer = (TRANSPOSED if transposed else CONVOLUTIONS)[rank]
    return layer(filters, kernel_size, strides=strides, padding="same", **kwargs)


@register
class ResidualStack(keras.layers.Layer):
    """`num_layers` times `x + conv1(relu(conv3(relu(x))))`, then ReLU: (b, *s, c) -> (b, *s, c).

    Args:
        num_layers: int.
        hidden_filters: int, channels between the two convolutions.
    """

    def __init__(self, num_layers, hidden_filters, **kwargs):
        super().__init__(**kwargs)
        self.num_layers = num_layers
        self.hidden_filters = hidden_filters

    def build(self, input_shape):
        rank, channels = len(input_shape) - 2, input_shape[-1]
        self.blocks = [
            (
                convolution(rank, self.hidden_filters, 3, name=f"wide_{i}", dtype=self.dtype_policy),
                convolution(rank, channels, 1, name=f"narrow_{i}", dtype=self.dtype_policy),
            )
            for i in range(self.num_layers)
        ]
        for wide, narrow in self.blocks:
            wide.build(input_shape)
            narrow.build((*input_shape[:-1], self.hidden_filters))
        self.built = True

    def call(self, x):
        for wide, narrow in self.blocks:
            x = x + narrow(ops.relu(wide(ops.relu(x))))
        return ops.relu(x)

    def compute_output_shape(self, input_shape):
        return input_shape


class ConvStack(keras.layers.Layer):
    """Base of encoder and decoder, which differ in `chain`: the layers in order, for a signal of the given rank.

    Args:
        filters: ints, the encoder's widths, one for each convolution of stride 2.
        output_dim: int, channels of the output.
        num_residual_layers, residual_filters: see `ResidualStack`.
    """

    def __init__(self, filters, output_dim, num_residual_layers=2, residual_filters=32, **kwargs):
        super().__init__(**kwargs)
        self.filters = tuple(filters)
        self.output_dim = output_dim
        self.num_residual_layers = num_residual_layers
        self.residual_filters = residual_filters

    def chain(self, rank):
        raise NotImplementedError

    def middle(self, rank):
        """The convolution and residual stack of the narrowest part."""
        residual = ResidualStack(
            self.num_residual_layers, self.residual_filters, name="residual", dtype=self.dtype_policy
        )
        return [convolution(rank, self.filters[-1], 3, name="mix", dtype=self.dtype_policy), residual]

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


@register
class ConvEncoder(ConvStack):
    """Signal to latents: (b, *s, c) -> (b, *s / 2 ** len(filters), output_dim). Arguments as `ConvStack`."""

    def chain(self, rank):
        kwargs = dict(dtype=self.dtype_policy)
        down = [
            convolution(rank, filters, 4, strides=2, activation="relu", name=f"down_{i}", **kwargs)
            for i, filters in enumerate(self.filters)
        ]
        return [*down, *self.middle(rank), convolution(rank, self.output_dim, 1, name="to_latents", **kwargs)]

    def compute_output_shape(self, input_shape):
        return (input_shape[0], *[s and -(-s // 2 ** len(self.filters)) for s in input_shape[1:-1]], self.output_dim)


@register
class ConvDecoder(ConvStack):
    """Latents to signal, the encoder's mirror: (b, *s, d) -> (b, *s * 2 ** len(filters), output_dim).

    Arguments as `ConvStack`; `filters` are the encoder's, and are read from the last to the first.
    """

    def chain(self, rank):
        kwargs = dict(strides=2, transposed=True, dtype=self.dtype_policy)
        up = [
            convolution(rank, filters, 4, activation="relu", name=f"up_{i}", **kwargs)
            for i, filters in enumerate(self.filters[-2::-1])
        ]
        return [*self.middle(rank), *up, convolution(rank, self.output_dim, 4, name="to_signal", **kwargs)]

    def compute_output_shape(self, input_shape):
        return (input_shape[0], *[s and s * 2 ** len(self.filters) for s in input_shape[1:-1]], self.output_dim)
