"""More recordings than there are: the same ones a little later, faster or slower, louder or softer."""

import numpy as np


def vary_waveforms(waveforms, copies=3, delay=512, speed=0.1, gain=0.5, seed=0):
    """The waveforms, and after them changed copies of each, for a model that would learn few recordings by heart.

    A copy is drawn anew for each waveform: it starts up to `delay` samples later, runs up to the share `speed` faster
    or slower (its pitch with it, by linear interpolation), and is up to the share `gain` louder or softer. What then
    lies beyond the last sample is lost, and values are clipped to [-1, 1].

    Args:
        waveforms: (n, samples, channels) float in [-1, 1].
        copies: int >= 0, of each waveform.
        delay: float >= 0, samples.
        speed, gain: floats in [0, 1).
        seed: int >= 0.

    Returns:
        float32 ((1 + copies) n, samples, channels).

    Raises:
        ValueError: on another shape, or a number out of range.
    """
    waveforms = np.asarray(waveforms, "float32")
    if waveforms.ndim != 3:
        raise ValueError(f"Waveforms must be (n, samples, channels). Received shape: {waveforms.shape}")
    if copies < 0 or delay < 0 or not 0 <= speed < 1 or not 0 <= gain < 1:
        raise ValueError(
            "`copies` and `delay` must be at least 0, `speed` and `gain` in [0, 1). Received: "
            f"copies={copies}, delay={delay}, speed={speed}, gain={gain}"
        )
    n, samples, channels = waveforms.shape
    out = np.concatenate([waveforms] * (1 + copies))
    random, time = np.random.RandomState(seed), np.arange(samples)  # its stream is frozen by numpy
    for row in out[n:]:
        later, faster, louder = random.uniform((0, 1 - speed, 1 - gain), (delay, 1 + speed, 1 + gain))
        for c in range(channels):
            row[:, c] = louder * np.interp(faster * (time - later), time, row[:, c], left=0, right=0)
    return np.clip(out, -1.0, 1.0)
