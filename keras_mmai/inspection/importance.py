"""What each given modality tells of a wanted one: Shapley values (Shapley 1953; Lundberg & Lee 2017, equation 4)."""

import itertools
import math

import numpy as np
from matplotlib.figure import Figure

from keras_mmai.models.door import check_generator
from keras_mmai.visualization.figures import DPI, INK, PALETTE, check_path, quiet_axes, save

MOST = 8


def shapley_values(values):
    """{coalition, a frozenset of names: its value, a number or an array} of all coalitions -> {name: Shapley value}."""
    names = sorted(max(values, key=len))
    n, shares = len(names), {}
    for name in names:
        total = 0.0
        for coalition, value in values.items():
            if name not in coalition:
                weight = math.factorial(len(coalition)) * math.factorial(n - len(coalition) - 1) / math.factorial(n)
                total = total + weight * (values[coalition | {name}] - value)
        shares[name] = total
    return shares


def modality_importance(model, signals, target, num_draws=32, seed=0, batch_size=100, path=None):
    """How many nats each given modality adds to the log-likelihood of `target`: its Shapley value over all coalitions.

    The value of a coalition is log p(target | those modalities), the others absent: of a modality of one id, such as a
    label, its log-posterior; else the bound of `MultimodalGenerator.score`, all coalitions with the same noise, and
    differences of bounds can be more than there is to know. The values of all modalities add up to what they tell
    together; what two tell alike is shared between them. The model should have been trained on a task for each
    coalition, as it is without `tasks`.

    Args:
        model: a `MultimodalGenerator`.
        signals: dict by modality of signals (n, ...), `target` among them.
        target: name of a modality of ids.
        num_draws: int, noise levels of the bound.
        seed: int, of its noise.
        batch_size: of `predict`.
        path: where to save a PNG.

    Returns:
        dict: "values" and their "standard_errors" over the examples, by name; "each" by name, float (n,); "coalitions",
        by tuple of names their mean log-likelihood in nats; "figure".

    Raises:
        ValueError: on a target that is not among the signals or is of latents, or on none or more than eight others.
    """
    check_path(path)
    check_generator(model, "model")
    signals = dict(signals)
    if target not in signals:
        raise ValueError(f"`target` is one of `signals`. Received: {target!r} and {sorted(signals)}")
    # once for all coalitions
    signals = {name: model.modality(name).encode(x, batch_size) for name, x in signals.items()}
    truth = signals.pop(target)
    names = sorted(signals)
    if not 1 <= len(names) <= MOST:
        raise ValueError(f"`signals` holds one to {MOST} modalities beside the target. Received: {names}")
    space = model.network.spaces[target]
    single = space.vocabulary is not None and space.num_tokens * space.num_codes == 1
    rows = len(truth)

    def value(coalition):
        present = {name: np.full(rows, name in coalition) for name in names}
        if not single:
            options = dict(num_draws=num_draws, seed=seed, batch_size=batch_size)
            return -model.score({target: truth}, signals, present, **options)["bound"]
        p = model.classify(signals, target, present, batch_size=batch_size)
        ids = np.asarray(truth).reshape(-1)
        return np.log(np.maximum(p[np.arange(rows), ids], 1e-30))

    coalitions = [frozenset(c) for size in range(len(names) + 1) for c in itertools.combinations(names, size)]
    values = {coalition: value(coalition) for coalition in coalitions}
    each = shapley_values(values)
    result = {
        "values": {name: float(x.mean()) for name, x in each.items()},
        "standard_errors": {name: float(x.std() / np.sqrt(rows)) for name, x in each.items()},
        "each": each,
        "coalitions": {tuple(sorted(c)): float(x.mean()) for c, x in values.items()},
    }
    result["figure"] = save(_figure(result, target), path)
    return result


def _figure(result, target):
    names = list(result["values"])
    figure = Figure(figsize=(4.2, 0.9 + 0.4 * len(names)), dpi=DPI, layout="constrained")
    panel = figure.subplots()
    errors = [2 * result["standard_errors"][name] for name in names]
    panel.barh(names, list(result["values"].values()), xerr=errors, color=PALETTE[0], height=0.6)
    panel.axvline(0.0, color=INK, linewidth=0.8)
    quiet_axes(panel, f"nats about {target} (bars: two standard errors)")
    return figure
