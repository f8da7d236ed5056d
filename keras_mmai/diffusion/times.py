"""Which noise levels to train on: uniform numbers to times, by the inverse of their distribution."""

import math

from keras import ops

from keras_mmai.serialization import Configurable, register

# Keeps t inside (0, 1) and the inverse normal finite; 1 - 1e-6 is still below 1 in float32.
_EDGE = 1e-6


def stratified(u, order=None):
    """One number per stratum of [0, 1): (i + u_i) / b for iid uniforms u (b,). -> (b,), still uniform together.

    Every batch then covers all noise levels, which lowers the variance of the loss (after Kingma et al. 2021, who
    shift one uniform number instead). The numbers rise along the batch: shuffle the data, not the times. Where a batch
    has several numbers for each example, give each of them another `order`, ints (b,), a permutation of 0..b-1.
    """
    u = ops.convert_to_tensor(u, "float32")
    size = ops.shape(u)[0]
    order = ops.arange(size) if order is None else order
    return (ops.cast(order, "float32") + u) / ops.cast(size, "float32")


class Times(Configurable):
    """A distribution of training times, given by its inverse distribution function."""

    def __call__(self, u):
        """u float32 in [0, 1), uniform, of any shape -> t float32 in (0, 1), of the same shape."""
        raise NotImplementedError


@register
class UniformTimes(Times):
    """t = u: every noise level alike (Ho et al. 2020)."""

    def __call__(self, u):
        return ops.clip(ops.convert_to_tensor(u, "float32"), _EDGE, 1 - _EDGE)


@register
class LogitNormalTimes(Times):
    """logit(t) ~ N(mean, std^2): more work at the middle levels (Esser et al. 2024, section 3.1).

    Args:
        mean: above 0 for more noise. log(s) is exactly the flow shift s of `uniform_times`.
        std: the smaller, the closer to sigmoid(mean).
    """

    def __init__(self, mean=0.0, std=1.0):
        if std <= 0:
            raise ValueError(f"LogitNormalTimes needs std > 0. Received: {std}.")
        self.mean = mean
        self.std = std

    def __call__(self, u):
        u = ops.clip(ops.convert_to_tensor(u, "float32"), _EDGE, 1 - _EDGE)
        normal = math.sqrt(2.0) * ops.erfinv(2 * u - 1)
        return ops.sigmoid(self.mean + self.std * normal)
