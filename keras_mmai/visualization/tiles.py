"""Images as tiles of one canvas, in whole pixels."""

import keras
import numpy as np
from matplotlib.figure import Figure

from keras_mmai.visualization.figures import DPI, INK, INVALID, PAPER


def as_images(images, name, axes):
    """`images` as numpy, after the checks that all pictures share."""
    images = keras.ops.convert_to_numpy(images)
    if images.ndim != axes.count(",") + 1 or images.shape[-1] not in (1, 3):
        raise ValueError(
            f"`{name}` must be {axes}, channels last, with 1 (grey) or 3 (RGB) channels. Received shape: {images.shape}"
        )
    if images.size == 0:
        raise ValueError(f"`{name}` are empty. Received shape: {images.shape}")
    if not np.issubdtype(images.dtype, np.floating):
        raise ValueError(
            f"`{name}` must be float in [-1, 1]; 0...255 is brought there by `images / 127.5 - 1`. "
            f"Received dtype: {images.dtype}"
        )
    return images


def as_pixels(image, scale):
    """(h, w, 1 | 3) in [-1, 1] to uint8 (h * scale, w * scale, 3), each pixel a square of `scale`."""
    valid = np.isfinite(image).all(axis=-1, keepdims=True)
    pixels = np.rint((np.clip(np.where(valid, image, 0.0), -1.0, 1.0) + 1.0) * 127.5)
    pixels = np.where(valid, pixels, INVALID).astype("uint8")  # one channel broadcasts to three
    return pixels.repeat(scale, axis=0).repeat(scale, axis=1)


def tiles(rows, above=None, left=None, title=None):
    """Rows of images on one canvas, laid out in whole pixels so that small images stay crisp."""
    h, w = rows[0][0].shape[:2]
    scale = max(1, round(84 / max(h, w)))
    gap, margin, text = 4, 12, 24
    width, height = w * scale + gap, h * scale + gap
    left_margin = margin + (9 * max(len(str(name)) for name in left) + 8 if left is not None else 0)
    top = margin + (34 if title else 0)
    bottoms = []
    for i in range(len(rows)):
        top += text if above is not None and len(above[i]) else 0
        bottoms.append(top := top + height)
    canvas_width = left_margin + max(width * max(len(row) for row in rows) - gap, 13 * len(title or "")) + margin
    canvas = np.full((top - gap + margin, canvas_width, 3), 255, "uint8")

    figure = Figure(figsize=(canvas.shape[1] / DPI, canvas.shape[0] / DPI), dpi=DPI, facecolor=PAPER)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for i, row in enumerate(rows):
        y = bottoms[i] - height
        for j, image in enumerate(row):
            x = left_margin + j * width
            canvas[y : y + h * scale, x : x + w * scale] = as_pixels(image, scale)
        for j, label in enumerate(above[i] if above is not None else ()):
            x = left_margin + j * width + w * scale / 2
            axes.text(x, y - 5, str(label), ha="center", va="baseline", fontsize=7.5, color=INK)
        if left is not None:
            axes.text(
                left_margin - 8, y + h * scale / 2, str(left[i]), ha="right", va="center", fontsize=7.5, color=INK
            )
    if title:
        axes.text(left_margin, margin + 18, title, ha="left", va="baseline", fontsize=9.5, color=INK)
    axes.imshow(canvas, interpolation="nearest", aspect="auto")
    return figure
