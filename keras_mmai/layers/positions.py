"""Positions of tokens on a grid of any rank: a fixed sin-cos table to add, or axial rotations (RoPE).

Tables are built in float64 numpy and stored in float32, so that they are equal on every backend.
"""

import numpy as np
from keras import ops


def grid_coordinates(grid):
    """Integer coordinates of a row-major grid: (n, rank)."""
    return np.stack(np.meshgrid(*[np.arange(g) for g in grid], indexing="ij"), axis=-1).reshape(-1, len(grid))


def axis_dims(dim, rank):
    """Splits `dim` into one even part for each axis; the first part takes what does not divide evenly."""
    if dim % 2 or dim < 2 * rank:
        raise ValueError(
            f"A width of {dim} can't hold positions on {rank} axes: give an even width of at least {2 * rank}."
        )
    part = dim // (2 * rank) * 2
    return (dim - part * (rank - 1), *[part] * (rank - 1))


def sincos_positions(grid, dim, max_period=10000.0):
    """Fixed positions (n, dim), float64: sin then cos of each axis, the last axis first.

    In two dimensions the first half of the channels encodes the column and the second half the row, as in the DiT
    paper's code; in one dimension it is the table of Vaswani et al. 2017 (section 3.5) with sines and cosines apart.
    """
    return sincos_positions_at(grid_coordinates(grid), dim, max_period)


def sincos_positions_at(coordinates, dim, max_period=10000.0):
    """The same (n, dim) at any coordinates, numpy (n, rank) of real values."""
    parts = []
    for axis, width in zip(np.transpose(coordinates)[::-1], axis_dims(dim, np.shape(coordinates)[1])):
        frequencies = max_period ** -(np.arange(width // 2, dtype="float64") / (width / 2))
        angles = axis[:, None] * frequencies
        parts += [np.sin(angles), np.cos(angles)]
    return np.concatenate(parts, axis=1)


def rotary_tables(grid, head_dim, max_period=10000.0):
    """Cosines and sines (n, head_dim), float32, of axial rotary embeddings of the row-major tokens of a grid."""
    return rotary_tables_at(grid_coordinates(grid), head_dim, max_period)


def rotary_tables_at(coordinates, head_dim, max_period=10000.0):
    """Cosines and sines (n, head_dim), float32, of axial rotary embeddings: the first axis rotates the first channels.

    Channels are rotated in neighbouring pairs (2i, 2i + 1), each pair sharing an angle.
    Reference: Su et al. 2021 (RoFormer), equation 34; one section of the channels for each axis.

    Args:
        coordinates: numpy (n, rank), of any real values: what differs by 1 turns by at most 1 radian.
    """
    angles = []
    for axis, width in zip(np.transpose(coordinates), axis_dims(head_dim, np.shape(coordinates)[1])):
        frequencies = max_period ** -(np.arange(width // 2, dtype="float64") / (width / 2))
        angles.append(np.repeat(axis[:, None] * frequencies, 2, axis=1))
    angles = np.concatenate(angles, axis=1)
    return np.cos(angles).astype("float32"), np.sin(angles).astype("float32")


def apply_rotary(x, cos, sin):
    """Rotates x (b, n, h, head_dim) by the tables of `rotary_tables`, in float32; keeps the dtype of x."""
    dtype = x.dtype
    x = ops.cast(x, "float32")
    pairs = ops.reshape(x, (-1, *x.shape[1:-1], x.shape[-1] // 2, 2))
    turned = ops.reshape(ops.stack([-pairs[..., 1], pairs[..., 0]], axis=-1), (-1, *x.shape[1:]))
    cos, sin = ops.cast(cos, "float32")[:, None, :], ops.cast(sin, "float32")[:, None, :]
    return ops.cast(x * cos + turned * sin, dtype)
