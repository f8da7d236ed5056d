"""SEANet's convolutional encoder and decoder (Tagliasacchi et al. 2020; as in Zeghidour et al. 2021, SoundStream).

Strided convolutions between residual units of growing dilation, with the Snake activation (Ziyin, Hartwig & Ueda 2020,
eq. 3), which keeps a periodic signal periodic:

    snake(x) = x + sin(alpha x)^2 / alpha        with one alpha learned for each channel
"""

import keras
from keras import ops

from keras_mmai.layers.coders import Chain
from keras_mmai.layers.convolution import convolution, per_axis
from keras_mmai.layers.fourier import FourierAnalysis, FourierSynthesis
from keras_mmai.serialization import register

DILATIONS = (1, 3, 9)


@register
class Snake(keras.layers.Layer):
    """x + sin(alpha x)^2 / alpha, (b, ..., c) to the same shape, with a learned alpha for each channel, first 1."""

    def build(self, input_shape):
        self.alpha = self.add_weight(shape=input_shape[-1:], initializer="ones", name="alpha")
        self.built = True

    def call(self, x):
        alpha = ops.cast(self.alpha, x.dtype)
        return x + ops.square(ops.sin(alpha * x)) / (alpha + 1e-4)

    def compute_output_shape(self, input_shape):
        return input_shape


@register
class DilatedResidual(keras.layers.Layer):
    """`x + conv1(snake(conv3(snake(x))))`, the wide one dilated along the first axis: (b, *s, c) -> (b, *s, c).

    Args:
        dilation: int, along the first axis.
        causal: bool, along the first axis.
    """

    def __init__(self, dilation, causal=False, **kwargs):
        super().__init__(**kwargs)
        self.dilation = dilation
        self.causal = causal

    @property
    def reach(self):
        return 2 * self.dilation

    def build(self, input_shape):
        rank, filters = len(input_shape) - 2, input_shape[-1]
        dtype = self.dtype_policy
        dilation = (self.dilation, *[1] * (rank - 1))
        self.chain = [
            Snake(name="snake_wide", dtype=dtype),
            convolution(rank, filters, 3, causal=self.causal, dilation_rate=dilation, name="wide", dtype=dtype),
            Snake(name="snake_narrow", dtype=dtype),
            # from zero: a deep stack begins as the identity, and its signal does not grow
            convolution(rank, filters, 1, kernel_initializer="zeros", name="narrow", dtype=dtype),
        ]
        for layer in self.chain:
            layer.build(input_shape)
        self.built = True

    def call(self, x):
        y = x
        for layer in self.chain:
            y = layer(y)
        return x + y

    def compute_output_shape(self, input_shape):
        return input_shape


class SEANet(Chain):
    """Base of the two below.

    Args:
        filters: int, width before the first stride; it doubles with each.
        output_dim: int, channels of the output.
        strides: ints (or tuples, one for each axis), the encoder's, from the signal on.
        causal: bool: along the first axis, time, nothing depends on what comes later.
        patch_size: int, or one for each axis: so much of the signal is one step before the first stride. 1 is as
            published; a larger one saves the work at the full rate, which on a CPU is most of it.
        fourier: bool: the patches of a waveform are spectra, by `FourierAnalysis` and `FourierSynthesis`.

    Raises:
        ValueError: on strides that do not fit the signal's rank, or spectra of what is no waveform of one channel, or
            at an odd `patch_size`.
    """

    def __init__(self, filters, output_dim, strides=(2, 4, 5, 8), causal=False, patch_size=1, fourier=False, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.output_dim = output_dim
        self.strides = tuple(s if isinstance(s, int) else tuple(s) for s in strides)
        self.causal = causal
        if fourier and (not isinstance(patch_size, int) or patch_size < 2 or patch_size % 2):
            raise ValueError(
                "With `fourier=True`, `patch_size` is the samples from one spectrum to the next, an even int. "
                f"Received: patch_size={patch_size}"
            )
        self.patch_size = patch_size
        self.fourier = fourier

    def factors(self, rank):
        """What one step of the latents has of the signal, along each axis."""
        return tuple(f * p for f, p in zip(super().factors(rank), per_axis(self.patch_size, rank)))

    def convolution(self, rank, filters, kernel_size, **kwargs):
        return convolution(rank, filters, kernel_size, causal=self.causal, dtype=self.dtype_policy, **kwargs)

    def strided(self, rank, filters, stride, least_kernel=1, **kwargs):
        kernel = tuple(2 * s if s > 1 else least_kernel for s in per_axis(stride, rank))
        return self.convolution(rank, filters, kernel, strides=stride, **kwargs)

    def residuals(self, i):
        return [DilatedResidual(d, self.causal, name=f"residual_{i}_{d}", dtype=self.dtype_policy) for d in DILATIONS]

    def snake(self, name):
        return Snake(name=name, dtype=self.dtype_policy)


@register
class SEANetEncoder(SEANet):
    """Signal to latents: (b, *s, c) -> (b, *s / strides, output_dim). Arguments as `SEANet`."""

    def chain(self, rank):
        if self.fourier:
            layers = [
                FourierAnalysis(self.patch_size, self.causal, name="analysis", dtype=self.dtype_policy),
                self.convolution(rank, self.filters, 3, name="from_spectra"),
            ]
        else:
            layers = [self.strided(rank, self.filters, self.patch_size, 7, name="from_signal")]
        for i, stride in enumerate(self.strides):
            layers += [*self.residuals(i), self.snake(f"snake_{i}")]
            layers.append(self.strided(rank, self.filters * 2 ** (i + 1), stride, name=f"down_{i}"))
        return [*layers, self.snake("snake"), self.convolution(rank, self.output_dim, 3, name="to_latents")]

    def compute_output_shape(self, input_shape):
        axes = zip(input_shape[1:-1], self.factors(len(input_shape) - 2))
        return (input_shape[0], *[n and -(-n // f) for n, f in axes], self.output_dim)


@register
class SEANetDecoder(SEANet):
    """Latents to signal, about -1 to 1, the encoder's mirror: (b, *s, d) -> (b, *s * strides, output_dim).

    Arguments as `SEANet`; `strides` are the encoder's, and are read from the last to the first.
    """

    def chain(self, rank):
        layers = [self.convolution(rank, self.filters * 2 ** len(self.strides), 7, name="from_latents")]
        for i, stride in reversed(list(enumerate(self.strides))):
            layers.append(self.snake(f"snake_{i}"))
            layers.append(self.strided(rank, self.filters * 2**i, stride, transposed=True, name=f"up_{i}"))
            layers += self.residuals(i)
        if self.fourier:
            if self.output_dim != 1:
                raise ValueError(f"Spectra make one channel: output_dim=1. Received: output_dim={self.output_dim}")
            synthesis = FourierSynthesis(self.patch_size, self.causal, name="synthesis", dtype=self.dtype_policy)
            to_spectra = self.convolution(rank, 2 * synthesis.num_bins, 3, name="to_spectra")
            return [*layers, self.snake("snake"), to_spectra, synthesis]
        transposed = max(per_axis(self.patch_size, rank)) > 1
        sizes = dict(transposed=transposed, activation="tanh", name="to_signal")
        last = self.strided(rank, self.output_dim, self.patch_size, 7, **sizes)
        return [*layers, self.snake("snake"), last]

    def compute_output_shape(self, input_shape):
        axes = zip(input_shape[1:-1], self.factors(len(input_shape) - 2))
        return (input_shape[0], *[n and n * f for n, f in axes], self.output_dim)
