"""Batches of numpy arrays in an order that is a function of `(seed, epoch)`.

The shuffling of `model.fit(x, shuffle=True)` draws from state that no checkpoint holds. Here the order of epoch e
can be had again without running the epochs before it, so a training that was interrupted goes on with the very batches
that the uninterrupted one would have seen.
"""

import keras
import numpy as np


class ArrayDataset(keras.utils.PyDataset):
    """Batches of arrays held in memory, for `fit` on every backend.

    For `evaluate` and `predict` give `shuffle=False, drop_remainder=False`: the rows in their order, and all of them.

    Resuming after k epochs: set `dataset.epoch = k` and call `fit(dataset, initial_epoch=k, ...)`.

    Args:
        arrays: what the model takes, an array `(n, ...)` or a nested dict or tuple of them with one leading length.
            For `fit`, a tuple is `(x, y)` or `(x, y, sample_weight)`; anything else is `x`.
        batch_size: rows in a batch.
        seed: with `epoch`, decides the order. A non-negative integer.
        shuffle: whether the order changes from epoch to epoch; if False, it is that of the arrays.
        drop_remainder: whether the last, smaller batch is left out, which keeps one compiled shape.

    Attributes:
        epoch: passes over the data that were completed, from 0. May be set. With `steps_per_epoch` smaller than the
            number of batches, a pass takes several of Keras's epochs.

    Note: before training, Keras may read a batch to build the model and then announce the end of an epoch. That peek is
    told from an epoch by the batches it left unread, and so cannot be when there is only one batch in an epoch (two on
    a GPU with JAX). With such small data the first `fit` counts one epoch too many.
    """

    def __init__(self, arrays, batch_size=64, seed=0, shuffle=True, drop_remainder=True):
        super().__init__()
        self.arrays = keras.tree.map_structure(np.asarray, arrays)
        self.num_rows = _common_length(self.arrays)
        if not 1 <= batch_size <= self.num_rows:
            raise ValueError(
                f"`batch_size` must be between 1 and the number of rows, {self.num_rows}. "
                f"Received: batch_size={batch_size}"
            )
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.drop_remainder = drop_remainder
        self.epoch = 0

    @property
    def epoch(self):
        return self._epoch

    @epoch.setter
    def epoch(self, value):
        self._epoch = int(value)
        self._order = epoch_order(self.num_rows, self.seed, self._epoch) if self.shuffle else np.arange(self.num_rows)
        self._next = None  # the batch that comes next, while Keras runs through the data
        self._all_read = self._within_epoch = False

    def __len__(self):
        full, rest = divmod(self.num_rows, self.batch_size)
        return full + (rest > 0 and not self.drop_remainder)

    @property
    def num_batches(self):
        # Keras asks for it whenever it starts to run through the data, and never on the way.
        self._next = None if self._next is None else 0
        return len(self)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(f"Batch {index} of a dataset of {len(self)} batches.")
        # `fit` has shuffle=True by default, and then asks for batches in an order drawn from Python's global generator,
        # which no checkpoint holds. So during an epoch the order of asking decides, and not the index.
        if self._next is not None:
            index = self._next % len(self)
            self._next = index + 1
            self._all_read = self._all_read or self._next == len(self)
        rows = self._order[index * self.batch_size : (index + 1) * self.batch_size]
        return keras.tree.map_structure(lambda array: array[rows], self.arrays)

    def on_epoch_begin(self):
        self._within_epoch = True
        self._next = 0 if self._next is None else self._next

    def on_epoch_end(self):
        # Keras also calls this before training begins, after it may have read a batch to learn the shapes.
        if self._within_epoch and self._all_read:
            self.epoch += 1
        self._within_epoch = False


def epoch_order(num_rows, seed, epoch):
    """The permutation of `num_rows` rows in one epoch, int64 `(num_rows,)`."""
    # RandomState and not default_rng: numpy froze its stream, so a run can be resumed under another numpy.
    return np.random.RandomState([seed, epoch]).permutation(num_rows)


def _common_length(arrays):
    leaves = {"/".join(map(str, path)) or "array": leaf for path, leaf in keras.tree.flatten_with_path(arrays)}
    scalars = [name for name, leaf in leaves.items() if leaf.ndim == 0]
    if not leaves or scalars:
        raise ValueError(
            f"`arrays` must be an array (n, ...) or a nested dict or tuple of them. Without rows: {scalars or arrays!r}"
        )
    lengths = {name: len(leaf) for name, leaf in leaves.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"All arrays must have the same number of rows. Received: {lengths}")
    num_rows = next(iter(lengths.values()))
    if num_rows == 0:
        raise ValueError(f"The arrays are empty. Received shapes: { {name: a.shape for name, a in leaves.items()} }")
    return num_rows
