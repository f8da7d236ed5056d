"""One data set of several that have different modalities: pairs, texts alone, images alone."""

import numpy as np

from keras_mmai.models.modality import Tokens

EMPTY = np.empty(0).view(Tokens)


def mix(parts, seed=0):
    """Rows of several dicts of modalities as one dict for `MultimodalDiffusionTransformer.fit`.

    What a part lacks is filled with a row of another part, and "present" says that it is absent. No row is lost: where
    the shares ask for more rows of a part than it has, all its rows are repeated in turn.

    Args:
        parts: list of (dict by modality of arrays or lists of texts (n_i, ...), share); the shares are positive floats,
            of which only the ratio counts. A part may have "present" itself, bool (n_i,) or (n_i, *grid).
        seed: int, of the order of the rows.

    Returns:
        dict by modality of arrays (n, ...), and "present": dict by modality of bool (n,) or (n, *grid), of those that
        some row lacks. n is the least number with which every row comes once.

    Raises:
        ValueError: on no part, a share that is not positive, a part without rows, modalities whose rows differ in shape
            or kind from part to part, or "present" of what a part does not have, of another length, or not bool.
    """
    parts = [(dict(data), share) for data, share in parts]
    if not parts or any(not share > 0 for _, share in parts):
        raise ValueError(f"`parts` are pairs of a dict and a positive share. Received shares: {[s for _, s in parts]}")
    others = sorted({key for data, _ in parts for key in ("known", "task", "t", "noise") if key in data})
    if others:
        raise ValueError(f'`parts` hold modalities and "present": add {others} to what `mix` returns.')
    flags = [dict(data.pop("present", {})) for data, _ in parts]
    arrays = [{name: _as_array(values) for name, values in data.items()} for data, _ in parts]
    sizes = [_rows_of(data, index) for index, data in enumerate(arrays)]
    for index, (of, data, size) in enumerate(zip(flags, arrays, sizes)):
        for name, here in of.items():
            if name not in data or np.shape(here)[:1] != (size,) or np.asarray(here).dtype.kind != "b":
                raise ValueError(
                    f"'present' of part {index} is bool ({size},) or ({size}, *grid), of {sorted(data)}. Received: "
                    f"{np.shape(here)} {np.asarray(here).dtype} of {name!r}"
                )
    shares = np.array([share for _, share in parts]) / sum(share for _, share in parts)
    total = max(size / share for size, share in zip(sizes, shares))
    counts = [max(size, round(total * share)) for size, share in zip(sizes, shares)]

    names = list(dict.fromkeys(name for data in arrays for name in data))
    order = np.random.RandomState(seed).permutation(sum(counts))
    mixed, present = {}, {}
    for name in names:
        values = [_filled(data.get(name), count, _like(arrays, name)) for data, count in zip(arrays, counts)]
        here = [
            np.resize(np.asarray(of.get(name, name in data), "bool"), _shape(of.get(name), count))
            for data, of, count in zip(arrays, flags, counts)
        ]
        grid = max((h.shape[1:] for h in here), key=len)
        here = [np.broadcast_to(h.reshape(h.shape + (1,) * (1 + len(grid) - h.ndim)), (len(h), *grid)) for h in here]
        mixed[name], here = np.concatenate(values)[order], np.concatenate(here)[order]
        if all(isinstance(data.get(name, EMPTY), Tokens) for data, _ in parts):
            mixed[name] = mixed[name].view(Tokens)
        if not here.all():
            present[name] = here
    return {**mixed, "present": present} if present else mixed


def _as_array(values):
    array = np.asarray(values)
    return np.asarray(values, dtype=object) if array.dtype.kind in "US" else array


def _rows_of(data, index):
    sizes = {name: len(values) for name, values in data.items()}
    if len(set(sizes.values())) != 1 or not next(iter(sizes.values())):
        raise ValueError(f"Part {index} needs modalities with as many rows each, at least one. Received: {sizes}")
    return next(iter(sizes.values()))


def _like(arrays, name):
    """A row of a modality, of the first part that has it."""
    found = [data[name][:1] for data in arrays if name in data]
    kinds = {(row.shape[1:], row.dtype.kind) for row in found}
    if len(kinds) > 1:
        raise ValueError(f"The rows of {name!r} differ from part to part: {sorted(map(str, kinds))}")
    return found[0]


def _filled(values, count, like):
    """The rows repeated in turn to `count`; or the row `like`, which nobody will see, `count` times."""
    if values is not None:
        return values[np.arange(count) % len(values)]
    return np.repeat(like, count, axis=0)


def _shape(flags, count):
    """Of the flags of `count` rows."""
    return (count, *np.shape(flags)[1:])
