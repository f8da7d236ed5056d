"""Convolutions of any rank, causal or not, and how far they see."""

import math
from fractions import Fraction

import keras
from keras import ops

from keras_mmai.serialization import register

CONVOLUTIONS = {1: keras.layers.Conv1D, 2: keras.layers.Conv2D, 3: keras.layers.Conv3D}
TRANSPOSED = {1: keras.layers.Conv1DTranspose, 2: keras.layers.Conv2DTranspose, 3: keras.layers.Conv3DTranspose}


def per_axis(value, rank):
    """An int, or one for each of `rank` axes, as a tuple."""
    values = (value,) * rank if isinstance(value, int) else tuple(value)
    if len(values) != rank or any(v < 1 for v in values):
        raise ValueError(f"Give one positive int, or one for each of the {rank} axes of the signal. Received: {value}")
    return values


def convolution(rank, filters, kernel_size, strides=1, transposed=False, causal=False, **kwargs):
    """A convolution of the given rank; `kernel_size` and `strides` are ints, or one for each axis.

    "same"-padded, or causal: along the first axis, time, an output sees only what is before it. A stride divides the
    length, or multiplies it if `transposed`.
    """
    if rank not in CONVOLUTIONS:
        raise ValueError(f"Signals have 1, 2 or 3 axes besides batch and channels. Received: {rank}")
    kernel_size, strides = per_axis(kernel_size, rank), per_axis(strides, rank)
    if causal:
        return CausalConvolution(filters, kernel_size, strides, transposed=transposed, **kwargs)
    layer = (TRANSPOSED if transposed else CONVOLUTIONS)[rank]
    return layer(filters, kernel_size, strides=strides, padding="same", **kwargs)


@register
class CausalConvolution(keras.layers.Layer):
    """A convolution whose output at a time depends on no later input: (b, t, *s, c) -> (b, t / stride, *s', filters).

    The first axis is time: output i sees the inputs of its own stride, up to (i + 1) stride - 1, and the kernel's rest
    before them, where the start is padded with zeros. The other axes are "same"-padded. Transposed, the outputs
    i stride to (i + 1) stride - 1 depend on the inputs up to i, and t is multiplied.

    Args:
        filters: int.
        kernel_size, strides, dilation_rate: tuples of ints, one for each axis. A kernel is at least its stride.
        transposed: bool.
        activation: name of a Keras activation, or None.

    Raises:
        ValueError: on a kernel smaller than its stride.
    """

    def __init__(self, filters, kernel_size, strides, dilation_rate=None, transposed=False, activation=None, **kwargs):
        super().__init__(**kwargs)
        if any(k < s for k, s in zip(kernel_size, strides)):
            raise ValueError(
                f"`kernel_size` must be at least `strides` in each axis. Received: kernel_size={kernel_size}, "
                f"strides={strides}"
            )
        self.filters = filters
        self.kernel_size = tuple(kernel_size)
        self.strides = tuple(strides)
        self.dilation_rate = tuple(dilation_rate or [1] * len(strides))
        self.transposed = transposed
        self.activation = activation

    @property
    def rest(self):
        """How much of each axis the kernel reaches beyond the stride."""
        return [(k - 1) * d + 1 - s for k, d, s in zip(self.kernel_size, self.dilation_rate, self.strides)]

    @property
    def reach(self):
        """How many steps of the input before an output's own ones it depends on."""
        return -(-self.rest[0] // self.strides[0]) if self.transposed else self.rest[0]

    @property
    def rate(self):
        """Steps of the input for one of the output."""
        return Fraction(1, self.strides[0]) if self.transposed else Fraction(self.strides[0])

    def build(self, input_shape):
        layer = (TRANSPOSED if self.transposed else CONVOLUTIONS)[len(input_shape) - 2]
        self.convolution = layer(
            self.filters,
            self.kernel_size,
            strides=self.strides,
            padding="valid",
            dilation_rate=self.dilation_rate,
            activation=self.activation,
            name="convolution",
            dtype=self.dtype_policy,
        )
        self.convolution.build((None, *[None] * (len(input_shape) - 2), input_shape[-1]))
        self.built = True

    def call(self, x):
        before = [self.rest[0], *[rest // 2 for rest in self.rest[1:]]]
        if not self.transposed:
            after = [rest - b for rest, b in zip(self.rest, before)]
            return self.convolution(ops.pad(x, [(0, 0), *zip(before, after), (0, 0)]))
        y = self.convolution(x)
        starts = [0, *before[1:]]
        lengths = [n * s for n, s in zip(ops.shape(x)[1:-1], self.strides)]
        return y[(slice(None), *[slice(start, start + n) for start, n in zip(starts, lengths)])]

    def compute_output_shape(self, input_shape):
        axes = zip(input_shape[1:-1], self.strides)
        return (
            input_shape[0],
            *[n and (n * s if self.transposed else -(-n // s)) for n, s in axes],
            self.filters,
        )


def reach(layers):
    """Steps of the input before an output's own ones on which the output of causal `layers`, in order, depends."""
    steps, rate = Fraction(0), Fraction(1)
    for layer in layers:
        steps += rate * getattr(layer, "reach", 0)
        rate *= getattr(layer, "rate", 1)
    return math.ceil(steps)


def margin(layers):
    """Steps of the input around an output's own ones beyond which the output of `layers`, in order, sees nothing."""
    steps, rate = Fraction(0), Fraction(1)
    for layer in layers:
        if hasattr(layer, "kernel_size"):
            steps += rate * max((k - 1) * d for k, d in zip(layer.kernel_size, layer.dilation_rate))
            transposed = getattr(layer, "transposed", isinstance(layer, tuple(TRANSPOSED.values())))
            rate *= Fraction(1, min(layer.strides)) if transposed else max(layer.strides)
        else:
            steps += rate * getattr(layer, "reach", 0)
    return math.ceil(steps)


@register
class ResidualStack(keras.layers.Layer):
    """`num_layers` times `x + conv1(relu(conv3(relu(x))))`, then ReLU: (b, *s, c) -> (b, *s, c).

    Args:
        num_layers: int.
        hidden_filters: int, channels between the two convolutions.
        causal: bool, along the first axis.
    """

    def __init__(self, num_layers, hidden_filters, causal=False, **kwargs):
        super().__init__(**kwargs)
        self.num_layers = num_layers
        self.hidden_filters = hidden_filters
        self.causal = causal

    @property
    def reach(self):
        return 2 * self.num_layers

    def build(self, input_shape):
        rank, channels = len(input_shape) - 2, input_shape[-1]
        kwargs = dict(causal=self.causal, dtype=self.dtype_policy)
        self.blocks = [
            (
                convolution(rank, self.hidden_filters, 3, name=f"wide_{i}", **kwargs),
                convolution(rank, channels, 1, name=f"narrow_{i}", **kwargs),
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
