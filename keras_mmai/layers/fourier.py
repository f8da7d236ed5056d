"""Waveforms to short-time spectra and back, as the first and the last layer of audio coders.

Frames of N = 4 hop samples, under a Hann window w, every hop samples:

    X[f, k] = 2 / sum(w) * sum_n w[n] x[f hop + n] exp(-2 pi i k n / N)                                             (1)
    y[t]    = 1 / 3 * sum_f w[t - f hop] sum_k c[k] a[f, k] cos(2 pi k (t - f hop) / N + p[f, k])                    (2)

with c = 1, and 1 / 2 at the first and the last k. A sine of amplitude 1 has |X| = 1, and with a = |X| and p = arg X the
signal comes back, since the squares of the windows over a sample sum to 3 / 2. That a decoder may write down amplitudes
and phases, in place of samples, is from Vocos (Siuzdak 2023, arXiv:2306.00814, section 3): it works at the rate of the
frames.
"""

import math
from fractions import Fraction

import keras
import numpy as np
from keras import ops

from keras_mmai.serialization import register

OVERLAP = 4  # frames over each sample
FLOOR = 1e-4
LOUDEST = 6.0  # the largest logarithm of an amplitude, before it is taken down by as much


class ShortTimeFourier(keras.layers.Layer):
    """Base of the two below.

    Args:
        hop: even int, samples from one frame to the next.
        causal: bool: a frame lies before the end of its own hop; else its middle is that of its hop.

    Raises:
        ValueError: on a hop that is not even and positive, or a signal that is not (b, t, 1).
    """

    def __init__(self, hop, causal=False, **kwargs):
        super().__init__(**kwargs)
        if hop < 2 or hop % 2:
            raise ValueError(f"`hop` must be even and positive. Received: hop={hop}")
        self.hop = hop
        self.causal = causal
        self.length = OVERLAP * hop
        self.num_bins = self.length // 2 + 1
        # what `reach` and `margin` ask of a convolution
        self.kernel_size, self.dilation_rate, self.strides = (self.length,), (1,), (hop,)

    @property
    def window(self):
        return 0.5 - 0.5 * np.cos(2 * math.pi * np.arange(self.length) / self.length)

    @property
    def angles(self):
        """2 pi k n / N: (n, k)."""
        products = np.outer(np.arange(self.length), np.arange(self.num_bins)) % self.length
        return 2 * math.pi / self.length * products

    @property
    def before(self):
        """Samples that a frame has before its own hop."""
        return (self.length - self.hop) // (1 if self.causal else 2)


@register
class FourierAnalysis(ShortTimeFourier):
    """Waveforms (b, t, 1) to features of their spectra (b, t / hop, 3 (2 hop + 1)), by equation (1).

    They are log |X|, and the real and imaginary part of X |X|^-0.7, which is as loud where a sound is quiet. Arguments
    as `ShortTimeFourier`.
    """

    transposed = False

    @property
    def reach(self):
        return self.before

    @property
    def rate(self):
        return Fraction(self.hop)

    def build(self, input_shape):
        if len(input_shape) != 3 or input_shape[-1] != 1:
            raise ValueError(f"Spectra are of waveforms ('b', 't', 1). Received: {tuple(input_shape)}")
        self.built = True

    def call(self, x):
        x = ops.cast(x, "float32")
        x = ops.pad(x[..., 0], [(0, 0), (self.before, self.length - self.hop - self.before)])
        hops = ops.reshape(x, (-1, ops.shape(x)[1] // self.hop, self.hop))
        num_frames = ops.shape(hops)[1] - OVERLAP + 1
        frames = ops.concatenate([hops[:, i : i + num_frames] for i in range(OVERLAP)], axis=-1)
        window = 2.0 * self.window[:, None] / np.sum(self.window)
        basis = np.concatenate([window * np.cos(self.angles), -window * np.sin(self.angles)], axis=1)
        real, imaginary = ops.split(ops.matmul(frames, basis.astype("float32")), 2, axis=-1)
        power = ops.square(real) + ops.square(imaginary) + FLOOR**2
        loudness = ops.log(power) / (-math.log(FLOOR)) + 1.0  # about -1 to 1
        compressed = power**-0.35
        features = [loudness, real * compressed, imaginary * compressed]
        return ops.cast(ops.concatenate(features, axis=-1), self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[1] and input_shape[1] // self.hop, 3 * self.num_bins)


@register
class FourierSynthesis(ShortTimeFourier):
    """Log amplitudes, less 6, and phases (b, n, 2 (2 hop + 1)) to waveforms (b, n hop, 1), by equation (2).

    Arguments as `ShortTimeFourier`.
    """

    transposed = True

    @property
    def reach(self):
        return OVERLAP - 1

    @property
    def rate(self):
        return Fraction(1, self.hop)

    def build(self, input_shape):
        if len(input_shape) != 3 or input_shape[-1] != 2 * self.num_bins:
            raise ValueError(f"Spectra are ('b', 'n', {2 * self.num_bins}). Received: {tuple(input_shape)}")
        self.built = True

    def call(self, spectra):
        log_amplitude, phase = ops.split(ops.cast(spectra, "float32"), 2, axis=-1)
        amplitude = ops.exp(ops.minimum(log_amplitude, LOUDEST) - LOUDEST)
        parts = ops.concatenate([amplitude * ops.cos(phase), amplitude * ops.sin(phase)], axis=-1)
        window = self.window[:, None] / 3.0
        basis = np.concatenate([window * np.cos(self.angles), -window * np.sin(self.angles)], axis=1)
        basis[:, [0, self.num_bins - 1, self.num_bins, -1]] /= 2.0
        frames = ops.matmul(parts, np.ascontiguousarray(basis.T).astype("float32"))
        num_frames = ops.shape(frames)[1]
        later = [(i, OVERLAP - 1 - i) for i in range(OVERLAP)]
        hops = ops.split(frames, OVERLAP, axis=-1)
        hops = sum(ops.pad(part, [(0, 0), shift, (0, 0)]) for part, shift in zip(hops, later))
        y = ops.reshape(hops, (-1, (num_frames + OVERLAP - 1) * self.hop, 1))
        start = 0 if self.causal else self.length - self.hop - self.before
        return ops.cast(y[:, start : start + num_frames * self.hop], self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[1] and input_shape[1] * self.hop, 1)
