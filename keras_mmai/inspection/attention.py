"""Where a modality looks while it is generated, and whether that matters."""

import numpy as np
from matplotlib.figure import Figure

from keras_mmai.models.door import check_count, check_generator
from keras_mmai.visualization.figures import DPI, INK, check_path, save
from keras_mmai.visualization.tables import draw_signal

LEVELS = (0.9, 0.7, 0.5, 0.3)
MOST = 8  # examples in the picture


def attention_map(
    model,
    sample,
    source,
    target,
    levels=LEVELS,
    share=0.2,
    num_random=8,
    seed=0,
    batch_size=100,
    path=None,
):
    """How much `target` attends to each token of `source` while it is generated, checked by deletion.

    Attention explains nothing by itself. So the tokens of the source that are attended to most are taken away, and as
    many by chance: only where the first hurts the target's loss more does the map show what matters. The picture says
    which. (A model that never lacked single tokens in training may be hurt by their absence itself.)

    Args:
        model: a `MultimodalGenerator`.
        sample: dict by modality of signals (n, ...), `source` and `target` among them; all are given but the target.
        source, target: names of modalities.
        levels: noise levels of the target in (0, 1], over which the mean is taken.
        share: in (0, 1), of the source's tokens that are taken away; at least one is, and at least one stays.
        num_random: int, draws of as many tokens by chance.
        seed: int, of the noise and the draws.
        batch_size: of `predict`.
        path: where to save a PNG.

    Returns:
        dict: "map" (n, *grid) float32, of sum 1 for each example; "loss" by "whole", "attended" and "random", the
        target's mean loss with nothing, the most attended or random tokens of the source taken away; "difference" of
        attended and random, and its "standard_error" over the examples; "explains", whether the difference is above two
        of them, which one example can't tell; "figure".

    Raises:
        ValueError: on names that are not in `sample`, a source of one token, or levels and a share out of range.
    """
    check_path(path)
    check_generator(model, "model")
    if source == target:
        raise ValueError(f"`source` and `target` are two modalities. Received: {source!r} twice")
    check_count(num_random, "num_random")
    if not 0 < share < 1 or len(levels) < 1 or not all(0 < t <= 1 for t in levels):
        raise ValueError(f"`share` is in (0, 1), `levels` are in (0, 1]. Received: share={share}, levels={levels}")
    model.modality(source)
    n = model.network.spaces[source].num_tokens
    if n < 2:
        raise ValueError(f"`source` needs more than one token, for a map. Received: {source!r}, of one")
    sample = {name: model.modality(name).encode(x, batch_size) for name, x in sample.items()}  # once for all levels
    options = dict(seed=seed, batch_size=batch_size)
    maps = np.mean([model.attention(sample, source, target, t, **options) for t in levels], axis=0)
    grid = maps.shape[1:]
    flat = maps.reshape(len(maps), -1)
    flat = flat / np.maximum(flat.sum(axis=1, keepdims=True), 1e-12)
    number = min(max(1, round(share * n)), n - 1)

    given = {name: signals for name, signals in sample.items() if name != target}

    def loss(gone):
        """The target's loss without the tokens `gone`, (rows, number)."""
        here = np.ones(flat.shape, bool)
        if gone is not None:
            np.put_along_axis(here, gone, False, axis=1)
        present = {source: here.reshape(-1, *grid)}
        return np.mean(
            [model.losses({target: sample[target]}, t, given, present, **options)[target] for t in levels], axis=0
        )

    random = np.random.RandomState(seed)
    whole, attended = loss(None), loss(np.argsort(-flat, axis=1)[:, :number])
    by_chance = np.mean([loss(random.rand(*flat.shape).argsort(1)[:, :number]) for _ in range(num_random)], axis=0)
    more = attended - by_chance
    error = float(np.std(more) / np.sqrt(len(more)))
    losses = {"whole": whole, "attended": attended, "random": by_chance}
    result = {
        "map": flat.reshape(-1, *grid).astype("float32"),
        "loss": {name: float(value.mean()) for name, value in losses.items()},
        "difference": float(more.mean()),
        "standard_error": error,
        "explains": len(more) > 1 and bool(more.mean() > 2 * error),
    }
    shown = model.decode({source: sample[source][:MOST]})[source]
    rate = model.modality(source).sample_rate
    result["figure"] = save(_figure(result, shown, rate, source, target, number), path)
    return result


def _figure(result, signals, sample_rate, source, target, number):
    maps = result["map"][:MOST]
    figure = Figure(figsize=(0.6 + 1.1 * len(maps), 3.0), dpi=DPI, layout="constrained")
    panels = figure.subplots(2, len(maps), squeeze=False)
    for (above, below), signal, heat in zip(panels.T, signals, maps):
        draw_signal(above, signal, sample_rate)
        if heat.ndim == 3:
            heat = heat.mean(axis=0)  # of a video, over time
        below.imshow(np.atleast_2d(heat), cmap="viridis", vmin=0.0, interpolation="nearest", aspect="auto")
        below.set_xticks(())
        below.set_yticks(())
    loss = result["loss"]
    verdict = "what matters" if result["explains"] else "NOT what matters"
    figure.suptitle(
        f"Where {target} looks in {source}: {verdict}, by deletion\n"
        f"loss {loss['whole']:.3f}; without the {number} most attended {loss['attended']:.3f}, without {number} by "
        f"chance {loss['random']:.3f} (difference {result['difference']:.3f} ± {result['standard_error']:.3f})",
        fontsize=8,
        color=INK,
        x=0.01,
        ha="left",
    )
    return figure
