"""WAV files of 16-bit PCM, read and written by the standard library."""

import os
import wave
from pathlib import Path

import numpy as np

SCALE = 32768.0  # 2^15: 16-bit integers to [-1, 1) without loss


def read_wav(path, sample_rate):
    """Reads a WAV file of 16-bit PCM.

    Args:
        path: the file.
        sample_rate: int, the samples per second that are expected.

    Returns:
        float32 `(samples, channels)` in [-1, 1): the integers divided by 32768.

    Raises:
        ValueError: if the file has another sample rate, is not 16-bit PCM, or is damaged.
    """
    try:
        with wave.open(os.fspath(path), "rb") as file:
            channels, width, rate, expected = file.getparams()[:4]
            data = file.readframes(expected)
    except (wave.Error, EOFError) as error:
        raise ValueError(
            f"{path} is not a WAV file of PCM, or is damaged: {str(error) or 'it ends too early'}."
        ) from error
    if width != 2:
        raise ValueError(f"{path} has {8 * width} bits per sample, expected 16. Convert it to 16-bit PCM first.")
    if rate != sample_rate:
        raise ValueError(
            f"{path} has a sample rate of {rate} Hz, expected {sample_rate} Hz. Resample the file first, or give "
            f"`sample_rate={rate}` and resample the array."
        )
    if len(data) != expected * channels * 2:
        raise ValueError(f"{path} ends too early: {len(data) // (channels * 2)} of {expected} samples are there.")
    return (np.frombuffer(data, "<i2").reshape(-1, channels) / SCALE).astype("float32")  # (samples, channels)


def write_wav(path, x, sample_rate):
    """Writes a WAV file of 16-bit PCM, beside its place and then moved: there is all of it or nothing.

    What `read_wav` gives back differs by at most 1/32768 (at +1; elsewhere by half of that, and not at all for what
    was read from 16 bits).

    Args:
        path: the file; its folder is made if needed.
        x: float `(samples, channels)` in [-1, 1].
        sample_rate: int, samples per second.
    """
    x = np.asarray(x)
    if x.ndim != 2 or x.size == 0:
        raise ValueError(f"`x` must be (samples, channels), and not empty; mono is (samples, 1). Received: {x.shape}")
    if not np.issubdtype(x.dtype, np.floating):
        raise ValueError(f"`x` must be float in [-1, 1]; 16-bit integers are divided by 32768. Received: {x.dtype}")
    if not np.abs(x).max() <= 1.0:  # so that NaN fails too
        raise ValueError(
            f"`x` must be in [-1, 1] and finite; `np.clip(x, -1, 1)` if it may clip. "
            f"Received values from {x.min():.4g} to {x.max():.4g}"
        )
    if sample_rate < 1 or sample_rate != int(sample_rate):
        raise ValueError(f"`sample_rate` must be a whole number of Hz, at least 1. Received: {sample_rate}")
    integers = np.minimum(np.rint(x.astype("float64") * SCALE), SCALE - 1.0).astype("<i2")  # (samples, channels)

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(beside, "wb") as file:
            with wave.open(file, "wb") as sound:
                sound.setnchannels(x.shape[1])
                sound.setsampwidth(2)
                sound.setframerate(int(sample_rate))
                sound.writeframes(integers.tobytes())
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
