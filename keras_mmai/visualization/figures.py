"""The look of all pictures, and how they reach the disk."""

import contextlib
import os
from pathlib import Path

DPI = 144
INK, QUIET, PAPER = "#222222", "#8a8a8a", "#ffffff"
PALETTE = ("#2f5d8a", "#c8553d", "#4f8a5b", "#8d6a9f", "#c99a2e", "#5b7f8c")
INVALID = (200, 85, 61)  # NaN, so that a diverged sampler is seen and does not end a training


def quiet_axes(panel, x_label):
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(QUIET)
    panel.tick_params(which="both", labelsize=7.5, color=QUIET, labelcolor=INK)
    panel.set_xlabel(x_label, fontsize=8, color=INK)


def check_path(path):
    if path is not None and Path(path).suffix.lower() != ".png":
        raise ValueError(f"`path` must end in .png; for other formats use the figure's `savefig`. Received: {path}")


def save(figure, path):
    """Writes `figure` as a PNG if there is a path, and returns it."""
    if path is None:
        return figure
    check_path(path)
    with written_beside(path) as beside:
        figure.savefig(beside, format="png")
    return figure


@contextlib.contextmanager
def written_beside(path):
    """Gives the name of a file beside `path`, which is then moved there: who watches never sees half of a picture."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
