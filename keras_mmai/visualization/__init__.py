"""Pictures of what a model makes and of how it learns, as matplotlib figures.

Every function returns a `matplotlib.figure.Figure` and, given `path`, also writes it as a PNG; `save_gif` writes a
file alone, and `codebook_report` returns its figure among numbers. Figures are built without pyplot: no global state,
no window, safe in threads and callbacks. Images are `(n, h, w, 1 | 3)` in [-1, 1], videos
`(n, frames, h, w, 1 | 3)`, waveforms `(n, samples, 1)`; `signal_table` takes all of them, one by one, and
`filling_table` draws what a generator of several modalities makes of each.
"""

from keras_mmai.visualization.codebook import codebook_report, codebook_usage
from keras_mmai.visualization.curves import loss_curves
from keras_mmai.visualization.images import denoising_strip, image_grid, reconstructions
from keras_mmai.visualization.sounds import spectrograms
from keras_mmai.visualization.tables import filling_table, signal_table
from keras_mmai.visualization.videos import filmstrip, save_gif

__all__ = [
    "codebook_report",
    "codebook_usage",
    "denoising_strip",
    "filling_table",
    "filmstrip",
    "image_grid",
    "loss_curves",
    "reconstructions",
    "save_gif",
    "signal_table",
    "spectrograms",
]
