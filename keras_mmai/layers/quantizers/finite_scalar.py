"""Finite scalar quantization: a grid instead of a codebook (Mentzer, Minnen, Agustsson & Tschannen 2023).

Channel i is bounded to (-L_i / 2, L_i / 2) by a tanh and rounded to one of L_i levels (their eq. 1 and appendix A.1);
rounding is passed over by the gradient. The code counts the levels with the first channel fastest.

Where the tanh is flat its own gradient vanishes, and latents that all went there, as those of a data set far from its
mean do in the first steps, would keep one code for ever. So a gradient that leads back, towards 0, is multiplied by at
least 0.1; one that leads further out by the slope, as in the paper.
"""

import math

import numpy as np
from keras import ops

from keras_mmai import noise
from keras_mmai.layers.quantizers.quantizer import Quantizer, check_vocabulary, straight_through
from keras_mmai.serialization import register

LEAST_SLOPE = 0.1
MARGIN = 1e-3  # the tanh reaches a little further than the outermost level
MOST_LEVELS = 1000  # more, and it would reach the next


@register
class FiniteScalarQuantizer(Quantizer):
    """A fixed grid of prod(levels) codes, without a codebook or losses.

    Call, outputs and masks: see `Quantizer`. Codes are vectors in [-1, 1] ** len(levels).

    Args:
        levels: ints in 2..1000, the number of values of each channel. (8, 8, 8) has 512 codes, (8, 5, 5, 5) has
            1,000, (8, 8, 8, 5, 5, 5) 64,000.
        embedding_dim: int, width of the latents; None is len(levels). Another width is projected.

    Raises:
        ValueError: on no level, a level out of range, more than 2**24 codes, or latents of another width.
    """

    def __init__(self, levels=(8, 5, 5, 5), embedding_dim=None, **kwargs):
        levels = tuple(int(level) for level in levels)
        if not levels or min(levels) < 2 or max(levels) > MOST_LEVELS:
            raise ValueError(f"`levels` are one or more ints in 2..{MOST_LEVELS}. Received: {levels}")
        check_vocabulary(math.prod(levels), f"levels={levels}")
        super().__init__(embedding_dim or len(levels), len(levels), **kwargs)
        self.levels = levels
        self.vocabulary = math.prod(levels)

    def encode_rows(self, rows, valid, leading_shape, training):
        bounded, half = self._bound(rows)
        digits = ops.round(bounded)
        codes = self._join(ops.cast(digits + half, "int32"))
        if training:
            self.track_use(codes, valid)
        return straight_through(bounded / half, digits / half), codes, {}

    def _bound(self, rows):
        """The rows where a level is an integer, and the integer that becomes 1."""
        levels = np.array(self.levels)
        reach = (levels - 1) * (1 + MARGIN) / 2
        offset = np.where(levels % 2 == 1, 0.0, 0.5)  # an even number of levels has none in the middle
        reach, offset, shift, half = (constant(c) for c in (reach, offset, np.arctanh(offset / reach), levels // 2))
        return bounding(rows + shift) * reach - offset, half

    def sample_rows(self, rows, seed, temperature):
        most, half = max(self.levels), np.array(self.levels)[:, None] // 2
        places = np.arange(most)
        grid = constant((places - half) / half)
        missing = constant(np.where(places < np.array(self.levels)[:, None], 0.0, -1e38))
        score = missing - ops.square(self.compared(rows)[:, :, None] - grid) / temperature
        digits = ops.argmax(score + noise.gumbel(seed, (len(self.levels), most)), axis=-1)
        return self._join(ops.cast(digits, "int32"))

    def compared(self, rows):
        bounded, half = self._bound(rows)
        return bounded / half

    def _join(self, digits):
        basis = np.cumprod([1, *self.levels[:-1]])
        return ops.sum(digits * ops.convert_to_tensor(basis, dtype="int32"), axis=-1)

    def lookup_rows(self, codes):
        levels, basis = (
            ops.convert_to_tensor(n, dtype="int32") for n in (self.levels, np.cumprod([1, *self.levels[:-1]]))
        )
        digits = (codes[:, None] // basis) % levels
        half = levels // 2
        return ops.cast(digits - half, "float32") / ops.cast(half, "float32")


def bounding(x):
    """tanh, with a gradient that leads back where it is flat."""

    @ops.custom_gradient
    def tanh(x):
        y = ops.tanh(x)

        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            slope = 1.0 - ops.square(y)
            return upstream * ops.where(upstream * y > 0.0, ops.maximum(slope, LEAST_SLOPE), slope)

        return y, gradient

    return tanh(x)


def constant(values):
    return ops.convert_to_tensor(values, dtype="float32")
