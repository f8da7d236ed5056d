"""How a model learns: its losses, and the use of its codebook."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from keras_mmai.visualization.figures import DPI, INK, PALETTE, QUIET, quiet_axes, save


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
        quiet_axes(panel, "epoch")
        _scale_to(panel)
    for panel in panels[len(quantities) :]:
        panel.set_axis_off()
    _legend(figure, runs)
    return save(figure, path)


def _colors(n):
    return [PALETTE[i % len(PALETTE)] for i in range(n)]


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
