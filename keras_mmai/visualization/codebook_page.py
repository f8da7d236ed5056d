"""The page of a codebook's report, laid out in whole pixels so that small patches stay crisp."""

import math

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from keras_mmai.visualization.figures import DPI, INK, PALETTE, PAPER, quiet_axes
from keras_mmai.visualization.tiles import as_pixels

MOST_PLACES = 8
MOST_BARS = 2000  # a histogram of more codes draws as many of them, evenly spread

# pixels
PAGE, MARGIN, TILE, GAP, TILES_LEFT = 1200, 24, 56, 4, 456
PAGE_TITLE, PLACE_TITLE, TILE_TITLE, AXIS_TEXT = 48, 56, 60, 64
OUTSIDE = (232, 232, 232)


def draw_usage(panel, counts):
    """The share of each code, most used first, against even use."""
    k = len(counts)
    shares = np.sort(counts / counts.sum())[::-1]
    edges = np.unique(np.linspace(0, k, min(k, MOST_BARS) + 1).astype("int64"))
    panel.stairs(100 * shares[edges[:-1]], edges, fill=True, color=PALETTE[0])
    panel.axhline(100 / k, color=PALETTE[1], linewidth=1.2, linestyle="--", label=f"even use, 1/{k}")
    panel.set_xlim(0, k)
    panel.set_ylabel("share of tokens, %", fontsize=8, color=INK)
    panel.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    quiet_axes(panel, "code, most used first")
    panel.legend(fontsize=8, frameon=False, labelcolor=INK)


def draw_report(report, name, cell):
    """The page: a row for each place, with the histogram left and the nearest patches right."""
    places = report["places"][:MOST_PLACES]
    shown = places[0]["nearest"]["examples"].shape[1]
    num_nearest = shown if len(places) == 1 else shown // 2
    body = num_nearest * (TILE + GAP)
    height = MARGIN + PAGE_TITLE + len(places) * (PLACE_TITLE + TILE_TITLE + body + AXIS_TEXT)
    figure = Figure(figsize=(PAGE / DPI, height / DPI), dpi=DPI, facecolor=PAPER)
    page = figure.add_axes((0, 0, 1, 1), xlim=(0, PAGE), ylim=(height, 0))
    page.set_axis_off()

    title = f"{name}: {report['num_examples']:,} examples, {report['num_tokens']:,} tokens"
    if len(places) > 1:
        title += f", {len(report['places'])} codes each"
    if len(places) < len(report["places"]):
        title += f" (the first {len(places)} shown)"
    page.text(MARGIN, MARGIN + 14, title, fontsize=11, color=INK, va="baseline")
    for index, place in enumerate(places):
        top = MARGIN + PAGE_TITLE + index * (PLACE_TITLE + TILE_TITLE + body + AXIS_TEXT)
        where = f"place {', '.join(map(str, place['place']))}: " if place["place"] else ""
        first, second = _summary(place, report["label_entropy"])
        page.text(MARGIN, top + 14, where + first, fontsize=9.5, color=PALETTE[0], va="baseline")
        page.text(MARGIN, top + 36, second, fontsize=8, color=INK, va="baseline")
        top += PLACE_TITLE
        bottom = top + TILE_TITLE + body - GAP
        rect = (MARGIN + 62, bottom, TILES_LEFT - MARGIN - 62 - 32, bottom - top - 8)
        panel = figure.add_axes((rect[0] / PAGE, 1 - rect[1] / height, rect[2] / PAGE, rect[3] / height))
        draw_usage(panel, place["counts"])
        _draw_nearest(page, place, cell, top, num_nearest)
    return figure


def _summary(place, label_entropy):
    """Two lines."""
    first = (
        f"{place['codes_in_use']:,} of {place['vocabulary']:,} codes in use, {len(place['dead_codes']):,} dead · "
        f"perplexity {place['perplexity']:,.1f}"
    )
    second = (
        f"entropy {place['entropy']:.2f} of {math.log2(place['vocabulary']):.2f} bits a token "
        f"({100 * place['entropy_share']:.0f} %)"
    )
    if label_entropy is not None:
        second += f" · a code tells {place['mutual_information']:.2f} of the {label_entropy:.2f} bits of the label"
    return first, second


def _draw_nearest(page, place, cell, top, num_nearest):
    """Columns of codes, most used first; rows of tokens, nearest first; the middle of a tile is the token's own."""
    nearest = place["nearest"]
    patches = nearest["patches"]
    shape, own = patches.shape[2:-1], cell[-len(patches.shape[2:-1]) :]
    caption = (
        f"Tokens nearest to the most used codes, {'×'.join(map(str, own))} {['samples', 'pixels'][len(shape) - 1]} each"
    )
    if tuple(own) != shape:
        caption += [" (shaded)", " (framed)"][len(shape) - 1]
    if len(cell) == 3:
        caption += ", middle frame"
    page.text(TILES_LEFT, top + 10, caption, fontsize=8, color=INK, va="baseline")
    share = 100 * place["counts"][nearest["codes"]] / place["counts"].sum()
    for column, code in enumerate(nearest["codes"]):
        x = TILES_LEFT + column * (TILE + GAP)
        page.text(x + TILE / 2, top + 35, str(code), fontsize=7, color=INK, ha="center", va="baseline")
        page.text(x + TILE / 2, top + 51, f"{share[column]:.1f} %", fontsize=6, color=INK, ha="center", va="baseline")
        for row in range(num_nearest):
            if nearest["examples"][column, row] >= 0:
                y = top + TILE_TITLE + row * (TILE + GAP)
                draw = _draw_image if len(shape) == 2 else _draw_wave
                draw(page, x, y, patches[column, row], own, _loudest(patches))


def _loudest(patches):
    return max(1e-6, float(np.max(np.abs(patches), initial=0.0, where=np.isfinite(patches))))


def _draw_image(page, x, y, patch, own, _):
    if patch.shape[-1] not in (1, 3):
        patch = patch.mean(axis=-1, keepdims=True)
    outside = np.isnan(patch).any(axis=-1)
    pixels = as_pixels(np.where(outside[..., None], 0.0, patch), 1)
    pixels[outside] = OUTSIDE
    scale = TILE / max(outside.shape)
    h, w = (round(size * scale) for size in outside.shape)
    # whole screen pixels: `imshow` of the page would blur what does not fall on them
    pixels = pixels[(np.arange(h) / scale).astype(int)][:, (np.arange(w) / scale).astype(int)]
    page.imshow(pixels, extent=(x, x + w, y + h, y), interpolation="nearest", aspect="auto", zorder=1)
    if tuple(own) != patch.shape[:-1]:
        top, left = (scale * (size - middle) / 2 for size, middle in zip(patch.shape, own))
        size = (scale * own[1], scale * own[0])
        page.add_patch(Rectangle((x + left, y + top), *size, fill=False, edgecolor=PALETTE[1], linewidth=0.6, zorder=2))


def _draw_wave(page, x, y, piece, own, loudest):
    scale = TILE / len(piece)
    page.add_patch(Rectangle((x, y), TILE, TILE, facecolor="#f3f3f3", edgecolor="none", zorder=1))
    middle = (x + scale * (len(piece) - own[0]) / 2, y)
    page.add_patch(Rectangle(middle, scale * own[0], TILE, facecolor="#dfe6ee", edgecolor="none", zorder=1))
    times = x + scale * (np.arange(len(piece)) + 0.5)
    for color, channel in zip(PALETTE * len(piece[0]), piece.T):
        page.plot(times, y + TILE / 2 - 0.46 * TILE * channel / loudest, color=color, linewidth=0.9, zorder=2)
