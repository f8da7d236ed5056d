"""Training: the one model base of the package, with its one `train_step`, for TensorFlow, JAX and PyTorch.

What it adds to `keras.Model`, whose `fit`, `evaluate` and `predict` stay as they are:

* several float32 moving averages of the weights, at different decays; the first one is used by `evaluate`;
* a step whose loss or gradient is not finite changes neither weights, optimizer nor averages, and is counted;
* the gradient norm and every named loss in the progress bar.

Losses are computed in `compute_loss`, so that a wrapper that replaces the step (differential privacy, distillation)
keeps working. This file, `checkpoints/` and `serving.py` are the only places that name a backend.
"""

import ctypes
import os
import sys

import keras
from keras import ops

from keras_mmai.serialization import register

WARM_UP = 10.0

# TensorFlow's usual CPU allocator hands memory back to the system after every step and faults it in again in the next,
# which took up to half of a training step; this one of its allocators keeps it. It is read at TensorFlow's first op.
os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")


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


def gradient_norm(gradients):
    """Euclidean norm over a list of gradients (None entries are skipped), a float32 scalar."""
    squares = [ops.sum(ops.square(ops.cast(g, "float32"))) for g in gradients if g is not None]
    return ops.sqrt(sum(squares[1:], squares[0]))


class TrainingModel(keras.Model):
    """Base of every model of the package that is trained with `fit`.

    A subclass builds its layers, ends `build` with `self.build_averages()` and returns its losses by name from
    `named_losses`.

    Args:
        loss_names: strings, the names shown in the progress bar.
        ema_decays: floats in (0, 1), one moving average of the trainable weights each. `evaluate` and the validation
            of `fit` use the first.
        **kwargs: `name`, `dtype` and `trainable` of `keras.Model`.
    """

    def __init__(self, loss_names=(), ema_decays=(), **kwargs):
        super().__init__(**kwargs)
        self.autocast = False  # times and noise stay float32 under mixed precision; layers cast what they take
        self.ema_decays = tuple(ema_decays)
        self.averages = [WeightAverage(decay, name=f"average_{i}") for i, decay in enumerate(self.ema_decays)]
        self.trackers = {name: keras.metrics.Mean(name=name) for name in loss_names}
        self.gradient_norm = keras.metrics.Mean(name="gradient_norm")
        self.skipped_steps = keras.metrics.Sum(name="skipped_steps")

    def get_build_config(self):
        return None  # the constructor's arguments are enough: a loaded model builds itself

    def build_averages(self):
        for average in self.averages:
            average.start(self.trainable_variables)

    def averaged_weights(self, index=0):
        """The trainable weights by moving average number `index`, or as they are if there are no averages."""
        if not self.averages:
            return list(self.trainable_variables)
        if not 0 <= index < len(self.averages):
            raise ValueError(
                f"`index` must be one of 0..{len(self.averages) - 1} (ema_decays={self.ema_decays}). "
                f"Received: index={index}"
            )
        return list(self.averages[index].average)

    def named_losses(self, x, y_pred):
        """Returns {name: loss (b,) or ()} of one batch; their sum, with layers' own losses, is minimised."""
        raise NotImplementedError

    def track(self, name, value, weight=1.0):
        """Adds a scalar to the mean shown as `name`; a value that is not finite is left out."""
        finite = ops.isfinite(value)
        self.trackers[name].update_state(
            ops.where(finite, value, 0.0), sample_weight=ops.where(finite, ops.cast(weight, "float32"), 0.0)
        )

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        total = 0.0
        for name, loss in self.named_losses(x, y_pred).items():
            loss = ops.cast(loss, "float32")
            if sample_weight is not None and len(loss.shape) == 1:
                loss = loss * ops.cast(sample_weight, "float32")
            loss = ops.mean(loss)
            self.track(name, loss, batch_size(x))
            total = total + loss
        for loss in self.losses:
            total = total + ops.cast(loss, "float32")
        return total

    # The step, once for the three backends: a backend's own part is how it differentiates and where state lives.

    def train_step(self, *args):
        return {"tensorflow": self._train_tensorflow, "jax": self._train_jax, "torch": self._train_torch}[
            keras.backend.backend()
        ](*args)

    def _train_tensorflow(self, data):
        import tensorflow as tf

        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(x, y, y_pred, sample_weight, training=True)
            scaled_loss = self.optimizer.scale_loss(loss)
        variables = self.trainable_variables
        gradients = [None if g is None else tf.convert_to_tensor(g) for g in tape.gradient(scaled_loss, variables)]
        check = self._inspect(loss, gradients)

        def apply():
            self.optimizer.apply(gradients, variables)
            return True

        if self._optimizer_skips:
            apply()
        else:
            tf.cond(check["finite"], apply, lambda: False)
        return self._finish_step(loss, check, x, y, y_pred, sample_weight)

    def _train_torch(self, data):
        import torch

        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        self.zero_grad()
        y_pred = self(x, training=True)
        loss = self.compute_loss(x, y, y_pred, sample_weight, training=True)
        self.optimizer.scale_loss(loss).backward()
        variables = self.trainable_variables
        gradients = [v.value.grad for v in variables]
        with torch.no_grad():
            check = self._inspect(loss.detach(), gradients)
            if self._optimizer_skips or bool(check["finite"]):
                self.optimizer.apply(gradients, variables)
            return self._finish_step(loss.detach(), check, x, y, y_pred, sample_weight)

    def _train_jax(self, state, data):
        import jax

        trainable, non_trainable, optimizer, metrics = state
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        (_, (loss, y_pred, non_trainable, metrics)), gradients = jax.value_and_grad(
            self.compute_loss_and_updates, has_aux=True
        )(trainable, non_trainable, metrics, x, y, sample_weight, training=True, optimizer_variables=optimizer)
        with keras.StatelessScope(state_mapping=list(zip(self.optimizer.variables, optimizer))):
            check = self._inspect(loss, gradients)
        stepped = self.optimizer.stateless_apply(optimizer, gradients, trainable)
        if not self._optimizer_skips:
            before = (trainable, optimizer)
            stepped = jax.tree.map(lambda new, old: ops.where(check["finite"], new, old), stepped, before)
        trainable, optimizer = stepped

        groups = (
            self.trainable_variables,
            self.non_trainable_variables,
            self.optimizer.variables,
            self.metrics_variables,
        )
        values = (trainable, non_trainable, optimizer, metrics)
        mapping = [pair for group, value in zip(groups, values) for pair in zip(group, value)]
        with keras.StatelessScope(state_mapping=mapping) as scope:
            logs = self._finish_step(loss, check, x, y, y_pred, sample_weight)
        return logs, tuple([scope.get_current_value(v) for v in group] for group in groups)

    @property
    def _optimizer_skips(self):
        """A LossScaleOptimizer must see the overflow itself, to lower its scale."""
        return isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer)

    def _inspect(self, loss, gradients):
        """Before the step: the gradient's norm, whether all is finite, and the number of updates so far."""
        norm = gradient_norm(gradients) / ops.cast(self.optimizer.scale_loss(1.0), "float32")
        finite = ops.logical_and(ops.isfinite(norm), ops.isfinite(loss))
        return {"norm": norm, "finite": finite, "updates": ops.cast(self.optimizer.iterations, "int32") + 0}

    def _finish_step(self, loss, check, x, y, y_pred, sample_weight):
        norm, finite = check["norm"], check["finite"]
        updates = ops.cast(self.optimizer.iterations, "int32")
        # a skipped step is no update, nor is one that only accumulates gradients
        moved = updates > check["updates"]
        for average in self.averages:
            average.update(self.trainable_variables, updates, moved)
        weight = ops.where(finite, ops.cast(batch_size(x), "float32"), 0.0)
        self._update_loss_tracker(ops.where(finite, loss, 0.0), weight)
        self.gradient_norm.update_state(ops.where(finite, norm, 0.0), sample_weight=weight)
        self.skipped_steps.update_state(1.0 - ops.cast(finite, "float32"))
        return self.compute_metrics(x, y, y_pred, sample_weight)

    def _update_loss_tracker(self, loss, weight):
        next(metric for metric in self.metrics if metric.name == "loss").update_state(loss, sample_weight=weight)

    def test_step(self, *args):
        logs = (self._test_jax if keras.backend.backend() == "jax" else self._test_stateful)(*args)
        metrics = logs[0] if isinstance(logs, tuple) else logs
        for name in ("gradient_norm", "skipped_steps"):
            metrics.pop(name, None)
        return logs

    def _test_stateful(self, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        y_pred, self._losses_override = self._call_averaged(x)  # as Keras hands on the losses of a stateless call
        loss = self.compute_loss(x, y, y_pred, sample_weight, training=False)
        self._losses_override = []
        self._update_loss_tracker(loss, ops.cast(batch_size(x), "float32"))
        return self.compute_metrics(x, y, y_pred, sample_weight)

    def _test_jax(self, state, data):
        trainable, non_trainable, metrics = state
        value_of = {id(v): value for v, value in zip(self.non_trainable_variables, non_trainable)}
        averaged = trainable
        if self.averages:
            averaged = [
                ops.cast(value_of[id(a)], v.dtype) for a, v in zip(self.averaged_weights(), self.trainable_variables)
            ]
        logs, (_, non_trainable, metrics) = super().test_step((averaged, non_trainable, metrics), data)
        return logs, (trainable, non_trainable, metrics)

    def _call_averaged(self, x):
        """The forward pass at `training=False` by the first moving average, and the losses that layers added."""
        variables = self.trainable_variables
        weights = [ops.cast(a, v.dtype) for a, v in zip(self.averaged_weights(), variables)]
        state = self.non_trainable_variables
        before = [v.value for v in state]
        outputs, after, losses = self.stateless_call(weights, before, x, training=False, return_losses=True)
        for variable, old, new in zip(state, before, after):
            if new is not old:  # random state moves on, so that each batch sees its own noise
                variable.assign(new)
        return outputs, losses


def freeze(model):
    """Makes every weight of `model` non-trainable."""
    # Both assignments are needed: TensorFlow ignores one that repeats the value, and a model that was saved frozen
    # loads with the flag down and its layers still trainable.
    model.trainable = True
    model.trainable = False


def keep_freed_memory():
    """Makes glibc reuse freed memory instead of returning it to the system, which saves a tenth of a step on CPUs.

    For the whole process, and best called first: the memory that it once took stays with it. Does nothing elsewhere
    than on Linux with glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        arena_max, mmap_threshold, trim_threshold, top_pad = -8, -3, -1, -2  # malloc.h
        for option, value in ((arena_max, 1), (mmap_threshold, 2**30), (trim_threshold, 2**31 - 1), (top_pad, 2**28)):
            mallopt(option, value)


def batch_size(x):
    """Leading length of the first array of a nested structure."""
    return ops.shape(keras.tree.flatten(x)[0])[0]
