"""Notes of ten pitches, for examples that run with no data folder.

A note of pitch f_k that glides by g octaves in its T seconds is a sum of harmonics h under a decay:

    f(t) = f_k 2^(g t / T),    phi(t) = 2 pi int_0^t f,    x(t) = a exp(-t / tau) sum_h w_h sin(h phi(t) + p_h)      (1)
"""

import numpy as np

PITCHES = 220.0 * 2.0 ** (np.arange(10) / 4.0)  # Hz: 220 to 1047, three semitones apart
NUM_HARMONICS = 4
ATTACK = 0.01  # seconds from silence to full, so that no note begins with a click
ROWS_AT_ONCE = 256  # bounds the memory of the harmonics


def synthetic_audio(n=1000, num_samples=8192, sample_rate=8000, seed=0):
    """Decaying harmonic tones and chirps, labelled by pitch.

    Every other block of ten is of steady tones and the next of chirps, which glide from the pitch up or down by up to
    half an octave. Loudness, decay, weights and phases of four harmonics differ from row to row. Harmonics above half
    the sample rate are left out. Row i depends on `seed` and i, not on n.

    Args:
        n: rows; the labels run 0, 1, ..., 9, 0, 1, ....
        num_samples: samples in a row.
        sample_rate: samples per second, at least 4000, as the highest pitch glides up to 1480 Hz.
        seed: int >= 0.

    Returns:
        `{"waveforms", "labels"}`: float32 `(n, num_samples, 1)` in [-1, 1], and int32 `(n,)`, the index of the pitch
        `220 * 2 ** (label / 4)` Hz.
    """
    if n < 1 or num_samples < 1:
        raise ValueError(f"`n` and `num_samples` must be at least 1. Received: n={n}, num_samples={num_samples}")
    if sample_rate < 4000:
        raise ValueError(
            f"`sample_rate` must be at least 4000 Hz, twice the highest pitch and more. Received: {sample_rate}"
        )
    labels = np.arange(n) % 10
    # Row by row and from RandomState, whose stream numpy froze: more rows do not change those before them.
    draws = np.random.RandomState(seed).uniform(size=(n, 3 + 2 * NUM_HARMONICS))
    glides = np.where(np.arange(n) // 10 % 2 == 1, draws[:, 0] - 0.5, 0.0)  # (n,) octaves
    waveforms = np.empty((n, num_samples, 1), "float32")
    for i in range(0, n, ROWS_AT_ONCE):
        rows = slice(i, i + ROWS_AT_ONCE)
        waveforms[rows, :, 0] = _notes(PITCHES[labels[rows]], glides[rows], draws[rows, 1:], num_samples, sample_rate)
    return {"waveforms": waveforms, "labels": labels.astype("int32")}


def _notes(pitches, glides, draws, num_samples, sample_rate):
    """Equation (1), float64 (n, num_samples); `draws` (n, 2 + 2 harmonics) in [0, 1) decide all but the frequency."""
    seconds = np.arange(num_samples) / sample_rate  # (samples,)
    duration = num_samples / sample_rate
    frequency = pitches[:, None] * 2.0 ** (glides[:, None] * seconds / duration)  # (n, samples)
    turns = np.cumsum(frequency, axis=1) / sample_rate  # phi / 2 pi
    amplitude = 0.4 + 0.5 * draws[:, :1]
    decay = duration * (0.15 + 0.35 * draws[:, 1:2])  # tau
    weights = (0.2 + draws[:, 2 : 2 + NUM_HARMONICS]) / np.arange(1, NUM_HARMONICS + 1)
    weights /= weights.sum(axis=1, keepdims=True)  # so that |x| <= a
    phases = draws[:, 2 + NUM_HARMONICS :]
    x = np.zeros_like(frequency)
    for h in range(1, NUM_HARMONICS + 1):
        harmonic = weights[:, h - 1 : h] * np.sin(2.0 * np.pi * (h * turns + phases[:, h - 1 : h]))
        x += np.where(h * frequency < sample_rate / 2, harmonic, 0.0)
    return amplitude * np.exp(-seconds / decay) * np.minimum(seconds / ATTACK, 1.0) * x
