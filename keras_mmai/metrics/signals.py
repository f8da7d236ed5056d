"""What reconstructions of signals have lost, in decibels for each example.

    SI-SDR = 10 log10(|alpha s|^2 / |alpha s - s_hat|^2),  alpha = s_hat' s / |s|^2                                 (1)
    PSNR   = 10 log10(data_range^2 / mean((x - x_hat)^2))                                                           (2)

(1) is of Le Roux et al. 2019 (arXiv:1811.02508), with reference s and estimate s_hat: the target is the reference at
the gain that suits the estimate best, so a wrong loudness costs nothing, and a wrong shape cannot hide behind it.
"""

import numpy as np


def si_sdr(reference, estimate):
    """Scale-invariant signal-to-distortion ratio, eq. (1).

    Nothing is subtracted from the signals; with their means taken away beforehand it is what others call SI-SNR.

    Args:
        reference: (n, ...) float, the true signals, for example waveforms (n, samples, 1); all axes after the first
            are one signal with one gain. None may be silent.
        estimate: the same shape.

    Returns:
        float64 (n,) in dB, higher is better: 0 = as much distortion as target, infinity (or, by rounding, some 300) =
        a multiple of the reference, -infinity = silent, or nothing in common.
    """
    s, s_hat = as_pairs(reference, estimate)
    energy = np.sum(s**2, axis=1)
    if not energy.all():
        raise ValueError(
            f"SI-SDR is not defined for a silent reference. Silent rows: {np.flatnonzero(energy == 0)[:10].tolist()}"
        )
    target = (np.sum(s_hat * s, axis=1) / energy)[:, None] * s  # alpha s, (n, samples)
    kept, lost = np.sum(target**2, axis=1), np.sum((target - s_hat) ** 2, axis=1)
    return _decibels(kept, lost)


def psnr(reference, estimate, data_range=2.0):
    """Peak signal-to-noise ratio, eq. (2).

    Args:
        reference: (n, ...) float, images, videos or waveforms.
        estimate: the same shape.
        data_range: the largest value less the smallest that the data may take: 2 in [-1, 1], 1 in [0, 1].

    Returns:
        float64 (n,) in dB, higher is better; infinity where both are equal.
    """
    if not data_range > 0:
        raise ValueError(f"`data_range` must be above 0, 2.0 for data in [-1, 1]. Received: data_range={data_range}")
    x, x_hat = as_pairs(reference, estimate)
    return _decibels(float(data_range) ** 2, np.mean((x - x_hat) ** 2, axis=1))


def as_pairs(reference, estimate):
    """Both as float64 `(n, values)`, after the checks that the metrics of pairs share."""
    reference, estimate = np.asarray(reference, "float64"), np.asarray(estimate, "float64")
    if reference.shape != estimate.shape or reference.ndim < 2 or reference.size == 0:
        raise ValueError(
            "`reference` and `estimate` must have one shape (n, ...), and not be empty; one example is (1, ...). "
            f"Received shapes: {reference.shape} and {estimate.shape}"
        )
    pair = [signal.reshape(len(signal), -1) for signal in (reference, estimate)]
    for name, signal in zip(("reference", "estimate"), pair):
        if not np.isfinite(signal).all():
            bad = np.count_nonzero(~np.isfinite(signal).all(axis=1))
            raise ValueError(f"`{name}` must be finite: {bad} of {len(signal)} examples hold NaN or infinity.")
    return pair


def _decibels(kept, lost):
    # In this order 0 / 0, a silent estimate, is -infinity, and x / 0, a perfect one, infinity.
    kept, lost = np.broadcast_arrays(kept, lost)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(kept == 0, -np.inf, 10.0 * np.log10(kept / lost))
