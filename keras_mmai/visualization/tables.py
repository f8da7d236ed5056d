"""Signals of several kinds in one table."""

import textwrap

import numpy as np
from matplotlib.figure import Figure

from keras_mmai.models.door import check_generator
from keras_mmai.visualization.figures import DPI, INK, PALETTE, QUIET, check_path, save
from keras_mmai.visualization.sounds import paint_spectrogram
from keras_mmai.visualization.tiles import as_pixels


def signal_table(cells, rows=None, columns=None, sample_rate=None, title=None, path=None):
    """Images, videos (their middle frame), waveforms (as spectrograms) and texts side by side.

    Args:
        cells: list of rows, lists of one signal each: (h, w, 1 | 3) float in [-1, 1], (frames, h, w, 1 | 3),
            (samples, 1), a string or a number; None stays blank, and any other array of up to four axes is drawn as
            lines or as the mean over its channels.
        rows, columns: strings, written left of the rows and above the columns.
        sample_rate: samples per second, of the waveforms, or a list of one for each row; None: they are lines.
        title: one line above all.
        path: where to save a PNG.

    Raises:
        ValueError: on an empty table, names of another number, or an array of more than four axes.
    """
    num_columns = max((len(row) for row in cells), default=0)
    if not num_columns:
        raise ValueError(f"`cells` is a list of rows of signals. Received: {cells!r:.200}")
    rates = sample_rate if isinstance(sample_rate, list | tuple) else [sample_rate] * len(cells)
    sizes = ("rows", rows, len(cells)), ("columns", columns, num_columns), ("sample_rate", rates, len(cells))
    for argument, names, number in sizes:
        if names is not None and len(names) != number:
            raise ValueError(f"`{argument}` must be one for each. Received {len(names)} for {number}.")
    figure = Figure(figsize=(0.4 + 0.95 * num_columns, 0.4 + 0.95 * len(cells)), dpi=DPI, layout="constrained")
    panels = figure.subplots(len(cells), num_columns, squeeze=False)
    for i, row in enumerate(cells):
        for j, panel in enumerate(panels[i]):
            draw_signal(panel, row[j] if j < len(row) else None, rates[i])
            if columns is not None and i == 0:
                panel.set_title(str(columns[j]), fontsize=7.5, color=INK)
        if rows is not None:
            panels[i, 0].set_ylabel(str(rows[i]), fontsize=7.5, color=INK, rotation=0, ha="right", va="center")
    if title:
        figure.suptitle(title, fontsize=9.5, color=INK, x=0.02, ha="left")
    return save(figure, path)


def filling_table(generator, example, num_joint=3, seed=0, sample_rate=None, title=None, path=None, **options):
    """What is made of every part of one example: a column for each task, its rows the modalities.

    Args:
        generator: a `MultimodalGenerator`; its tasks that fill the example up are drawn, first those of which least is
            given.
        example: dict by modality of one real signal (1, ...) each, or a list of one text: the first column.
        num_joint: int, samples of nothing, which are the last columns where there is such a task.
        seed: int, of `generate`.
        sample_rate: samples per second of waveforms whose tokenizer does not know it.
        title, path: see `signal_table`.
        options: of `generate`, such as steps. Of a dict of guidance each task takes what can guide it.

    Raises:
        ValueError: where no task of the generator is of just these modalities, or on another path than of a PNG.
    """
    check_generator(generator, "generator")
    check_path(path)
    tasks = [task for task in generator.tasks.values() if set(task[0] + task[1]) == set(example)]
    if not tasks:
        raise ValueError(f"No task fills {sorted(example)} up. The tasks are {generator.tasks}")
    columns, titles, guidance = [example], ["recorded"], options.get("guidance")
    for given, want in sorted(tasks, key=lambda task: len(task[0]) or len(example)):
        known = {name: example[name] for name in given}
        if guidance is not None:
            options["guidance"] = generator.guiding(given, want, guidance)
        made = generator.generate(known, want, num_samples=None if given else num_joint, seed=seed, **options)
        columns += [
            {**known, **{name: x[i : i + 1] for name, x in made.items()}} for i in range(1 if given else num_joint)
        ]
        titles += ["of " + "\nand ".join(given)] if given else ["of nothing"] * num_joint
    cells = [[column[name][0] for column in columns] for name in example]
    rates = [generator.modality(name).sample_rate or sample_rate for name in example]
    return signal_table(cells, list(example), titles, rates, title, path)


def draw_signal(panel, signal, sample_rate=None):
    """One signal of `signal_table`, without axes."""
    panel.set_xticks(())
    panel.set_yticks(())
    panel.spines[:].set_visible(False)
    if signal is None:
        return
    if np.ndim(signal) == 0:
        text = textwrap.fill(str(signal), 11)  # as wide as a panel
        panel.text(0.5, 0.5, text, ha="center", va="center", fontsize=9, color=INK)
        panel.spines[:].set_visible(True)
        panel.spines[:].set_color(QUIET)
        return
    signal = np.asarray(signal)
    if signal.ndim > 4:
        raise ValueError(f"A signal has at most four axes, or is a text. Received: shape {signal.shape}")
    if signal.ndim == 4:
        signal = signal[len(signal) // 2]
    if signal.ndim == 3 and signal.shape[-1] in (1, 3):
        panel.imshow(as_pixels(signal, 1), interpolation="nearest")
    elif signal.ndim == 3:
        panel.imshow(signal.mean(axis=-1), cmap="viridis", interpolation="nearest")
    elif signal.ndim == 2 and signal.shape[-1] == 1 and sample_rate:
        paint_spectrogram(panel, signal[:, 0], sample_rate)
    else:
        panel.plot(signal, color=PALETTE[0], linewidth=0.8)
