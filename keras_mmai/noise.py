"""Random numbers that are a function of their seed alone: the same on every backend, for every row of every batch.

Keras' random ops draw one stream for a whole batch, differently on each backend. Here each row brings its own seed, so
that a generated example does not depend on which others were asked for with it.
"""

import math

import numpy as np
from keras import ops

_ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
_PARITY = 0x1BD11BDA
# Each counts from another place, so that no two share a word under one seed and stream.
_UNIFORM_START, _NORMAL_START, _SPLIT_START = 0, 2**30, -(2**31)


def _rotate_left(x, bits):
    # int32 shifts right with its sign; the mask takes the copies of the sign away.
    low = ops.bitwise_and(ops.right_shift(x, 32 - bits), 2**bits - 1)
    return ops.bitwise_or(ops.left_shift(x, bits), low)


def threefry_2x32(key0, key1, counter0, counter1):
    """Threefry-2x32 with 20 rounds (Salmon et al. 2011): int32 tensors that broadcast -> two int32 words.

    int32 with wrap-around carries the same bits as the paper's unsigned words and exists on all backends.
    """
    keys = (key0, key1, ops.bitwise_xor(ops.bitwise_xor(key0, key1), _PARITY))
    x0, x1 = counter0 + key0, counter1 + key1
    for i in range(20):
        x0 = x0 + x1
        x1 = ops.bitwise_xor(_rotate_left(x1, _ROTATIONS[i % 8]), x0)
        if i % 4 == 3:
            block = i // 4 + 1
            x0 = x0 + keys[block % 3]
            x1 = x1 + keys[(block + 1) % 3] + block
    return x0, x1


def _pairs(seed, count, stream, start):
    """Two uniforms in [0, 1) of 24 bits per counter: seed int32 (b, 2) -> two (b, count) float32."""
    seed = check_seed(seed)
    counter = ops.convert_to_tensor(np.arange(start, start + count, dtype="int32")[None])
    stream = ops.zeros_like(counter) + ops.cast(stream, "int32")
    words = threefry_2x32(seed[:, :1], seed[:, 1:], counter, stream)
    return [ops.cast(ops.bitwise_and(ops.right_shift(w, 8), 2**24 - 1), "float32") * 2.0**-24 for w in words]


def _interleave(first, second, shape):
    """Two (b, m) -> (b, *shape), so that a longer draw begins with the shorter one."""
    flat = ops.reshape(ops.stack([first, second], axis=-1), (-1, 2 * first.shape[1]))
    return ops.reshape(flat[:, : math.prod(shape)], (-1, *shape))


def row_seeds(seed, num_rows):
    """The seeds of the rows of a batch: int32 (num_rows, 2).

    Args:
        seed: int of 32 bits, of which row i gets (seed, i); or int32 (num_rows, 2), which is returned.
        num_rows: int or int32 ().

    Raises:
        ValueError: on a seed that is neither.
    """
    if isinstance(seed, (int, np.integer)):
        if not -(2**31) <= seed < 2**31:
            raise ValueError(f"`seed` must fit 32 bits. Received: {seed}")
        rows = ops.arange(num_rows, dtype="int32")
        return ops.stack([ops.zeros_like(rows) + seed, rows], axis=1)
    seed = check_seed(seed)
    if isinstance(num_rows, int) and seed.shape[0] not in (None, num_rows):
        raise ValueError(f"seed has a row for each of the {num_rows} examples. Received: shape {tuple(seed.shape)}")
    return seed


def check_seed(seed):
    seed = ops.convert_to_tensor(seed, "int32")
    if len(seed.shape) != 2 or seed.shape[1] != 2:
        raise ValueError(
            f"seed must be int32 of shape (b, 2), one row per example. Received: shape {tuple(seed.shape)}."
        )
    return seed


def split(seed, count):
    """Seeds for the parts of each row: int32 (b, 2) -> (b, count, 2). `count` is an int or int32 ()."""
    seed = check_seed(seed)
    counter = ops.arange(count, dtype="int32")[None] + _SPLIT_START
    return ops.stack(threefry_2x32(seed[:, :1], seed[:, 1:], counter, ops.zeros_like(counter)), axis=-1)


def uniform(seed, shape, stream=0):
    """Uniform numbers in [0, 1), bit for bit the same on every backend.

    Args:
        seed: int32 (b, 2), one per row.
        shape: of one row, static.
        stream: int or int32 (): other numbers under the same seed, such as a sampler's step index.

    Returns:
        (b, *shape) float32.
    """
    first, second = _pairs(seed, (math.prod(shape) + 1) // 2, stream, _UNIFORM_START)
    return _interleave(first, second, shape)


def normal(seed, shape, stream=0):
    """Unit Gaussian numbers by Box & Muller 1958, within 5.8 deviations. Arguments and result as `uniform`."""
    first, second = _pairs(seed, (math.prod(shape) + 1) // 2, stream, _NORMAL_START)
    radius = ops.sqrt(-2 * ops.log(1 - first))
    angle = 2 * math.pi * second
    return _interleave(radius * ops.cos(angle), radius * ops.sin(angle), shape)


def gumbel(seed, shape, stream=0):
    """Gumbel-distributed numbers, from -2.9 to 16.7: the largest of score + gumbel is a draw from softmax(score).

    Arguments and result as `uniform`.
    """
    return -ops.log(-ops.log(uniform(seed, shape, stream) * (1.0 - 2.0**-24) + 2.0**-25))
