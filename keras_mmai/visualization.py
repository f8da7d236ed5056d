"""Pictures of what a model makes and of how it learns, as matplotlib figures.

Every function returns a `matplotlib.figure.Figure` and, given `path`, also writes it as a PNG. Figures are built
without pyplot: no global state, no window, safe in threads and callbacks. Images are `(n, h, w, 1 | 3)` in [-1, 1].
"""

import os
from pathlib import Path

import keras
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

DPI = 144
INK, QUIET, PAPER = "#222222", "#8a8a8a", "#ffffff"
PALETTE = ("#2f5d8a", "#c8553d", "#4f8a5b", "#8d6a9f", "#c99a2e", "#5b7f8c")
INVALID = (200, 85, 61)  # NaN pixels, so that a diverged sampler is seen and does not end a training


def image_grid(images, num_columns=10, labels=None, title=None, path=None):
    """Images side by side, row by row.

    Args:
        images: (n, h, w, 1 | 3) float in [-1, 1]; values outside are clipped.
        num_columns: images in a row.
        labels: n strings or numbers, written above the images.
        title: one line above all.
        path: where to save a PNG.
    """
    images = _as_images(images, "images", "(n, h, w, c)")
    if num_columns < 1:
        raise ValueError(f"`num_columns` must be at least 1. Received: num_columns={num_columns}")
    if labels is not None and len(labels) != len(images):
        raise ValueError(f"`labels` must be one for each image. Received {len(labels)} for {len(images)} images.")
    rows = [images[i : i + num_columns] for i in range(0, len(images), num_columns)]
    above = None
    if labels is not None:
        above = [labels[i : i + num_columns] for i in range(0, len(images), num_columns)]
    return _save(_tiles(rows, above=above, title=title), path)


def reconstructions(originals, reconstructions, path=None):
    """Originals in the upper row, what a tokenizer made of them in the lower.

    Args:
        originals: (n, h, w, 1 | 3) float in [-1, 1].
        reconstructions: the same shape and range.
        path: where to save a PNG.
    """
    originals = _as_images(originals, "originals", "(n, h, w, c)")
    reconstructions = _as_images(reconstructions, "reconstructions", "(n, h, w, c)")
    if originals.shape != reconstructions.shape:
        raise ValueError(
            "There must be one reconstruction for each original. "
            f"Received shapes: originals {originals.shape}, reconstructions {reconstructions.shape}"
        )
    return _save(_tiles([originals, reconstructions], left=["original", "reconstruction"]), path)


def denoising_strip(trajectory, times=None, labels=None, path=None):
    """The way of a sampler from noise to data: a row for each sample, a column for each time.

    Args:
        trajectory: (steps, n, h, w, 1 | 3) float in [-1, 1], in the sampler's order; values outside are clipped.
        times: (steps,) in [0, 1], written above the columns; 1 = noise, 0 = data.
        labels: n strings or numbers, written left of the rows.
        path: where to save a PNG.
    """
    trajectory = _as_images(trajectory, "trajectory", "(steps, n, h, w, c)")
    steps, n = trajectory.shape[:2]
    if times is not None and len(times) != steps:
        raise ValueError(f"`times` must be one for each step. Received {len(times)} for {steps} steps.")
    if labels is not None and len(labels) != n:
        raise ValueError(f"`labels` must be one for each sample. Received {len(labels)} for {n} samples.")
    above = None
    if times is not None:
        names = [f"{float(time):.2f}" for time in times]
        names[0] = f"t = {names[0]}"
        above = [names] + [()] * (n - 1)
    return _save(_tiles(trajectory.swapaxes(0, 1), above=above, left=labels), path)


def loss_curves(history, path=None):
    """One panel for each quantity of a training: training solid, validation dashed, a colour for each run.

    Args:
        history: `model.fit(...).history`, that is `{quantity: [value of each epoch]}`, where `val_` marks validation;
            or `{run: history}` to compare several.
        path: where to save a PNG.
    """
    if not history:
        raise ValueError("`history` is empty. Give `model.fit(...).history`, after at least one epoch.")
    runs = history if all(isinstance(value, dict) for value in history.values()) else {None: history}
    quantities = list(dict.fromkeys(name.removeprefix("val_") for run in runs.values() for name in run))
    if not quantities or any(np.ndim(values) != 1 for run in runs.values() for values in run.values()):
        raise ValueError(
            "`history` must be {quantity: [value of each epoch]}, as `model.fit(...).history` is, or {run: history}. "
            f"Received: {history!r:.200}"
        )
    num_columns = min(len(quantities), 3)
    num_rows = -(-len(quantities) // num_columns)
    figure = Figure(figsize=(0.5 + 3.1 * num_columns, 0.35 + 2.35 * num_rows), dpi=DPI, layout="constrained")
    panels = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    for panel, quantity in zip(panels, quantities):
        for color, history_of_run in zip(_colors(len(runs)), runs.values()):
            for name, dashes in ((quantity, "-"), (f"val_{quantity}", "--")):
                values = np.asarray(history_of_run.get(name, ()), "float64")
                epochs = np.arange(1, len(values) + 1)
                # A single epoch is a point: a line of one vertex would be invisible.
                marker = "o" if len(values) == 1 else None
                panel.plot(epochs, values, linestyle=dashes, color=color, linewidth=1.4, marker=marker, markersize=4)
        panel.set_title(quantity.replace("_", " "), fontsize=9, color=INK, loc="left")
        _quiet_axes(panel, "epoch")
        _scale_to(panel)
    for panel in panels[len(quantities) :]:
        panel.set_axis_off()
    _legend(figure, runs)
    return _save(figure, path)


def codebook_usage(counts, path=None):
    """How evenly a codebook is used: the share of each code, most used first, against even use.

    The title gives the codes in use and the perplexity exp(-sum p log p): the number of codes that would carry as much
    information if they were used evenly.

    Args:
        counts: (k,) how often each code was chosen.
        path: where to save a PNG.
    """
    counts = np.asarray(counts, "float64")
    if counts.ndim != 1 or not np.isfinite(counts).all() or (counts < 0).any() or counts.sum() == 0:
        raise ValueError(
            "`counts` must be (k,), how often each code was chosen: not negative, not all zero; "
            "`numpy.bincount(codes.ravel(), minlength=k)` gives it. "
            f"Received shape: {counts.shape}, sum: {counts.sum():g}"
        )
    shares = np.sort(counts / counts.sum())[::-1]
    used = shares[shares > 0]
    perplexity = np.exp(-np.sum(used * np.log(used)))

    figure = Figure(figsize=(5.0, 2.6), dpi=DPI, layout="constrained")
    panel = figure.subplots()
    k = len(shares)
    panel.stairs(100 * shares, np.arange(k + 1), fill=True, color=PALETTE[0])
    panel.axhline(100 / k, color=PALETTE[1], linewidth=1.2, linestyle="--", label=f"even use, 1/{k}")
    panel.set_xlim(0, k)
    panel.set_title(f"{len(used)} of {k} codes in use · perplexity {perplexity:.1f}", fontsize=9, color=INK, loc="left")
    panel.set_ylabel("share of tokens, %", fontsize=8, color=INK)
    _quiet_axes(panel, "code, most used first")
    panel.legend(fontsize=8, frameon=False, labelcolor=INK)
    return _save(figure, path)


def _as_images(images, name, axes):
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


def _as_pixels(image, scale):
    """(h, w, 1 | 3) in [-1, 1] to uint8 (h * scale, w * scale, 3), each pixel a square of `scale`."""
    valid = np.isfinite(image).all(axis=-1, keepdims=True)
    pixels = np.rint((np.clip(np.where(valid, image, 0.0), -1.0, 1.0) + 1.0) * 127.5)
    pixels = np.where(valid, pixels, INVALID).astype("uint8")  # one channel broadcasts to three
    return pixels.repeat(scale, axis=0).repeat(scale, axis=1)


def _tiles(rows, above=None, left=None, title=None):
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
            canvas[y : y + h * scale, x : x + w * scale] = _as_pixels(image, scale)
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


def _colors(n):
    return [PALETTE[i % len(PALETTE)] for i in range(n)]


def _quiet_axes(panel, x_label):
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(QUIET)
    panel.tick_params(which="both", labelsize=7.5, color=QUIET, labelcolor=INK)
    panel.set_xlabel(x_label, fontsize=8, color=INK)


def _scale_to(panel):
    """Whole epochs below; a logarithmic axis when the values span a hundredfold, or the tail would look flat."""
    panel.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    panel.set_xlim(0.5, max(len(line.get_xdata()) for line in panel.lines) + 0.5)
    values = np.concatenate([line.get_ydata() for line in panel.lines])
    values = values[np.isfinite(values)]
    if len(values) and values.min() > 0 and values.max() > 100 * values.min():
        panel.set_yscale("log")
    panel.grid(axis="y", color="#e8e8e8", linewidth=0.7)
    panel.set_axisbelow(True)


def _legend(figure, runs):
    """Names what a panel cannot: the colours when there are several runs, the dashes when there is validation."""
    entries = []
    if None not in runs:
        entries += [Line2D([], [], color=color, label=str(name)) for color, name in zip(_colors(len(runs)), runs)]
    if any(name.startswith("val_") for run in runs.values() for name in run):
        color = PALETTE[0] if None in runs else QUIET
        entries += [
            Line2D([], [], color=color, linestyle=dashes, label=label)
            for label, dashes in (("training", "-"), ("validation", "--"))
        ]
    if entries:
        figure.legend(
            handles=entries, loc="outside upper left", ncols=len(entries), fontsize=8, frameon=False, labelcolor=INK
        )


def _save(figure, path):
    if path is None:
        return figure
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"`path` must end in .png; for other formats use the figure's `savefig`. Received: {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written beside and then moved: who watches the file during a training never sees half of it.
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        figure.savefig(beside, format="png")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return figure
