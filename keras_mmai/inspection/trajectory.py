"""What a signal looks like on its way from noise."""

import numpy as np

from keras_mmai.models.door import check_count, check_generator
from keras_mmai.visualization import signal_table
from keras_mmai.visualization.figures import check_path

MOST = 4  # examples in the picture


def denoising_trajectory(model, given=None, want=None, num_columns=8, path=None, **options):
    """What the network takes the wanted signals to be in each step of `generate`, from the first guess to the last.

    Args:
        model: a `MultimodalGenerator`.
        given, want: as those of `generate`; the first examples have a row for each wanted modality in the picture.
        num_columns: int, the steps that are shown, evenly spread.
        path: where to save a PNG.
        options: of `MultimodalGenerator.trajectory`: known, present, num_samples, steps, guidance, seed, batch_size.

    Returns:
        dict: "times" (steps,), the noise level of each step; "signals", by name a list, one for each step, of signals
        (n, ...); "figure".

    Raises:
        ValueError: as `MultimodalGenerator.generate` does.
    """
    check_path(path)
    check_generator(model, "model")
    check_count(num_columns, "num_columns")
    signals = model.trajectory(given, want, **options)
    num_steps = len(next(iter(signals.values())))
    times = 1.0 - np.arange(num_steps) / num_steps
    shown = np.unique(np.linspace(0, num_steps - 1, min(num_columns, num_steps)).round().astype(int))
    cells, names = [], []
    for i in range(min(len(next(iter(signals.values()))[0]), MOST)):
        for name, steps in signals.items():
            cells.append([steps[k][i] for k in shown])
            names.append(name)
    rates = [model.modality(name).sample_rate for name in names]
    figure = signal_table(cells, names, [f"t = {times[k]:.2f}" for k in shown], rates, path=path)
    return {"times": times, "signals": signals, "figure": figure}
