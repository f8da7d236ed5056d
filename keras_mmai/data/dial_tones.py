"""The two tones of each key of a telephone, for examples that need a sound of each digit and no data folder.

A digit is a low tone of its row of keys and a high one of its column (ITU-T Q.23), which sound together for a while

    x(t) = a_1 sin(2 pi f_row t + p_1) + a_2 sin(2 pi f_column t + p_2) + noise
"""

import numpy as np

ROWS, COLUMNS = (697.0, 770.0, 852.0, 941.0), (1209.0, 1336.0, 1477.0)  # Hz
KEYS = ("123", "456", "789", " 0 ")
TONES = np.array(
    [
        next((row, column) for row, keys in zip(ROWS, KEYS) for column, key in zip(COLUMNS, keys) if key == digit)
        for digit in "0123456789"
    ]
)  # (10, 2)
RAMP = 0.005  # seconds from silence to full, so that no tone begins with a click


def dial_tones(digits, num_samples=2048, sample_rate=8000, seed=0):
    """Tones of telephone keys, of random phases, levels, noise, beginning and length: half to all of the time.

    Row i depends on `seed`, i and its digit.

    Args:
        digits: ints 0..9, (n,).
        num_samples: samples in a row.
        sample_rate: samples per second, at least 3000, twice the highest tone and more.
        seed: int >= 0.

    Returns:
        float32 (n, num_samples, 1) in [-1, 1].
    """
    digits = np.asarray(digits)
    if (
        digits.ndim != 1
        or digits.dtype.kind not in "iu"
        or (digits.size and not 0 <= digits.min() <= digits.max() < 10)
    ):
        raise ValueError(f"`digits` are ints 0..9 along one axis. Received: {digits!r:.200}")
    if num_samples < 1 or sample_rate < 3000:
        raise ValueError(
            f"`num_samples` must be at least 1 and `sample_rate` 3000 Hz. Received: {num_samples} and {sample_rate}"
        )
    draws = np.random.RandomState(seed).uniform(size=(len(digits), 7, 1))
    noise = np.random.RandomState([seed, 1]).normal(size=(len(digits), num_samples))
    duration = num_samples / sample_rate
    seconds = np.arange(num_samples) / sample_rate
    length = duration * (0.5 + 0.5 * draws[:, 0])
    begin = (duration - length) * draws[:, 1]
    x = np.zeros((len(digits), num_samples))
    for tone in range(2):
        turns = TONES[digits, tone, None] * seconds + draws[:, 2 + tone]
        x += (0.2 + 0.25 * draws[:, 4 + tone]) * np.sin(2 * np.pi * turns)
    x *= np.clip(np.minimum(seconds - begin, begin + length - seconds) / RAMP, 0.0, 1.0)
    x += 0.03 * draws[:, 6] * noise
    return np.clip(x, -1.0, 1.0).astype("float32")[..., None]
