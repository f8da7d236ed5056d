"""How a tokenizer uses its codes, in numbers and in one picture.

Of the shares p of the codes of one place, in bits:

    (1)  entropy      H = -sum p log2 p,   perplexity 2^H,   share of entropy H / log2(vocabulary)
    (2)  information  I(code; label) = H(code) + H(label) - H(code, label)

Entropies estimated from N tokens are too small, and (2) from few tokens is too large. So each H of (2), and of no other
figure, is raised by (m - 1) / (2 N ln 2), with m the number of values that occur (Miller 1955, Note on the bias of
information estimates), and I is held between 0 and the smaller of H(code) and H(label).
"""

import math

import keras
import numpy as np
from matplotlib.figure import Figure

from keras_mmai.tokenizers.tokenizer import signal_of
from keras_mmai.visualization.codebook_page import draw_report, draw_usage
from keras_mmai.visualization.figures import DPI, INK, check_path, save

NUM_CODES, NUM_NEAREST = 12, 6  # of each place: the codes that are shown, and the tokens of each
BATCH, BATCH_VALUES, CHUNK_VALUES = 128, 2**21, 2**23  # examples, and float32 values of the signals, held at once


def codebook_usage(counts, path=None):
    """How evenly a codebook is used: the share of each code, most used first, against even use.

    The title gives the codes in use and the perplexity exp(-sum p log p): the number of codes that would carry as much
    information if they were used evenly.

    Args:
        counts: (k,) how often each code was chosen.
        path: where to save a PNG.
    """
    counts = np.asarray(counts, "float64")
    if counts.ndim != 1 or not np.isfinite(counts).all() or (counts < 0).any() or counts.sum() == 0:
        raise ValueError(
            "`counts` must be (k,), how often each code was chosen: not negative, not all zero; "
            "`numpy.bincount(codes.ravel(), minlength=k)` gives it. "
            f"Received shape: {counts.shape}, sum: {counts.sum():g}"
        )
    figure = Figure(figsize=(5.0, 2.6), dpi=DPI, layout="constrained")
    panel = figure.subplots()
    draw_usage(panel, counts)
    title = f"{np.count_nonzero(counts)} of {len(counts)} codes in use · perplexity {2 ** _entropy(counts):.1f}"
    panel.set_title(title, fontsize=9, color=INK, loc="left")
    return save(figure, path)


def codebook_report(tokenizer, data, labels=None, path=None):
    """What the codes of a tokenizer are used for, on the given data: one picture and the numbers in it.

    The data is encoded in batches; of its latents only those are kept that lie nearest to their codes. Tokens whose
    latents are not finite are left out. A quantizer with several codes for each token, one for each place of its
    `code_shape` (levels, groups), is reported place by place; the picture shows the first eight.

    Args:
        tokenizer: a tokenizer with one grid of codes, such as `VQVAE`, of any rank and with any quantizer.
        data: (n, *input_shape) float in [-1, 1], or {"x": data}.
        labels: (n,) the class of each example, numbers or strings, or None.
        path: where to save the picture as a PNG.

    Returns:
        A dict:
            "figure": the `matplotlib.figure.Figure`, 1200 pixels wide.
            "num_examples", "num_tokens": ints, what was counted.
            "label_entropy": bits, of the labels of the tokens; None without labels.
            "places": a list of one dict for each place of the codes:
                "place": tuple of ints, the index into `code_shape`; () for a quantizer with one code for each token.
                "vocabulary": int, the codes there are.
                "counts": int64 (vocabulary,), the tokens of each code.
                "codes_in_use": int.
                "dead_codes": int64 (vocabulary - codes_in_use,), the codes that no token has.
                "entropy": bits for each token.
                "perplexity": 2 ** entropy, from 1 to vocabulary.
                "entropy_share": entropy / log2(vocabulary), from 0 to 1.
                "mutual_information": bits that the code of a token tells of the label of its example, corrected for
                    bias by Miller and Madow as if all tokens were independent; None without labels.
                "nearest": a dict of the tokens nearest to the most used codes, nearest first:
                    "codes": int64 (m,), most used first, m at most 12.
                    "distances": float32 (m, 6), |z - code| where the quantizer compares them (`Quantizer.distances`);
                        NaN where fewer tokens have the code, as in "patches".
                    "examples": int64 (m, 6), index into `data`; -1 where there is none, as in "positions".
                    "positions": int64 (m, 6, rank), the token's place on the grid.
                    "patches": float32 (m, 6, *context, channels): the part of the signal that the token covers with
                        half of it more on either side, of the middle one of its frames if it is video; NaN beyond the
                        signal's border.

    Raises:
        ValueError: on a tokenizer without codes or with several grids (`VQVAE2`), no data, labels of another length,
            data that the tokenizer refuses, latents none of which is finite, or a path that does not end in .png.
    """
    check_path(path)
    data = signal_of(data)
    data = data if hasattr(data, "shape") else np.asarray(data)
    _check_codes(tokenizer)
    if len(data) == 0:
        raise ValueError(f"`data` is empty. Received shape: {tuple(data.shape)}")
    classes, labels = _as_classes(labels, len(data))
    tokenizer.encode(data[:1], tokens="codes")  # its checks teach before the work begins

    quantizer, grid = tokenizer.quantizer, tokenizer.latent_shape[:-1]
    lead = getattr(tokenizer, "lead", 0)  # frames before the first, which make a token of it
    cells = [((size + n) // tokens, n) for size, tokens, n in zip(data.shape[1:], grid, (lead, 0, 0))]
    tallies = [_Tally(size, len(classes)) for size in quantizer.vocabularies]
    for example, codes, distances in _tokens(tokenizer, data):
        token = np.arange(len(codes)) + example * math.prod(grid)
        label = labels[token // math.prod(grid)]
        for tally, code, distance in zip(tallies, codes.T, distances.T):
            valid = np.isfinite(distance)
            tally.add(code[valid], label[valid], distance[valid], token[valid])
    if any(len(tally.pairs) == 0 for tally in tallies):
        raise ValueError("No latent of `data` is finite: the encoder is broken. Go back to weights before it was.")

    named = len(classes) > 1 or classes[0] is not None
    report = {
        "num_examples": len(data),
        "num_tokens": int(tallies[0].numbers.sum()),
        "label_entropy": _entropy(tallies[0].by_label()) if named else None,
        "places": [
            {"place": place, **tally.statistics(named), "nearest": _nearest(tally, data, grid, cells)}
            for place, tally in zip(np.ndindex(*quantizer.code_shape), tallies)
        ],
    }
    figure = draw_report(report, type(tokenizer).__name__, [cell for cell, _ in cells])
    return {**report, "figure": save(figure, path)}


def _check_codes(tokenizer):
    if getattr(tokenizer, "vocabulary", None) is None or getattr(tokenizer, "quantizer", None) is None:
        raise ValueError(
            "The report is on the codes of a tokenizer with one quantizer and one grid, such as `VQVAE`. "
            f"Received: {type(tokenizer).__name__}."
        )


def _as_classes(labels, n):
    """The different labels, and for each of `n` examples the index of its own; [None] and zeros without labels."""
    if labels is None:
        return [None], np.zeros(n, "int64")
    if keras.ops.is_tensor(labels):
        labels = keras.ops.convert_to_numpy(labels)
    labels = np.asarray(labels)
    if labels.shape != (n,):
        raise ValueError(
            f"`labels` must be (n,), one for each example. Received shape {labels.shape} for {n} examples."
        )
    return np.unique(labels, return_inverse=True)


def _tokens(tokenizer, data):
    """Yields, chunk by chunk: the first example's index, codes (m, places) int64, distances (m, places), NaN if z is.

    A chunk holds many batches, since each `predict` takes a while to begin.
    """
    quantizer, size = tokenizer.quantizer, math.prod(tokenizer.input_shape)
    batch = max(1, min(BATCH, BATCH_VALUES // size))
    chunk = batch * max(1, CHUNK_VALUES // (size * batch))
    for start in range(0, len(data), chunk):
        x = keras.ops.convert_to_numpy(data[start : start + chunk])
        tokenizer.check_values(x)
        tokens = tokenizer.predict(x, batch_size=batch, verbose=0)
        z = keras.ops.convert_to_numpy(tokenizer.standardize.inverse(tokens["latents"]))
        finite = np.isfinite(z).all(axis=-1)
        z = np.where(finite[..., None], z, 0.0)
        places = len(quantizer.vocabularies)
        distances = keras.ops.convert_to_numpy(quantizer.distances(keras.ops.convert_to_tensor(z), tokens["codes"]))
        distances = np.where(finite.reshape(-1, 1), distances.reshape(-1, places), np.nan)
        yield start, tokens["codes"].reshape(-1, places).astype("int64"), distances


class _Tally:
    """What is kept of one place: how often each pair of code and label occurs, and the tokens nearest to each code."""

    def __init__(self, vocabulary, num_classes):
        self.vocabulary, self.num_classes = vocabulary, num_classes
        self.pairs = self.numbers = np.zeros(0, "int64")  # code * num_classes + label, those that occur; how often
        self.codes = self.tokens = np.zeros(0, "int64")  # sorted by code, then distance
        self.distances = np.zeros(0, "float32")

    def add(self, codes, labels, distances, tokens):
        """Arrays (m,) of the next tokens; `tokens` are their indices in the whole of the data."""
        pairs, numbers = np.unique(codes * self.num_classes + labels, return_counts=True)
        self.pairs, place = np.unique(np.concatenate([self.pairs, pairs]), return_inverse=True)
        numbers = np.concatenate([self.numbers, numbers])
        self.numbers = np.zeros(len(self.pairs), "int64")
        np.add.at(self.numbers, place, numbers)

        codes = np.concatenate([self.codes, codes])
        distances = np.concatenate([self.distances, distances.astype("float32")])
        tokens = np.concatenate([self.tokens, tokens])
        order = np.lexsort((tokens, distances, codes))
        rank = np.arange(len(codes)) - np.searchsorted(codes[order], codes[order])
        order = order[rank < NUM_NEAREST]
        self.codes, self.distances, self.tokens = codes[order], distances[order], tokens[order]

    def by_code(self):
        return self._sum(self.pairs // self.num_classes, self.vocabulary)

    def by_label(self):
        return self._sum(self.pairs % self.num_classes, self.num_classes)

    def _sum(self, index, size):
        total = np.zeros(size, "int64")
        np.add.at(total, index, self.numbers)
        return total

    def statistics(self, with_labels):
        counts = self.by_code()
        entropy = _entropy(counts)
        return {
            "vocabulary": self.vocabulary,
            "counts": counts,
            "codes_in_use": int(np.count_nonzero(counts)),
            "dead_codes": np.flatnonzero(counts == 0),
            "entropy": entropy,
            "perplexity": 2.0**entropy,
            "entropy_share": entropy / math.log2(self.vocabulary) if self.vocabulary > 1 else 1.0,
            "mutual_information": self.mutual_information() if with_labels else None,
        }

    def mutual_information(self):
        """Equation (2), corrected."""
        parts = [self.by_code(), self.by_label(), self.numbers]
        code, label, pair = (_entropy(counts) + _missing_entropy(counts) for counts in parts)
        return float(np.clip(code + label - pair, 0.0, min(_entropy(parts[0]), _entropy(parts[1]))))


def _entropy(counts):
    """Equation (1): bits."""
    p = counts[counts > 0] / counts.sum()
    return max(0.0, float(-np.sum(p * np.log2(p))))


def _missing_entropy(counts):
    """Bits by which `_entropy` of so many counts is too small on average: Miller and Madow."""
    return (np.count_nonzero(counts) - 1) / (2.0 * counts.sum() * math.log(2.0))


def _nearest(tally, data, grid, cells):
    """The part "nearest" of a report."""
    counts = tally.by_code()
    shown = np.argsort(-counts, kind="stable")[: min(NUM_CODES, np.count_nonzero(counts))]
    distances = np.full((len(shown), NUM_NEAREST), np.nan, "float32")
    tokens = np.full((len(shown), NUM_NEAREST), -1, "int64")
    for row, code in enumerate(shown):
        first, last = np.searchsorted(tally.codes, [code, code + 1])
        distances[row, : last - first] = tally.distances[first:last]
        tokens[row, : last - first] = tally.tokens[first:last]
    examples = np.where(tokens < 0, -1, tokens // math.prod(grid))
    positions = np.stack(np.unravel_index(np.maximum(tokens, 0) % math.prod(grid), grid), axis=-1)
    positions[tokens < 0] = -1
    patches = [
        [_patch(keras.ops.convert_to_numpy(data[max(0, e)]), p, cells) for e, p in zip(*row)]
        for row in zip(examples, positions)
    ]
    patches = np.asarray(patches, "float32")
    patches[tokens < 0] = np.nan
    return {
        "codes": shown,
        "distances": distances,
        "examples": examples,
        "positions": positions,
        "patches": patches,
    }


def _patch(signal, position, cells):
    """What a token of the signal (*s, c) covers, and half of it more on either side; of video the middle frame.

    `cells` are, for each axis, what a token covers of it and how much of the first one lies before the signal.
    """
    position = np.maximum(position, 0)
    if len(cells) == 3:
        cell, before = cells[0]
        signal = signal[max(0, position[0] * cell + cell // 2 - before)]
        position, cells = position[1:], cells[1:]
    pads = [(before + cell // 2, cell // 2) for cell, before in cells]
    signal = np.pad(signal, [*pads, (0, 0)], constant_values=np.nan)
    return signal[tuple(slice(p * cell, p * cell + cell + 2 * (cell // 2)) for p, (cell, _) in zip(position, cells))]
