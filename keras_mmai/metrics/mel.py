"""The distance of two sounds as an ear hears it: by frequency bands, on a logarithmic scale.

For a waveform x, M(x) are the mel magnitudes of frames f and bands m, and the distance is

    X[f, k] = sum_t w[t] x[f S + t - N / 2] exp(-2 pi i k t / N)                                                    (1)
    M[f, m] = sum_k T[k, m] |X[f, k]|                                                                               (2)
    d       = mean over f and m of |log10 max(M(x), floor) - log10 max(M(x_hat), floor)|                            (3)

with frames of N samples every S, mirrored at both ends; w the periodic Hann window, not normalised, so that a sine of
amplitude 1 has the magnitude N / 4 = 128; and T triangles of peak 1 and equal width on the HTK mel scale,
2595 log10(1 + Hz / 700), from `min_freq` to half the sample rate, bin 0 left out. (1) and (2) are those of
`keras.layers.MelSpectrogram(mag_exp=1, power_to_db=False)`, here in float64 and free of the backend. A distance of 1 is
a factor of 10, 20 dB, in every band.
"""

import numpy as np

from keras_mmai.layers.fourier import mel_triangles
from keras_mmai.metrics.signals import as_pairs


def mel_distance(
    reference,
    estimate,
    sample_rate,
    fft_length=512,
    sequence_stride=128,
    num_mel_bins=64,
    min_freq=20.0,
    floor=1e-3,
):
    """Mean absolute difference of log10 mel magnitudes, eq. (3).

    The defaults are for 8 kHz: frames of 64 ms every 16. The floor lies just above the rounding noise of 16 bits, so
    that it does not matter what fills digital silence. Values of other settings cannot be compared.

    Args:
        reference: (n, samples, 1) float in [-1, 1]; at least fft_length / 2 + 1 samples.
        estimate: the same shape.
        sample_rate: samples per second.
        fft_length: N, samples in a frame, even.
        sequence_stride: S, samples from one frame to the next.
        num_mel_bins: bands.
        min_freq: Hz, where the lowest band begins.
        floor: smaller magnitudes count as this.

    Returns:
        float64 (n,), at least 0; 0 = equal above the floor.
    """
    if np.ndim(reference) != 3 or np.shape(reference)[-1] != 1:
        raise ValueError(f"Waveforms must be (n, samples, 1). Received shape: {np.shape(reference)}")
    reference, estimate = as_pairs(reference, estimate)  # (n, samples)
    if fft_length < 2 or fft_length % 2 or sequence_stride < 1:
        raise ValueError(
            "`fft_length` must be even and above 0, and `sequence_stride` at least 1. "
            f"Received: fft_length={fft_length}, sequence_stride={sequence_stride}"
        )
    if reference.shape[1] <= fft_length // 2:
        raise ValueError(
            f"Waveforms must have more than fft_length / 2 = {fft_length // 2} samples, or their ends could not be "
            f"mirrored. Received: {reference.shape[1]}; give a smaller `fft_length`."
        )
    if not floor > 0:
        raise ValueError(f"`floor` must be above 0. Received: floor={floor}")
    triangles = mel_triangles(sample_rate, fft_length, num_mel_bins, min_freq)

    def log_mel(waveform):
        return np.log10(np.maximum(_magnitudes(waveform, fft_length, sequence_stride) @ triangles, floor))

    # One by one, as all frames of a data set would take N / S times its memory.
    return np.array([np.mean(np.abs(log_mel(x) - log_mel(x_hat))) for x, x_hat in zip(reference, estimate)])


def _magnitudes(waveform, fft_length, sequence_stride):
    """|X| of eq. (1): (samples,) to (frames, fft_length / 2 + 1)."""
    window = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(fft_length) / fft_length)
    mirrored = np.pad(waveform, fft_length // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(mirrored, fft_length)[::sequence_stride]
    return np.abs(np.fft.rfft(frames * window))
