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

    They are the loudness, log |X| from about -1 at a silence of 1e-4 to 1 at full scale, and the real and imaginary
    part of X |X|^-0.7, which is nearly as loud where a sound is quiet. Arguments as `ShortTimeFourier`.
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
        if x.shape[1] is not None and x.shape[1] % self.hop:
            raise ValueError(f"A waveform has a multiple of hop={self.hop} samples. Received: {tuple(x.shape)}")
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
    """Amplitudes and phases (b, n, 2 (2 hop + 1)) to waveforms (b, n hop, 1), by equation (2).

    Amplitudes are given as log a + 6, and are at most 1: of numbers above 6 nothing comes. Arguments as
    `ShortTimeFourier`.
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


def mel_triangles(sample_rate, fft_length, num_mel_bins, min_freq):
    """Triangles of peak 1 and equal width on the HTK mel scale, 2595 log10(1 + Hz / 700): float64 (bins, bands).

    From `min_freq` to half the sample rate, on the fft_length / 2 + 1 bins of a Fourier transform; bin 0 is left out.

    Raises:
        ValueError: on bands so narrow that no bin falls into them, or such numbers.
    """
    if num_mel_bins < 1 or not 0.0 <= min_freq < sample_rate / 2:
        raise ValueError(
            "`num_mel_bins` must be at least 1, and `min_freq` in [0, sample_rate / 2). "
            f"Received: num_mel_bins={num_mel_bins}, min_freq={min_freq}, sample_rate={sample_rate}"
        )
    bins = _mel(np.linspace(0.0, sample_rate / 2, fft_length // 2 + 1))[:, None]  # (k, 1)
    edges = np.linspace(_mel(min_freq), _mel(sample_rate / 2), num_mel_bins + 2)
    lower, center, upper = edges[:-2], edges[1:-1], edges[2:]  # (m,)
    triangles = np.maximum(0.0, np.minimum((bins - lower) / (center - lower), (upper - bins) / (upper - center)))
    triangles[0] = 0.0  # HTK leaves out the constant part
    empty = np.flatnonzero(triangles.sum(axis=0) == 0)
    if len(empty):
        raise ValueError(
            f"{len(empty)} of {num_mel_bins} bands are so narrow that no frequency of the Fourier transform falls into "
            f"them. Give a larger `fft_length` than {fft_length}, or fewer `num_mel_bins`."
        )
    return triangles


def _mel(hertz):
    return 2595.0 * np.log10(1.0 + hertz / 700.0)
