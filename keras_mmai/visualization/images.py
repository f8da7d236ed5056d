"""Images: samples, reconstructions, and the way of a sampler."""

from keras_mmai.visualization.figures import save
from keras_mmai.visualization.tiles import as_images, tiles


def image_grid(images, num_columns=10, labels=None, title=None, path=None):
    """Images side by side, row by row.

    Args:
        images: (n, h, w, 1 | 3) float in [-1, 1]; values outside are clipped.
        num_columns: images in a row.
        labels: n strings or numbers, written above the images.
        title: one line above all.
        path: where to save a PNG.
    """
    images = as_images(images, "images", "(n, h, w, c)")
    if num_columns < 1:
        raise ValueError(f"`num_columns` must be at least 1. Received: num_columns={num_columns}")
    if labels is not None and len(labels) != len(images):
        raise ValueError(f"`labels` must be one for each image. Received {len(labels)} for {len(images)} images.")
    rows = [images[i : i + num_columns] for i in range(0, len(images), num_columns)]
    above = None
    if labels is not None:
        above = [labels[i : i + num_columns] for i in range(0, len(images), num_columns)]
    return save(tiles(rows, above=above, title=title), path)


def reconstructions(originals, reconstructions, path=None):
    """Originals in the upper row, what a tokenizer made of them in the lower.

    Args:
        originals: (n, h, w, 1 | 3) float in [-1, 1].
        reconstructions: the same shape and range.
        path: where to save a PNG.
    """
    originals = as_images(originals, "originals", "(n, h, w, c)")
    reconstructions = as_images(reconstructions, "reconstructions", "(n, h, w, c)")
    if originals.shape != reconstructions.shape:
        raise ValueError(
            "There must be one reconstruction for each original. "
            f"Received shapes: originals {originals.shape}, reconstructions {reconstructions.shape}"
        )
    return save(tiles([originals, reconstructions], left=["original", "reconstruction"]), path)


def denoising_strip(trajectory, times=None, labels=None, path=None):
    """The way of a sampler from noise to data: a row for each sample, a column for each time.

    Args:
        trajectory: (steps, n, h, w, 1 | 3) float in [-1, 1], in the sampler's order; values outside are clipped.
        times: (steps,) in [0, 1], written above the columns; 1 = noise, 0 = data.
        labels: n strings or numbers, written left of the rows.
        path: where to save a PNG.
    """
    trajectory = as_images(trajectory, "trajectory", "(steps, n, h, w, c)")
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
    return save(tiles(trajectory.swapaxes(0, 1), above=above, left=labels), path)
