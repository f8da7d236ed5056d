"""Patches: a signal of any rank as a sequence of tokens, and back.

One implementation for 1-D, 2-D and 3-D: the rank is the length of `patch_size`. Inside a patch the values keep the
order (axis 1, axis 2, ..., channel), channel last, as in the DiT paper's code (Peebles & Xie 2023).
"""

import math

import keras
from keras import ops

from keras_mmai.serialization import register


def standard_tuple(value, rank, name):
    """An int or a sequence as a tuple of `rank` positive ints."""
    values = (value,) * rank if isinstance(value, int) else tuple(value)
    if len(values) != rank or not all(isinstance(v, int) and v > 0 for v in values):
        raise ValueError(f"`{name}` must be a positive int or {rank} of them. Received: {name}={value}")
    return values


def patch_grid(space, patch_size):
    """Number of patches along each axis of `space`.

    Raises:
        ValueError: if an axis is not a multiple of its patch.
    """
    if len(space) != len(patch_size) or any(s is None or s % p for s, p in zip(space, patch_size)):
        raise ValueError(
            f"Every axis must be known and a multiple of its patch. Received: axes {tuple(space)}, "
            f"patch_size={patch_size}. Crop or pad the signal, or choose another patch_size."
        )
    return tuple(s // p for s, p in zip(space, patch_size))


def patchify(x, patch_size):
    """(b, *s, c) -> (b, n, prod(patch_size) * c), n = number of patches in row-major order."""
    rank, channels = len(patch_size), x.shape[-1]
    grid = patch_grid(x.shape[1:-1], patch_size)
    x = ops.reshape(x, (-1, *[side for pair in zip(grid, patch_size) for side in pair], channels))
    x = ops.transpose(x, (0, *range(1, 2 * rank, 2), *range(2, 2 * rank + 1, 2), 2 * rank + 1))
    return ops.reshape(x, (-1, math.prod(grid), math.prod(patch_size) * channels))


def unpatchify(tokens, patch_size, grid):
    """(b, n, prod(patch_size) * c) -> (b, *s, c): the inverse of `patchify`; `grid` is the patches along each axis."""
    rank = len(patch_size)
    channels = tokens.shape[-1] // math.prod(patch_size)
    x = ops.reshape(tokens, (-1, *grid, *patch_size, channels))
    x = ops.transpose(x, (0, *[axis for i in range(rank) for axis in (1 + i, 1 + rank + i)], 2 * rank + 1))
    return ops.reshape(x, (-1, *[g * p for g, p in zip(grid, patch_size)], channels))


@register
class PatchEmbed(keras.layers.Layer):
    """Linear embedding of non-overlapping patches.

    Input (b, *s, c), output (b, n, hidden_dim), with n = prod(s / patch_size).

    Args:
        patch_size: tuple of ints, one for each axis: (4,) for audio, (2, 2) for images, (1, 2, 2) for video.
        hidden_dim: int, width of a token.
        use_bias: bool.

    Raises:
        ValueError: if the input's rank differs from `patch_size`'s, or an axis is not a multiple of its patch.

    Reference: Peebles & Xie 2023 (DiT), section 3.2, "Patchify".
    """

    def __init__(self, patch_size, hidden_dim, use_bias=True, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.patch_size = standard_tuple(
            patch_size, 1 if isinstance(patch_size, int) else len(patch_size), "patch_size"
        )
        self.hidden_dim = hidden_dim
        self.use_bias = use_bias
        self.projection = keras.layers.Dense(hidden_dim, use_bias=use_bias, name="projection", dtype=self.dtype_policy)

    def build(self, input_shape):
        if len(input_shape) != len(self.patch_size) + 2:
            raise ValueError(
                f"PatchEmbed with patch_size={self.patch_size} takes (batch, {len(self.patch_size)} axes, channels). "
                f"Received: shape {tuple(input_shape)}"
            )
        patch_grid(input_shape[1:-1], self.patch_size)
        self.projection.build((None, None, math.prod(self.patch_size) * input_shape[-1]))
        self.built = True

    def call(self, x):
        return self.projection(patchify(x, self.patch_size))

    def compute_mask(self, x, mask=None):
        return None  # the caller knows what a mask is over: patches, as in `DiT`, or the signal

    def compute_output_shape(self, input_shape):
        return (input_shape[0], math.prod(patch_grid(input_shape[1:-1], self.patch_size)), self.hidden_dim)
