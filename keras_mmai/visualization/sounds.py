"""Waveforms as spectrograms."""

import keras
import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from keras_mmai.visualization.figures import DPI, INK, INVALID, quiet_axes, save

WINDOW = 0.032  # seconds: short enough for consonants, long enough to part the harmonics of a voice
QUIETEST = -80.0  # dB


def spectrograms(waveforms, sample_rate, titles=None, num_columns=2, path=None):
    """A panel for each waveform: seconds to the right, kHz upwards, brightness in dB below a sine of amplitude 1.

    All panels share one scale, -80 to 0 dB, so that they can be compared; NaN is painted red.

    Args:
        waveforms: (n, samples, 1) float in [-1, 1].
        sample_rate: samples per second.
        titles: n strings or numbers, written above the panels.
        num_columns: panels in a row.
        path: where to save a PNG.
    """
    waveforms = _checked(waveforms, sample_rate, titles, num_columns)
    n = len(waveforms)
    num_columns = min(n, num_columns)
    num_rows = -(-n // num_columns)
    figure = Figure(figsize=(0.9 + 3.1 * num_columns, 0.35 + 1.6 * num_rows), dpi=DPI, layout="constrained")
    panels = figure.subplots(num_rows, num_columns, squeeze=False, sharex=True, sharey=True)
    for i, panel in enumerate(panels.flat):
        if i >= n:
            panel.set_axis_off()
            continue
        image = paint_spectrogram(panel, waveforms[i, :, 0], sample_rate)
        panel.set_title("" if titles is None else str(titles[i]), fontsize=9, color=INK, loc="left")
        is_lowest = i // num_columns == num_rows - 1
        quiet_axes(panel, "seconds" if is_lowest else "")
        panel.tick_params(labelbottom=is_lowest)
        if i % num_columns == 0:
            panel.set_ylabel("kHz", fontsize=8, color=INK)
    bar = figure.colorbar(image, ax=panels, fraction=0.05, pad=0.02)
    bar.set_label("dB", fontsize=8, color=INK)
    bar.ax.tick_params(labelsize=7.5, labelcolor=INK)
    bar.outline.set_visible(False)
    return save(figure, path)


def _checked(waveforms, sample_rate, titles, num_columns):
    waveforms = keras.ops.convert_to_numpy(waveforms)
    if waveforms.ndim != 3 or waveforms.shape[-1] != 1 or waveforms.size == 0:
        raise ValueError(f"`waveforms` must be (n, samples, 1), and not empty. Received shape: {waveforms.shape}")
    if not np.issubdtype(waveforms.dtype, np.floating):
        raise ValueError(f"`waveforms` must be float in [-1, 1]. Received dtype: {waveforms.dtype}")
    if sample_rate <= 0 or num_columns < 1:
        raise ValueError(
            "`sample_rate` must be above 0 and `num_columns` at least 1. "
            f"Received: sample_rate={sample_rate}, num_columns={num_columns}"
        )
    if titles is not None and len(titles) != len(waveforms):
        raise ValueError(
            f"`titles` must be one for each waveform. Received {len(titles)} for {len(waveforms)} waveforms."
        )
    return waveforms


def paint_spectrogram(panel, waveform, sample_rate):
    return panel.imshow(
        np.ma.masked_invalid(_decibels(waveform.astype("float64"), sample_rate).T),
        cmap=colormaps["magma"].with_extremes(bad=np.array(INVALID) / 255.0),
        vmin=QUIETEST,
        vmax=0.0,
        origin="lower",
        aspect="auto",
        extent=(0.0, len(waveform) / sample_rate, 0.0, sample_rate / 2000.0),
        interpolation="nearest",
    )


def _decibels(waveform, sample_rate):
    """(samples,) to (frames, bins), at least QUIETEST, 0 for a sine of amplitude 1."""
    fft_length = 2 ** max(3, round(np.log2(WINDOW * sample_rate)))
    window = np.hanning(fft_length + 1)[:-1]
    padded = np.pad(waveform, fft_length // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, fft_length)[:: fft_length // 4]
    with np.errstate(invalid="ignore"):  # of infinity, which becomes NaN and is painted
        amplitude = np.abs(np.fft.rfft(frames * window)) * (2.0 / window.sum())
        return 20.0 * np.log10(np.maximum(amplitude, 10.0 ** (QUIETEST / 20.0)))
