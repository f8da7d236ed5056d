"""Training: the one model base of the package, with its one `train_step`, for TensorFlow, JAX and PyTorch.

What it adds to `keras.Model`, whose `predict` stays as it is, and `fit` and `evaluate` but for checks of their data:

* several float32 moving averages of the weights, at different decays; the first one is used by `evaluate`;
* a step whose loss or gradient is not finite changes neither weights, optimizer nor averages, and is counted;
* the gradient norm and every named loss in the progress bar.

Losses are computed in `compute_loss`, so that a wrapper that replaces the step (differential privacy, distillation)
keeps working. Besides this file only `distribution.py`, `serving.py` and `data/prepared.py` name a backend.
"""

import keras
import numpy as np
from keras import ops

from keras_mmai.averages import WeightAverage
from keras_mmai.distribution import UntunedData


def gradient_norm(gradients):
    """Euclidean norm over a list of gradients (None entries are skipped), a float32 scalar."""
    squares = [ops.sum(ops.square(ops.cast(g, "float32"))) for g in gradients if g is not None]
    return ops.sqrt(sum(squares[1:], squares[0]))


class TrainingModel(UntunedData, keras.Model):
    """Base of every model of the package that is trained with `fit`.

    A subclass builds its layers, ends `build` with `self.build_averages()` and returns its losses by name from
    `named_losses`.

    Args:
        loss_names: strings, the names of `named_losses` that the progress bar shows.
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
        """Starts the averages of what is trainable now. They follow these weights also if some are frozen later."""
        variables = tuple(self.trainable_variables)
        self._followed = lambda: variables  # a function, since Keras would save a list of weights twice
        for average in self.averages:
            average.start(variables)

    def averaged_weights(self, variables, index=0):
        """Each of `variables` by moving average number `index`, float32, or as it is if no average follows it."""
        if not self.averages:
            return list(variables)
        if not 0 <= index < len(self.averages):
            raise ValueError(
                f"`index` must be one of 0..{len(self.averages) - 1} (ema_decays={self.ema_decays}). "
                f"Received: index={index}"
            )
        average_of = dict(zip(map(id, self._followed()), self.averages[index].average))
        return [average_of.get(id(variable), variable) for variable in variables]

    def assign_averages(self, index=0):
        """Replaces the weights by moving average number `index`, for good: for use after training."""
        for variable, average in zip(self._followed(), self.averaged_weights(self._followed(), index)):
            variable.assign(ops.copy(ops.cast(average, variable.dtype)))

    def compile(self, *args, **kwargs):
        """Keras' own, but weight decay leaves out what it would spoil, such as the codes of a codebook."""
        super().compile(*args, **kwargs)
        optimizer = getattr(self.optimizer, "inner_optimizer", self.optimizer)  # of a LossScaleOptimizer
        decayed = [v for v in self.weights if not getattr(v, "decays", True) and optimizer._use_weight_decay(v)]
        if decayed:
            before = [v for v in self.weights if not optimizer._use_weight_decay(v)]  # which the call below forgets
            optimizer.exclude_from_weight_decay(var_list=before + decayed)

    def compile_from_config(self, config):  # which Keras refuses to a model with a `compile` of its own
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def load_weights(self, *args, **kwargs):
        """Keras' own, but a file that does not fit changes nothing."""
        before = [(v, ops.copy(v.value)) for v in self.variables]
        try:
            super().load_weights(*args, **kwargs)
        except Exception:
            for variable, value in before:
                variable.assign(value)
            raise

    def named_losses(self, x, y_pred):
        """Returns {name: loss (b,) or ()} of one batch; their sum, with layers' own losses, is minimised.

        A loss may be a pair with float (b,): 1 for the examples that its mean over the batch is the mean over, else 0.
        """
        raise NotImplementedError

    def get_metrics_result(self):
        """Keras' own, but the mean loss of no finite step at all is NaN and not 0."""
        logs = super().get_metrics_result()
        for metric in self.metrics:
            if metric.name in ("loss", *self.trackers):
                logs[metric.name] = ops.where(metric.count > 0, logs[metric.name], float("nan"))
        logs["skipped_steps"] = logs["skipped_steps"] + 0.0  # on PyTorch the variable itself, which validation resets
        return logs

    def track(self, name, value, weight=1.0):
        """Adds a scalar to the mean shown as `name`; a value that is not finite is left out."""
        finite = ops.isfinite(value)
        self.trackers[name].update_state(
            ops.where(finite, value, 0.0), sample_weight=ops.where(finite, ops.cast(weight, "float32"), 0.0)
        )

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        total = 0.0
        for name, loss in self.named_losses(x, y_pred).items():
            loss, counted = loss if isinstance(loss, tuple) else (loss, None)
            loss = ops.cast(loss, "float32")
            examples = batch_size(x) if counted is None else ops.sum(counted)
            if sample_weight is not None and len(loss.shape) == 1:
                weight = ops.reshape(ops.cast(sample_weight, "float32"), (-1,))
                loss = loss * weight
                if counted is not None:  # else what has no weight would count
                    weighed = ops.sum(weight * counted)
                    loss = loss * ops.mean(weight) * examples / ops.where(weighed > 0, weighed, 1.0)
            loss = ops.mean(loss)
            if name in self.trackers:
                self.track(name, loss, examples)
            total = total + loss
        for loss in self.losses:
            total = total + ops.cast(loss, "float32")
        return total

    def check_values(self, x):
        """Raises ValueError if the numpy arrays `x` of a batch hold what the model can't take. For subclasses."""

    def fit(self, x=None, y=None, *args, **kwargs):
        """Keras' own, but values are checked, and the keyword `sample_weight` of arrays needs no `y`."""
        self._check_first(x)
        validation = kwargs.get("validation_data")
        if isinstance(validation, tuple | list) and len(validation) == 3:
            kwargs["validation_data"] = (validation[0], self._target(*validation), validation[2])
        return super().fit(x, self._target(x, y, kwargs.get("sample_weight")), *args, **kwargs)

    def make_train_function(self, *args, **kwargs):
        """Keras' own, but the optimizer's variables come first: TensorFlow traces a step that makes any once more."""
        variables = self.trainable_variables
        if keras.backend.backend() == "tensorflow" and variables and not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(variables)
        return super().make_train_function(*args, **kwargs)

    def evaluate(self, x=None, y=None, *args, **kwargs):
        """Keras' own, but times, noise and tasks are drawn as in every other call, so that epochs can be compared."""
        self._check_first(x)
        y = self._target(x, y, kwargs.get("sample_weight"))
        generator = getattr(self, "seed_generator", None)
        if generator is None:
            return super().evaluate(x, y, *args, **kwargs)
        before = ops.copy(generator.state.value)
        generator.state.assign(ops.convert_to_tensor([0, 2**30], dtype=before.dtype))  # which no training reaches
        try:
            return super().evaluate(x, y, *args, **kwargs)
        finally:
            generator.state.assign(before)

    def _target(self, x, y, sample_weight):
        """`y`; of arrays without one the weights stand for it, since Keras ignores weights that have no `y`."""
        if y is not None or sample_weight is None or not (isinstance(x, dict) or hasattr(x, "shape")):
            return y
        if self._compile_metrics is not None:
            raise ValueError("Metrics of `compile` need a `y`. Received: y=None, with a `sample_weight`")
        return sample_weight

    def _check_first(self, x):
        """Looks at values, which a compiled step can't: at all of arrays, and at the first batch of a PyDataset."""
        if isinstance(x, keras.utils.PyDataset):
            x, _, _ = keras.utils.unpack_x_y_sample_weight(x[0])
        leaves = keras.tree.flatten(x)
        if leaves and all(isinstance(leaf, np.ndarray) for leaf in leaves):
            self.check_values(x)

    # The step, once for the three backends: a backend's own part is how it differentiates and where state lives.

    def train_step(self, *args):
        if self.loss is not None:
            raise ValueError(
                f"{type(self).__name__} has losses of its own ({', '.join(self.trackers)}): leave `loss` out of "
                f"`compile`, or override `named_losses`. Received: loss={self.loss!r}"
            )
        if not self.trainable_variables:
            raise ValueError(
                f"{self.name} has nothing to train: all its weights are frozen. A `DiffusionTransformer` freezes its "
                "tokenizer; set `trainable = True` to train that again."
            )
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
            average.update(self._followed(), updates, moved)
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
        variables = [*self.trainable_variables, *self.non_trainable_variables]
        value_of = dict(zip(map(id, variables), [*trainable, *non_trainable]))
        averaged = [
            value_of[id(a)] if a is v else ops.cast(value_of[id(a)], v.dtype)
            for a, v in zip(self.averaged_weights(variables), variables)
        ]
        weights, before = averaged[: len(trainable)], averaged[len(trainable) :]
        logs, (_, after, metrics) = super().test_step((weights, before, metrics), data)
        after = [value if new is old else new for value, old, new in zip(non_trainable, before, after)]
        return logs, (trainable, after, metrics)

    def _call_averaged(self, x):
        """The forward pass at `training=False` by the first moving average, and the losses that layers added."""
        weights, before = (
            [a.value if a is v else ops.cast(a, v.dtype) for a, v in zip(self.averaged_weights(group), group)]
            for group in (self.trainable_variables, self.non_trainable_variables)
        )
        state = self.non_trainable_variables
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


def batch_size(x):
    """Leading length of the first array of a nested structure."""
    return ops.shape(keras.tree.flatten(x)[0])[0]
