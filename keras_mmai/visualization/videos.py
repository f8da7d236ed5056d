"""Videos: frames side by side, and moving pictures."""

from pathlib import Path

from matplotlib.animation import PillowWriter

from keras_mmai.visualization.figures import save, written_beside
from keras_mmai.visualization.tiles import as_images, tiles

AXES = "(n, frames, h, w, c)"


def filmstrip(videos, labels=None, title=None, path=None):
    """A row for each video, a column for each frame; `videos[:, ::2]` shows every other one.

    Args:
        videos: (n, frames, h, w, 1 | 3) float in [-1, 1]; values outside are clipped.
        labels: n strings or numbers, written left of the rows.
        title: one line above all.
        path: where to save a PNG.
    """
    videos = as_images(videos, "videos", AXES)
    if labels is not None and len(labels) != len(videos):
        raise ValueError(f"`labels` must be one for each video. Received {len(labels)} for {len(videos)} videos.")
    return save(tiles(videos, left=labels, title=title), path)


def save_gif(videos, path, num_columns=8, frames_per_second=10):
    """Writes an endless GIF of videos that play side by side.

    A GIF has at most 256 colours in a frame, so grey is exact and RGB is not, and it holds a frame that repeats the one
    before it as a longer delay.

    Args:
        videos: (n, frames, h, w, 1 | 3) float in [-1, 1]; values outside are clipped.
        path: where to save it, ending in .gif.
        num_columns: videos in a row.
        frames_per_second: at most 50, as players slow down what is faster.
    """
    videos = as_images(videos, "videos", AXES)
    if num_columns < 1:
        raise ValueError(f"`num_columns` must be at least 1. Received: num_columns={num_columns}")
    if not 0 < frames_per_second <= 50:
        raise ValueError(f"`frames_per_second` must be in (0, 50]. Received: frames_per_second={frames_per_second}")
    if Path(path).suffix.lower() != ".gif":
        raise ValueError(f"`path` must end in .gif. Received: {path}")

    def draw(frame):
        return tiles([videos[i : i + num_columns, frame] for i in range(0, len(videos), num_columns)])

    figure = draw(0)
    canvas = figure.axes[0].images[0]
    writer = PillowWriter(fps=frames_per_second)
    with written_beside(path) as beside, writer.saving(figure, beside, dpi=figure.dpi):
        for frame in range(videos.shape[1]):
            canvas.set_data(draw(frame).axes[0].images[0].get_array())
            writer.grab_frame()
