"""What the tokens of one modality are: all that a network has to know of it."""

import math

import keras
import numpy as np
from keras import ops

from keras_mmai.layers.patches import patch_grid, standard_tuple
from keras_mmai.layers.positions import grid_coordinates
from keras_mmai.serialization import Configurable, register

AXES = {1: (0,), 2: (1, 2), 3: (0, 1, 2)}  # of (time, y, x) that a grid of a rank lies on


@register
class TokenSpace(Configurable):
    """The tokens of one modality: their shape, whether they are ids or latents, and where they lie in time and space.

    A grid of one axis lies in time, one of two axes in (y, x), one of three in (time, y, x).

    Args:
        shape: of one example. Latents: (*grid, channels). Ids: (*grid, *codes), where the last `code_axes` axes are
            several ids of one token, such as the levels of a residual quantizer.
        vocabulary: int, the number of different ids; None: latents.
        code_axes: int, at least 0; 0 for latents.
        patch_size: int or tuple: that many latents along each axis of the grid are one token. 1 for ids.
        rate: tokens per second along the time axis; None: the place in the sequence is all that counts.
        adaln: bool: instead of being a token, the id is added to the condition of all the others, as the class of a
            `DiT`. It can then be given, and not generated.

    Raises:
        ValueError: on a grid of more than three axes, sizes below 1, patches that do not divide it or are of ids,
            `code_axes` of latents, a rate that is not positive, or `adaln` of anything but one id.
    """

    def __init__(self, shape, vocabulary=None, code_axes=0, patch_size=1, rate=None, adaln=False):
        shape = tuple(int(size) for size in shape)
        if not isinstance(code_axes, int) or code_axes < 0 or (vocabulary is None and code_axes):
            raise ValueError(f"`code_axes` is an int of at least 0, and 0 for latents. Received: {code_axes!r}")
        if min(shape, default=1) < 1:
            raise ValueError(f"`shape` has sizes of at least 1. Received: {shape}")
        space = len(shape) - (1 if vocabulary is None else code_axes)
        if space not in AXES:
            raise ValueError(f"Tokens lie on a grid of 1, 2 or 3 axes. Received: shape {shape}")
        self.shape = shape
        self.vocabulary = vocabulary
        self.code_axes = code_axes
        self.patch_size = standard_tuple(patch_size, space, "patch_size")
        self.grid = patch_grid(shape[:space], self.patch_size)
        self.rate = rate
        self.adaln = adaln
        if vocabulary is not None and max(self.patch_size) > 1:
            raise ValueError(f"`patch_size` is for latents: ids are not joined. Received: {patch_size}")
        if adaln and (vocabulary is None or self.num_tokens * self.num_codes > 1):
            raise ValueError(f"`adaln` is for a single id, as a label is. Received: shape {shape}")
        if rate is not None and not 0 < rate < math.inf:
            raise ValueError(f"`rate` is positive and finite, tokens per second. Received: {rate}")

    @property
    def num_tokens(self):
        return math.prod(self.grid)

    @property
    def num_codes(self):
        """Ids of one token."""
        return 1 if self.vocabulary is None else math.prod(self.shape[len(self.grid) :])

    @property
    def channels(self):
        """Numbers that the network says of one token."""
        if self.vocabulary is None:
            return math.prod(self.patch_size) * self.shape[-1]
        return self.num_codes * self.vocabulary

    def spread(self, flags):
        """Flags or numbers of tokens (b, n), as such that broadcast over what they hold, (b, *shape)."""
        flags = ops.reshape(flags, (-1, *self.grid, *[1] * (len(self.shape) - len(self.grid))))
        for axis, size in enumerate(self.patch_size, 1):
            flags = ops.repeat(flags, size, axis=axis) if size > 1 else flags
        return flags

    def flags(self, flags, name):
        """Flags of rows or tokens, bool (b,), (b, 1) or (b, *grid), a tensor or numpy, as (b, 1) or (b, n).

        Raises:
            ValueError: on another shape, or what is not bool.
        """
        shape, dtype = tuple(flags.shape[1:]), keras.backend.standardize_dtype(flags.dtype)
        if dtype != "bool" or shape not in ((), (1,), self.grid):
            raise ValueError(
                f"{name} is bool of shape (b,), or (b, {', '.join(map(str, self.grid))}) for each token. "
                f"Received: {tuple(flags.shape)} {dtype}"
            )
        return ops.reshape(flags, (-1, self.num_tokens if shape == self.grid else 1))

    def coordinates(self, unit_rate):
        """Where the tokens lie, (n, 3) float64: time in steps of 1 / unit_rate seconds, y and x in tokens."""
        places = np.zeros((self.num_tokens, 3))
        places[:, AXES[len(self.grid)]] = grid_coordinates(self.grid)
        if self.rate is not None:
            places[:, 0] *= unit_rate / self.rate
        return places
