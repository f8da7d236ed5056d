"""Classifier-free guidance: away from what the network says without the conditions."""

from keras import ops

from keras_mmai.diffusion.schedules import expand_right
from keras_mmai.serialization import Configurable, register


@register
class ClassifierFreeGuidance(Configurable):
    """null + scale (cond - null), on every channel (Ho & Salimans 2022, equation 6, where scale = 1 + w).

    Args:
        scale: 1 = the conditional network alone, above 1 = stronger conditions.
        interval: times (low, high), both included, at which to guide (Kynkäänniemi et al. 2024). Outside, the second
            half of the batch is skipped.
    """

    def __init__(self, scale=1.0, interval=(0.0, 1.0)):
        low, high = interval
        if not 0 <= low < high <= 1:
            raise ValueError(f"interval must be two times 0 <= low < high <= 1. Received: {interval!r}.")
        self.scale = scale
        self.interval = (low, high)

    def __call__(self, network, x, t, conditions, null_conditions):
        """The guided output of a network.

        Args:
            network: (x (b, …), t, conditions) -> output (b, …). Called once, with b or 2 b rows.
            x: (b, …).
            t: () or (b,), float32 in [0, 1].
            conditions: dict of tensors (b, …); when empty there is nothing to guide by.
            null_conditions: the same keys and shapes, for "no condition".

        Returns:
            (b, …) float32.
        """

        def plain():
            return ops.cast(network(x, t, conditions), "float32")

        def guided(weight):
            both = {name: _double(value, null_conditions[name]) for name, value in conditions.items()}
            output = network(_double(x, x), _double(t, t) if len(t.shape) else t, both)
            cond, null = ops.split(ops.cast(output, "float32"), 2, axis=0)
            return cond + weight * (cond - null)

        if set(conditions) != set(null_conditions):
            raise ValueError(
                f"conditions and null_conditions need the same keys. Received: {sorted(conditions)} and "
                f"{sorted(null_conditions)}."
            )
        t = ops.convert_to_tensor(t, "float32")
        if self.scale == 1 or not conditions:
            return plain()
        if self.interval == (0, 1):
            return guided(self.scale - 1)
        low, high = self.interval
        inside = ops.logical_and(t >= low, t <= high)
        weight = expand_right(ops.where(inside, self.scale - 1.0, 0.0), x)
        return ops.cond(ops.any(inside), lambda: guided(weight), plain)


def _double(cond, null):
    return ops.concatenate([ops.convert_to_tensor(cond), ops.convert_to_tensor(null)], axis=0)
