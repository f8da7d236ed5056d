"""What a model has learned at each noise level."""

import numpy as np
from matplotlib.figure import Figure

from keras_mmai.models.door import check_count, check_generator
from keras_mmai.visualization.figures import DPI, INK, PALETTE, check_path, quiet_axes, save


def noise_level_losses(model, signals, given=(), num_levels=10, seed=0, batch_size=100, path=None):
    """The loss of each modality at each noise level, given the others or not.

    Of latents it is the mean squared error of what the process predicts, of ids the term of the bound in nats per id.
    Their mean over the levels estimates the loss of this task at uniform times, before the modality's `weight`.

    Args:
        model: a `MultimodalGenerator`.
        signals: dict by modality of signals (n, ...).
        given: names of those that are given, without noise; the others have noise of one level all.
        num_levels: int; the levels are the middles of as many equal parts of [0, 1].
        seed: int, of the noise, the same at each level.
        batch_size: of `predict`.
        path: where to save a PNG.

    Returns:
        dict: "levels" float (num_levels,); "losses" and their "standard_errors" over the examples, float (num_levels,)
        by name; "figure".

    Raises:
        ValueError: on names in `given` that are not among the signals, or as `MultimodalGenerator.losses` does.
    """
    check_path(path)
    check_generator(model, "model")
    check_count(num_levels, "num_levels")
    unknown = sorted(set(given) - set(signals))
    if isinstance(given, str) or unknown:
        raise ValueError(f"`given` are names among {sorted(signals)}. Received: {given!r}")
    signals = {name: model.modality(name).encode(x, batch_size) for name, x in signals.items()}  # once for all levels
    clean = {name: signals[name] for name in given}
    noisy = {name: x for name, x in signals.items() if name not in clean}
    levels = (np.arange(num_levels) + 0.5) / num_levels
    each = [model.losses(noisy, float(t), clean, seed=seed, batch_size=batch_size) for t in levels]
    each = {name: np.stack([losses[name] for losses in each]) for name in noisy}  # (levels, n)
    result = {
        "levels": levels,
        "losses": {name: x.mean(axis=1) for name, x in each.items()},
        "standard_errors": {name: x.std(axis=1) / np.sqrt(x.shape[1]) for name, x in each.items()},
    }
    result["figure"] = save(_figure(result), path)
    return result


def _figure(result):
    names = list(result["losses"])
    figure = Figure(figsize=(0.5 + 2.6 * len(names), 2.4), dpi=DPI, layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for i, (panel, name) in enumerate(zip(panels, names)):
        bars = 2 * result["standard_errors"][name]
        panel.errorbar(result["levels"], result["losses"][name], bars, color=PALETTE[i % len(PALETTE)], linewidth=1.4)
        panel.set_title(name, fontsize=9, color=INK, loc="left")
        panel.set_xlim(0.0, 1.0)
        panel.set_ylim(bottom=0.0)
        quiet_axes(panel, "noise level t")
    panels[0].set_ylabel("loss", fontsize=8, color=INK)
    return figure
