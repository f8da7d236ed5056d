"""Exponential moving averages of weights."""

import keras
from keras import ops

from keras_mmai.serialization import register

WARM_UP = 10.0


@register
class WeightAverage(keras.layers.Layer):
    """An exponential moving average of a list of variables, kept in float32 whatever their dtype.

    `average <- average + (1 - d) (weight - average)`, with `d = min(decay, (1 + n) / (10 + n))` after n updates, so
    that a short training is not held back by its initial weights.

    Args:
        decay: float in (0, 1).
    """

    def __init__(self, decay, **kwargs):
        super().__init__(**kwargs)
        if not 0.0 < decay < 1.0:
            raise ValueError(f"`decay` must lie strictly between 0 and 1. Received: decay={decay}")
        self.decay = decay

    def start(self, variables):
        """Creates the averages, equal to what `variables` are now."""
        self.average = [
            self.add_weight(
                shape=variable.shape,
                initializer="zeros",
                trainable=False,
                autocast=False,
                dtype="float32",
                name=f"average_{i}",
            )
            for i, variable in enumerate(variables)
        ]
        self.built = True
        self.reset(variables)

    def reset(self, variables):
        """Starts again from the values that `variables` have now."""
        for average, variable in zip(self.average, variables):
            average.assign(ops.cast(variable, "float32") + 0.0)  # a copy: an alias breaks buffer donation on JAX

    def update(self, variables, num_updates, active):
        """One step towards `variables`; none where the boolean scalar `active` is false."""
        n = ops.cast(num_updates, "float32")
        rate = 1.0 - ops.minimum(self.decay, (1.0 + n) / (WARM_UP + n))
        rate = ops.where(active, rate, 0.0)
        for average, variable in zip(self.average, variables):
            average.assign_add(rate * (ops.cast(variable, "float32") - average))
